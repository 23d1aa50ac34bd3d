# SPDX-License-Identifier: MIT
"""Waiting in an event loop. The one module that imports asyncio: only who awaits pays for it."""

import asyncio


async def readable(*fds: int) -> None:
    """Wait until one of some descriptors is readable, or was hung up.

    Args:
        fds: descriptors that nobody else in this loop waits for, and that stay
            open meanwhile.

    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    for fd in fds:
        loop.add_reader(fd, tell)
    try:
        await ready
    finally:
        for fd in fds:
            loop.remove_reader(fd)
