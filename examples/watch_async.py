#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Watch several directories in one event loop, without a thread.

usage: watch_async.py DIRECTORY...
"""

import asyncio
import contextlib
import sys

from pyduet import Device, DuetError, Mask, Task


async def watch(task: Task) -> None:
    """Print what happens below one directory, until cancelled."""
    async for item in task:
        try:
            path = task.path_of(item.file)
        except DuetError as error:
            path = f"({error})"
        print(f"{task.path}: {item.state:16} {item.index}+{item.pages} {path}", flush=True)


async def main(directories: list[str]) -> None:
    """Watch all of them, side by side."""
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(Device())
        mask = Mask.EXISTS | Mask.MODIFIED
        tasks = [stack.enter_context(device.register(path, mask)) for path in directories]
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(watch(task))


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
