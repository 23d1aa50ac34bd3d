# SPDX-License-Identifier: MIT
"""Processors that go and come back, of which each counts by itself."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from actions import evict, read_page
from conftest import EVENTS, STATES, counter
from test_limits import store, tight
from test_unmount import Disk
from truth import Watch, drop_caches, fill

from pyduet import Device, DuetError

#: Processor 1, the first that may go.
ONLINE = Path("/sys/devices/system/cpu/cpu1/online")
ROUNDS = 12
pytestmark = pytest.mark.kernel_with(ONLINE)
COUNTERS = ("files", "nodes", "bytes")


@pytest.fixture(autouse=True)
def back_again() -> Iterator[None]:
    """All processors are there after a test."""
    yield
    ONLINE.write_text("1")


@contextlib.contextmanager
def on_processor(number: int) -> Iterator[None]:
    """Run here, and so have the probes run here of what this thread does."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def test_no_processor_keeps_room_from_another(device: Device, place: Path) -> None:
    """What one took of the limit ahead of its files is there for the others, to the last byte."""
    paths = [fill(place / f"tree/{i}", 1) for i in range(201)]
    drop_caches()
    try:
        with device.register(place / "tree", EVENTS) as task, tight(device, 200):
            info = device.info()
            # More than a processor takes at a time, or there would be nothing to see.
            assert info.limit - info.bytes > 2 * (32 << 10)
            with on_processor(1):
                read_page(paths[0], 0)
            with on_processor(0):
                for path in paths[1:200]:
                    read_page(path, 0)
                after = device.info()
                assert after.files == info.files + 200
                assert (after.bytes, after.drops) == (after.limit, info.drops)
                read_page(paths[200], 0)
                assert device.info().drops != info.drops
            assert len(Watch(task).read()) == 201  # and an overflow
    finally:
        store("limit_bytes", 0)


def test_what_a_processor_had_is_there_when_it_is_gone(device: Device, place: Path) -> None:
    """Files and nodes come on a processor that goes, and go on another."""
    paths = [fill(place / f"tree/{i}", 70) for i in range(50)]
    drop_caches()
    watch = Watch(device.register(place / "tree", STATES))
    with on_processor(1):
        for path in paths:
            read_page(path, 0)
            read_page(path, 69)
    info = device.info()
    expected = [50, 100, 50 * (info.file_bytes + info.node_bytes)]
    assert [counter(name) for name in COUNTERS] == expected
    ONLINE.write_text("0")
    assert [counter(name) for name in COUNTERS] == expected
    watch.read()
    for path in paths[10:]:
        evict(path)
    watch.read()
    drop_caches()
    watch.read()
    assert counter("nodes") == 0
    watch.task.close()
    device.stop()
    assert [counter(name) for name in COUNTERS] == [0, 0, 0]


def test_all_ends_at_once(device: Device, place: Path) -> None:
    """A processor goes, a file system is unmounted, and Duet is switched off, in any order.

    Truth: the debug kernel, which says whether locks could ever wait for each other.
    """
    disk = Disk(place)
    disk.unmount()
    for i in range(20):
        fill(place / f"tree/{i}", 3)
    over = threading.Event()

    def hotplug() -> None:
        for i in range(2 * ROUNDS):
            ONLINE.write_text(str(i % 2))

    def unmount() -> None:
        disk.mount()
        # Off, or another is just beginning.
        with contextlib.suppress(DuetError), device.register(disk.tree, STATES):
            fill(disk.tree / "file", 3, sync=False)
            (disk.tree / "link").hardlink_to(disk.tree / "file")  # has Duet hear of opens
            disk.unmount()
        if disk.where.is_mount():
            disk.unmount()
        disk.mount()
        for path in disk.tree.iterdir():
            path.unlink()
        disk.unmount()

    def switch() -> None:
        with contextlib.suppress(DuetError):
            device.stop()
        with contextlib.suppress(DuetError):
            device.start()

    def register() -> None:
        with contextlib.suppress(DuetError), device.register(place / "tree", EVENTS) as task:
            for path in (place / "tree").iterdir():
                path.write_bytes(b"x" * 10_000)
            Watch(task).read()

    def again(act: Callable[[], None]) -> int:
        rounds = 0
        while not over.is_set():
            act()
            rounds += 1
        return rounds

    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(again, act) for act in (unmount, switch, register)]
        try:
            hotplug()
        finally:
            over.set()
        assert all(other.result() for other in others)
