# SPDX-License-Identifier: MIT
"""The comparison of table and page cache that ends every test here: does it see, may it be asked.

That it finds what is wrong can only be seen with a driver that is wrong; what
it looks at is counted here.
"""

import contextlib
import os
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import EVENTS, STATES, SYSFS, counter
from invariant import CHECK, look
from ordinary import ANNA, become, in_child
from truth import Watch, fill

from pyduet import Device, Mask, State

Register = Callable[..., Watch]


def test_sees_every_run(watch: Register, place: Path) -> None:
    """What was cached before, and what came since, clean and dirty, read and not read."""
    before = fill(place / "tree/before", 3)
    one = watch(place / "tree")
    assert look()[1:4] == (1, 1, 0)
    fill(place / "tree/since", 130, sync=False)
    fill(place / "out/elsewhere", 3)
    assert look()[1:4] == (2, 1 + 3, 0)
    one.read()
    assert look()[1:4] == (2, 1 + 3, 0)
    os.sync()
    assert look()[1:4] == (2, 1 + 3, 0)
    with before.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    # The node is there until the task has read that the pages are not.
    assert look()[1:4] == (2, 1 + 3, 0)
    one.read()
    assert look()[1:4] == (1, 3, 0)


def test_looks_through_all_pages(watch: Register, place: Path) -> None:
    """A run far behind a hole, and runs that are cached in part."""
    path = place / "tree/sparse"
    with path.open("wb") as file:
        for run in (0, 1, 500, 100_000):
            file.seek(run << 18)
            file.write(b"x" * 5000)
    watch(place / "tree")
    assert look()[1:4] == (1, 4, 0)


def test_events_are_compared_with_nothing(watch: Register, place: Path) -> None:
    """Nothing tells whether what happened did happen."""
    watch(place / "tree", EVENTS)
    fill(place / "tree/file", 3)
    assert look()[1:] == (0, 0, 0, 0, 0)


def test_presence_alone(watch: Register, place: Path) -> None:
    """What is dirty nobody keeps up where nobody asks for it."""
    path = fill(place / "tree/file", 3)
    watch(place / "tree", Mask.EXISTS)
    with path.open("r+b") as file:
        file.write(b"x")
    assert look()[1:4] == (1, 1, 0)


def test_what_did_not_fit_is_put_off(device: Device, place: Path) -> None:
    """The task was told that it was not told all; the table does not pretend to be right."""
    with (place / "tree/file").open("wb") as file:
        for run in range(200):
            file.seek(run << 18)
            file.write(b"x" * 5000)
    limit = SYSFS / "limit_bytes"
    limit.write_text(str(30 * device.info().file_bytes))
    try:
        with device.register(place / "tree", STATES) as task:
            items = Watch(task).read()
            assert [item for item in items if State.OVERFLOW in item.state] != []
            found = look()
            assert (found.lines, found.put_off) == (frozenset(), 200)
    finally:
        limit.write_text("0")


def test_off(device: Device) -> None:
    """There is no table to look at."""
    assert look()[1:] == (0, 0, 0, 0, 0)
    device.stop()
    assert look()[1:] == (0, 0, 0, 0, 0)


def test_is_for_root() -> None:
    """It tells of files that not everybody may know of."""
    status = CHECK.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o400, 0)

    def ask() -> str:
        become(ANNA)
        return CHECK.read_text()

    with pytest.raises(PermissionError):
        in_child(ask)


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Look all the time, from two threads."""
    over = threading.Event()

    def look_on() -> int:
        looks = 0
        while not over.is_set():
            look()
            looks += 1
        return looks

    with ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(look_on) for _ in range(2)]
        try:
            yield
        finally:
            over.set()
        assert all(future.result() for future in looks)


def test_tasks_end_meanwhile(device: Device, place: Path) -> None:
    """Neither the end of a task nor a stop waits for who looks, nor do they miss each other."""
    for i in range(20):
        fill(place / f"tree/f{i}", 70, sync=False)
    with looking():
        for i in range(12):
            with device.register(place / "tree", STATES), device.register(place / "tree", EVENTS):
                (place / f"tree/f{i}").unlink()
                if i % 3 == 2:
                    device.stop()
                    device.start()


def test_module_goes(device: Device, place: Path) -> None:
    """What is open keeps the module; then the file goes with it."""
    fill(place / "tree/file", 3)
    with device.register(place / "tree", STATES):
        file = CHECK.open()
    device.stop()
    device.close()
    assert subprocess.run(["rmmod", "duet"], check=False, capture_output=True).returncode
    assert file.read().endswith("0 pages in flight\n")
    file.close()
    subprocess.run(["rmmod", "duet"], check=True)
    try:
        assert not CHECK.exists()
    finally:
        subprocess.run(["insmod", "/run/duet-lab/duet.ko"], check=True)
    assert counter("files") == 0
