# SPDX-License-Identifier: MIT
"""Waiting for the real driver in an event loop: several tasks, cancellation, close, the end."""

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from asleep import wait_until_asleep
from conftest import STATES, eventually
from truth import drop_caches, fill, identity

from pyduet import Device, OffError, Task

EXAMPLES = Path(__file__).parents[2] / "examples"


async def first(task: Task, path: Path) -> tuple[int, int]:
    """Return the first index and the end of what is told of a file, as far as it is one item."""
    async for item in task:
        if (item.file.ino, item.file.generation) == identity(path):
            return item.index, item.end
    raise AssertionError("the stream ended")


def test_two_tasks_in_one_loop(device: Device, place: Path) -> None:
    """Each is told which pages of its file, and no thread is started."""
    files = [fill(place / name / "file", pages) for name, pages in (("tree", 3), ("out", 5))]
    drop_caches()

    async def main() -> list[tuple[int, int]]:
        with (
            device.register(place / "tree", STATES, ranges=True) as one,
            device.register(place / "out", STATES, ranges=True) as other,
        ):
            both = asyncio.gather(first(one, files[0]), first(other, files[1]))
            await asyncio.sleep(0.1)  # until both wait
            for file in files:
                file.read_bytes()
            return await asyncio.wait_for(both, 120)

    before = threading.active_count()
    assert asyncio.run(main()) == [(0, 3), (0, 5)]
    assert threading.active_count() == before


def test_cancelling_and_closing(device: Device, place: Path) -> None:
    """Cancelling leaves the task and its news; closing ends the loop, without an error."""
    path = fill(place / "tree/file", 2)
    drop_caches()

    async def drain(task: Task) -> int:
        return sum([item.pages async for item in task])

    async def main() -> int:
        task = device.register(place / "tree", STATES)
        waiting = asyncio.create_task(drain(task))
        await asyncio.sleep(0.1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        path.read_bytes()
        again = asyncio.create_task(drain(task))
        await asyncio.sleep(0.5)
        task.close()
        return await asyncio.wait_for(again, 120)

    assert asyncio.run(main()) == 2
    assert eventually(lambda: device.tasks() == [])


def test_switching_off_wakes_the_loop(device: Device, place: Path) -> None:
    """Who awaits a task when Duet is switched off is told so."""

    async def main() -> None:
        with device.register(place / "tree", STATES) as task:
            waiting = asyncio.create_task(anext(aiter(task)))
            await asyncio.sleep(0.1)
            device.stop()
            with pytest.raises(OffError):
                await asyncio.wait_for(waiting, 120)

    asyncio.run(main())


def test_the_example(device: Device, place: Path) -> None:
    """The asyncio watcher of examples/ prints what happens in both directories, till Ctrl-C."""
    files = [fill(place / name / "file", 2) for name in ("tree", "out")]
    drop_caches()
    with subprocess.Popen(
        [sys.executable, EXAMPLES / "watch_async.py", place / "tree", place / "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        assert eventually(lambda: len(device.tasks()) == 2)
        for file in files:
            file.read_bytes()
            told: list[int] = []
            while len(told) < 2:  # it may look when only one is there yet
                where, state, pages, path = process.stdout.readline().split()
                assert (where, state, path) == (f"{file.parent}:", "added", str(file))
                first, number = map(int, pages.split("+"))
                told += range(first, first + number)
            assert told == [0, 1]
        wait_until_asleep(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
        assert process.wait(120) == 130
