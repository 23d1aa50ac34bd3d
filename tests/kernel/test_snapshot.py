# SPDX-License-Identifier: MIT
"""A task that is told what is cached now, and of no change (DUET_REGISTER_SNAPSHOT).

Truth: truth.py, of every file below the directory.
"""

import errno
import os
import subprocess
from pathlib import Path

import pytest
from actions import evict, punch, read_page, sync_file, write_at
from conftest import EVENTS, STATES, SYSFS, counter
from raw import Requests, ioctl
from truth import PAGE, Watch, drop_caches, fill, identity

from pyduet import Device, FileId, Mask, State
from pyduet._driver import abi

RANGES = pytest.mark.parametrize("ranges", [False, True], ids=["pages", "ranges"])


def snapshot(device: Device, path: Path, mask: Mask = STATES, *, ranges: bool = False) -> Watch:
    """Register and read."""
    watch = Watch(device.register(path, mask, ranges=ranges, snapshot=True))
    watch.read()
    return watch


@RANGES
def test_it_is_what_is_cached(device: Device, place: Path, *, ranges: bool) -> None:
    """Files in parts, clean and dirty, with many runs, of many pages, with other names."""
    tree, out = place / "tree", place / "out"
    for name in ("whole", "parts", "dirty", "holes", "large", "empty", "left", "evicted"):
        fill(tree / name, 2000 if name == "large" else 70)
    for i in range(300):
        fill(tree / f"small{i}", 1, sync=False)
    fill(out / "came", 9)
    os.sync()
    drop_caches()
    (tree / "whole").read_bytes()
    (tree / "large").read_bytes()
    for page in range(0, 70, 2):
        read_page(tree / "parts", page)
    write_at(tree / "dirty", 3, 10)
    (tree / "holes").read_bytes()
    punch(tree / "holes", 5 * PAGE, 7 * PAGE)
    for name in ("left", "evicted"):
        (tree / name).read_bytes()
    (tree / "left").rename(out / "left")
    (out / "came").read_bytes()
    (tree / "deep").mkdir()
    (out / "came").rename(tree / "deep/came")
    evict(tree / "evicted")
    for i in range(300):
        if i % 3:
            (tree / f"small{i}").read_bytes()
    with (tree / "gone").open("w+b") as unlinked:
        unlinked.write(b"x" * 5 * PAGE)
        unlinked.flush()
        (tree / "gone").unlink()
        watch = snapshot(device, tree, ranges=ranges)
        assert watch.disagreements(tree) == []
        file = identity(Path(f"/proc/self/fd/{unlinked.fileno()}"))
        assert watch.tally.dirty(file) == set(range(5))
    assert watch.tally.cached(identity(tree / "parts")) >= set(range(0, 70, 2))
    assert not watch.tally.cached(identity(out / "left"))
    watch.task.close()


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (Mask.EXISTS, dict.fromkeys(range(8), State.ADDED)),
        (Mask.MODIFIED, {3: State.DIRTY}),
        (STATES, dict.fromkeys(range(8), State.ADDED) | {3: State.ADDED | State.DIRTY}),
    ],
)
@RANGES
def test_what_the_mask_asks_for(
    device: Device, place: Path, mask: Mask, told: dict[int, State], *, ranges: bool
) -> None:
    """States only, and of those what was asked for; a large folio is dirty as a whole."""
    path = place / "tree/file"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    for page in range(8):  # one by one, so that no folio has two
        os.pwrite(fd, b"x" * PAGE, page * PAGE)
        os.fsync(fd)
    os.close(fd)
    write_at(path, 3)
    watch = Watch(device.register(place / "tree", mask, ranges=ranges, snapshot=True))
    assert watch.news(path) == told
    watch.task.close()


def test_of_a_file(device: Device, place: Path) -> None:
    """A single file, as other tasks may have."""
    for name in "ab":
        fill(place / "tree" / name, 2)
    watch = Watch(device.register(place / "tree/a", Mask.EXISTS, snapshot=True))
    assert watch.news(place / "tree/a") == dict.fromkeys(range(2), State.ADDED)
    watch.task.close()


def test_it_ends_and_can_be_taken_again(device: Device, place: Path) -> None:
    """Reading ends as that of a file; no change is told, until it is asked for anew."""
    path = fill(place / "tree/file", 4)
    with device.register(place / "tree", STATES, snapshot=True) as task:
        assert task.snapshot
        assert [one.snapshot for one in device.tasks()] == [True]
        assert [item.end for item in task.events()] == [4]
        os.set_blocking(task.fileno(), True)
        assert os.read(task.fileno(), 4096) == b""
        write_at(path, 1)
        fill(place / "tree/other", 1)
        assert task.wait(0)
        assert os.read(task.fileno(), 4096) == b""
        evict(place / "tree/other")
        task.rescan()
        items = list(task.events())
        states = {page: item.state for item in items for page in range(item.index, item.end)}
        assert states[1] == State.ADDED | State.DIRTY
        assert {item.file.ino for item in [*task.events()]} == set()
        task.rescan()
        evict(path)
        sync_file(path)
        evict(path)
        assert list(task.events()) == []


