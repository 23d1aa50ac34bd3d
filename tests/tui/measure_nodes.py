#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whether the screen of the hash table stays smooth with a million nodes.

usage: measure_nodes.py [NODES]

In the lab it makes NODES nodes, a million unless told: a task that reads nothing is told of every
64th page of a sparse file. Elsewhere the table is made up, to measure the screen alone.

    tests/vm/lab run --fs ext4 --smp 2 --mem 4096 --timeout 3000 -- \\
        env PYTHONPATH=tui python tests/tui/measure_nodes.py

For each thing that is done with the table it tells how long it took, and the longest time that the
event loop did nothing else meanwhile: for so long no key was answered. The last column is the
processor time of that: what others take of a busy machine is not in it.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from duet_tui.app import DuetApp
from duet_tui.backend import Backend
from duet_tui.live import Live
from duet_tui.screens.buckets import BucketsScreen
from large import Large
from pilot import screen, text
from textual.pilot import Pilot

from pyduet import DEFAULT_DEVICE, Device, Mask

_PLACE = "/mnt/duet/sparse"
_PAGE, _RUN = 4096, 64
#: Pages of the file that stay cached, so that a machine of any size can have the nodes.
_KEPT = 100_000


class Watchdog:
    """Finds the longest time, and processor time, that the event loop was away."""

    def __init__(self) -> None:
        self.longest = self.busiest = 0.0

    async def run(self) -> None:
        last, used = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            now, using = time.perf_counter(), time.thread_time()
            self.longest = max(self.longest, now - last)
            self.busiest = max(self.busiest, using - used)
            last, used = now, using


@contextlib.contextmanager
def made(nodes: int) -> Iterator[Path]:
    """Make nodes in the driver: a node is for 64 pages."""
    path = Path(_PLACE)
    path.mkdir(exist_ok=True)
    file = path / "file"
    with file.open("wb") as sparse:
        sparse.truncate(nodes * _RUN * _PAGE)
    with Device() as device:
        if device.is_on():
            device.stop()
        device.set_limits(limit=1 << 30, task_limit=1 << 30)
        device.start(1)
        with device.register(path, Mask.ADDED, name="reads nothing"):
            fd = os.open(file, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
            begin = time.monotonic()
            for node in range(nodes):
                os.pread(fd, 1, node * _RUN * _PAGE)
                if node % _KEPT == _KEPT - 1:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    print(f"{node + 1:,} nodes after {time.monotonic() - begin:.0f} s", flush=True)
            os.close(fd)
            yield file


@asynccontextmanager
async def step(name: str) -> AsyncIterator[None]:
    """Measure what is done in the ``with`` statement."""
    watchdog, begin = Watchdog(), time.perf_counter()
    watching = asyncio.create_task(watchdog.run())
    try:
        yield
    finally:
        seconds = time.perf_counter() - begin
        await asyncio.sleep(0)
        watching.cancel()
        longest, busiest = 1000 * watchdog.longest, 1000 * watchdog.busiest
        print(f"{name:34}{seconds:8.2f} s {longest:8.0f} ms {busiest:8.0f} ms", flush=True)


async def seen(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    end = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < end, text(pilot.app)
        await asyncio.sleep(0.005)


def shown(app: DuetApp) -> BucketsScreen:
    assert isinstance(app.screen, BucketsScreen)
    return app.screen


async def look(backend: Backend, path: str) -> None:
    async with screen(backend, (120, 40)) as (app, pilot):
        print(f"{'':34}{'took':>10} {'blocked':>11} {'processor':>11}")
        async with step("nothing, on the first screen"):
            await asyncio.sleep(3)
        async with step("the table is opened and drawn"):
            await pilot.press("3")
            await seen(pilot, lambda: "a cell is" in text(app))
        print("\n".join(line for line in text(app).splitlines() if " nodes" in line))
        async with step("the cursor moves while it is read"):
            await pilot.press("r")
            await pilot.press(*["right"] * 20)
        async with step("ten seconds go by"):
            await asyncio.sleep(10)
        async with step("a cell is opened"):
            await pilot.press("enter")
            await seen(pilot, lambda: isinstance(app.screen, BucketsScreen) and shown(app).nodes)
        async with step("its rows are gone through"):
            await pilot.press(*["down"] * 20, *["pagedown"] * 5, "end")
        async with step("the next one is opened"):
            before = shown(app).nodes
            await pilot.press("n")
            await seen(pilot, lambda: shown(app).nodes is not before and shown(app).nodes)
        print(text(app).splitlines()[1])
        await pilot.press("escape")
        async with step("all of the table is looked through"):
            await pilot.press("f", *path, "enter")
            await seen(pilot, lambda: isinstance(app.screen, BucketsScreen))
            await seen(pilot, lambda: "all of the table" in text(app))
        print(text(app).splitlines()[1])


def main() -> None:
    if os.path.exists(DEFAULT_DEVICE):
        nodes = int(sys.argv[1]) if sys.argv[1:] else 1_000_000
        with made(nodes) as path:
            asyncio.run(look(Live(DEFAULT_DEVICE), str(path)))
    else:
        asyncio.run(look(Large(), "7:1"))


if __name__ == "__main__":
    main()
