# SPDX-License-Identifier: MIT
"""Waiting in an event loop. The one module that imports asyncio: only who awaits pays for it."""

import asyncio
import select


async def readable(*fds: int) -> None:
    """Wait until one of some descriptors is readable, or was hung up.

    A loop knows one reader of a descriptor, and that may be the application's.
    So the loop is given a descriptor that stands for these (epoll(7)) and is
    nobody else's.

    Args:
        fds: descriptors that stay open meanwhile.

    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    with select.epoll(len(fds)) as poll:
        for fd in fds:
            poll.register(fd, select.EPOLLIN)
        loop.add_reader(poll, tell)
        try:
            await ready
        finally:
            loop.remove_reader(poll)