def test_it_costs_nobody_else(device: Device, place: Path) -> None:
    """No hook is attached, nothing is in the table, and what was read is given back."""
    for i in range(300):
        fill(place / f"tree/{i}", 1, sync=False)
    os.sync()
    before = device.info()
    watch = Watch(device.register(place / "tree", STATES, snapshot=True))
    assert {hook.read_text() for hook in (SYSFS / "hooks").iterdir()} == {"detached\n"}
    fill(place / "tree/late", 3)
    info = device.info()
    assert (info.files, info.nodes, info.events) == (0, 0, before.events)
    assert 300 * 32 <= counter("bytes") <= 300 * 32 + 2 * PAGE
    assert len(watch.read()) == 300
    assert counter("bytes") == 0
    watch.task.rescan()
    watch.task.wait(0)
    assert sum(item.pages for item in watch.task.read(100)) == 100
    assert counter("bytes") > 0
    watch.task.close()
    assert counter("bytes") == 0


def test_what_it_cannot_be(device: Device, place: Path) -> None:
    """Events are no state, and not to tell what is cached leaves nothing."""
    with device.register(place / "tree", STATES) as task:
        requests = Requests(device, task, FileId(1, 0))
        for mask in (EVENTS, Mask.ADDED, Mask.EXISTS | Mask.DIRTY):
            with pytest.raises(ValueError, match="a snapshot tells no "):
                device.register(place / "tree", mask, snapshot=True)
            request = requests.register(mask, abi.Register.SNAPSHOT)
            assert ioctl(device.fileno(), abi.IOC_REGISTER, request) == -errno.EINVAL
        with pytest.raises(ValueError, match="leave out no_scan"):
            device.register(place / "tree", STATES, snapshot=True, no_scan=True)
        request = requests.register(STATES, abi.Register.SNAPSHOT | abi.Register.NO_SCAN)
        assert ioctl(device.fileno(), abi.IOC_REGISTER, request) == -errno.EINVAL
        assert [one.id for one in device.tasks()] == [task.id]


def test_no_room_for_all_of_it(device: Device, place: Path) -> None:
    """What it lacks is said at its end, and counted; with room for all the rest is told."""
    for i in range(500):
        fill(place / f"tree/{i}", 1, sync=False)
    os.sync()
    task = device.register(place / "tree", Mask.EXISTS, snapshot=True, limit=3 * PAGE)
    items = task.read()
    assert 300 < len(items) < 400
    assert [State.OVERFLOW in item.state for item in items] == [False] * (len(items) - 1) + [True]
    assert device.tasks()[0].drops.task_limit == 1
    assert task.read() == []
    task.rescan()
    assert len(task.read()) == len(items)
    task.close()


def test_done_files_are_left_out(device: Device, place: Path) -> None:
    """A file that is marked done is not told the next time, and has its path still."""
    paths = [fill(place / "tree" / name, 2) for name in "ab"]
    watch = snapshot(device, place / "tree")
    done = identity(paths[0])
    watch.task.mark_done(done)
    assert watch.task.is_done(done)
    assert watch.task.path_of(done, max_age=0) == str(paths[0])
    watch.task.rescan()
    assert watch.news(paths[1]) == dict.fromkeys(range(2), State.ADDED)
    watch.task.close()


def test_another_file_system_below(device: Device, place: Path) -> None:
    """Mounted within the tree, it is not told."""
    below = place / "tree/below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", below], check=True)
    try:
        fill(below / "file", 3)
        path = fill(place / "tree/file", 3)
        watch = Watch(device.register(place / "tree", Mask.EXISTS, snapshot=True))
        assert watch.news(path) == dict.fromkeys(range(3), State.ADDED)
        watch.task.close()
    finally:
        subprocess.run(["umount", below], check=True)


def test_beside_others(device: Device, place: Path) -> None:
    """Of files that others watch, and that it changes nothing for them."""
    path = fill(place / "tree/file", 3)
    other = Watch(device.register(place / "tree", STATES))
    other.read()
    watch = snapshot(device, place / "tree")
    assert watch.tally.cached(identity(path)) == {0, 1, 2}
    assert other.read() == []
    read_page(fill(place / "tree/new", 1), 0)
    assert {item.file for item in other.read()} == {identity(place / "tree/new")}
    assert watch.read() == []
    for one in (watch, other):
        one.task.close()
