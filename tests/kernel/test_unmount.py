# SPDX-License-Identifier: MIT
"""File systems that are unmounted and mounted again under a task, of the kind of /mnt/duet.

Truth: whether umount(8) succeeds and the loop device is free, and truth.py.
"""

import contextlib
import fcntl
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions import read_page, sync_file, write_at
from conftest import EVENTS, STATES, eventually
from disk import Disk
from truth import Watch, drop_caches, fill, identity

from pyduet import Device, FileId, Mask, State, TaskGoneError

Register = Callable[..., Watch]
#: Of linux/fs.h.
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
BOTH = pytest.mark.parametrize("mask", [STATES, EVENTS], ids=["states", "events"])


def last_words(watch: Watch) -> dict[tuple[FileId, int], State]:
    """Return what one read tells; the next one would say that the file system is gone."""
    return {
        (item.file, page): item.state
        for item in watch.task.read()
        for page in range(item.index, item.end)
    }


@pytest.fixture
def disk(place: Path) -> Iterator[Disk]:
    """Return a mounted file system; a test may unmount it itself."""
    disk = Disk(place)
    yield disk
    if disk.where.is_mount():
        disk.unmount()


@BOTH
def test_task_is_told_and_blocks_nothing(watch: Register, disk: Disk, mask: Mask) -> None:
    """Pitfall: the registered path pinned its mount for ever, so umount failed without a word."""
    path = fill(disk.tree / "file", 3)
    deep = disk.tree / "a/b"
    deep.mkdir(parents=True)
    one, below = watch(disk.tree, mask), watch(deep, mask)
    file = identity(path)
    assert one.news(path) == dict.fromkeys(range(3), State.ADDED)
    disk.unmount()
    assert one.task.wait(120)
    assert last_words(one) == {(file, page): State.REMOVED for page in range(3)}
    for each in (one, below):
        with pytest.raises(TaskGoneError):
            each.task.read()
    assert eventually(disk.is_free)


def test_snapshot_blocks_nothing(device: Device, disk: Disk) -> None:
    """What was cached before the unmount is told afterwards, and taken again it is nothing."""
    path = fill(disk.tree / "file", 3)
    one = Watch(device.register(disk.tree, STATES, snapshot=True))
    file = identity(path)
    disk.unmount()
    assert eventually(disk.is_free)
    assert one.news(file) == dict.fromkeys(range(3), State.ADDED)
    one.task.rescan()
    assert one.read() == []
    one.task.close()


def test_mounted_again(watch: Register, disk: Disk) -> None:
    """The old task stays gone, a new one begins with nothing cached and no marks."""
    path = fill(disk.tree / "file", 8)
    old = watch(disk.tree)
    old.task.mark_done(identity(path))
    disk.unmount()
    assert eventually(disk.is_free)
    disk.mount()
    new = watch(disk.tree)
    assert new.read() == []
    read_page(path, 5)
    assert new.news(path) == {5: State.ADDED}
    with pytest.raises(TaskGoneError):
        old.task.read()
    assert new.disagreements(disk.tree) == []
    old.task.close()
    read_page(path, 6)
    assert new.news(path) == {6: State.ADDED}


def test_lazy_unmount(watch: Register, disk: Disk) -> None:
    """While somebody has a file open the file system lives, and so does the task."""
    path = fill(disk.tree / "file", 8)
    drop_caches()
    one = watch(disk.tree)
    one.read()
    file = identity(path)
    fd = os.open(path, os.O_RDWR)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    disk.unmount("--lazy")
    os.pread(fd, 1, 2 * 4096)
    assert one.news(file) == {2: State.ADDED}
    os.close(fd)
    assert one.task.wait(120)
    assert last_words(one) == {(file, 2): State.REMOVED}
    with pytest.raises(TaskGoneError):
        one.task.read()
    assert eventually(disk.is_free)


@BOTH
def test_unmounted_where_it_registered(
    watch: Register, disk: Disk, place: Path, mask: Mask
) -> None:
    """The mount that a task was registered through goes; the file system has another.

    Pitfall (2016): survive changing mounts, and umount.
    """
    path = fill(disk.tree / "file", 8)
    drop_caches()
    subprocess.run(["mount", "--bind", disk.tree, place / "out"], check=True)
    one = watch(place / "out", mask)
    subprocess.run(["umount", place / "out"], check=True)
    read_page(path, 2)
    assert one.news(path) == {2: State.ADDED}


def test_read_only_and_back(watch: Register, disk: Disk) -> None:
    """A remount is no unmount: the task goes on."""
    path = fill(disk.tree / "file", 8)
    drop_caches()
    one = watch(disk.tree)
    write_at(path, 1)
    subprocess.run(["mount", "-o", "remount,ro", disk.where], check=True)
    read_page(path, 2)
    assert one.disagreements(disk.tree) == []
    subprocess.run(["mount", "-o", "remount,rw", disk.where], check=True)
    write_at(path, 3)
    assert one.disagreements(disk.tree) == []
    sync_file(path)
    assert one.disagreements(disk.tree) == []
    assert one.tally.cached(identity(path)) == {1, 2, 3}


@contextlib.contextmanager
def rescanning(watches: list[Watch]) -> Iterator[None]:
    """Have each task look at all inodes over and over, by a thread of its own, until it is gone."""

    def scan(watch: Watch) -> None:
        with contextlib.suppress(TaskGoneError):
            while not stop.is_set():
                watch.task.rescan()
                watch.task.read_batch()

    stop = threading.Event()
    threads = [threading.Thread(target=scan, args=(watch,)) for watch in watches]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()


@pytest.mark.parametrize("tasks", [1, 2])
def test_gone_when_umount_says_so(watch: Register, disk: Disk, tasks: int) -> None:
    """Pitfall: umount succeeded, and the file system lived on while somebody looked at it.

    For the length of a scan, or for ever where two tasks scanned in turn: its
    device could not be used again, and could not be taken out without a loss.
    """
    for i in range(2000):
        (disk.tree / str(i)).write_bytes(b"x")
    os.sync()
    for _ in range(4):
        watches = [watch(disk.tree) for _ in range(tasks)]
        with rescanning(watches):
            time.sleep(0.1)  # into the midst of it
            assert disk.is_left_by_unmount()
        for each in watches:
            each.task.close()
        disk.mount()
        for path in disk.tree.iterdir():
            path.read_bytes()


def test_frozen(watch: Register, disk: Disk) -> None:
    """Who looks at a frozen file system waits for no thaw, and who thaws it not for him."""
    fill(disk.tree / "file", 8)
    removed = fill(disk.tree / "removed", 8)
    one = watch(disk.tree)
    one.read()
    fd, top = os.open(removed, os.O_RDONLY), os.open(disk.where, os.O_RDONLY)
    removed.unlink()
    with rescanning([watch(disk.tree)]):
        fcntl.ioctl(top, FIFREEZE, 0)
        one.task.rescan()
        one.read()
        # The last reference to it may be that of who scans; it goes when there is a thaw. That
        # may take no other process: one that begins has the descriptor as well, for a moment, and
        # if it were the last to close it, it would wait for itself.
        closing = threading.Thread(target=os.close, args=(fd,))
        closing.start()
        fcntl.ioctl(top, FITHAW, 0)
        os.close(top)
        closing.join(120)
        assert not closing.is_alive()
        disk.unmount()
        assert eventually(disk.is_free)
