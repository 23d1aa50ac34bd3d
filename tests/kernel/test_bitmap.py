# SPDX-License-Identifier: MIT
"""Done marks: by file, exact, and remembered when the inode is not."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import EVENTS, STATES, counter, eventually
from truth import Watch, drop_caches, fill, identity

from pyduet import Device, FileId, Mask, State

Register = Callable[..., Watch]


@pytest.mark.parametrize("mask", [EVENTS, STATES])
def test_done_file_is_silent_and_its_neighbours_are_not(
    watch: Register, place: Path, mask: Mask
) -> None:
    """Pitfall: a done bit covered 4096 inode numbers: neighbours fell silent."""
    paths = [fill(place / f"tree/f{i}", 1) for i in range(20)]
    drop_caches()
    one = watch(place / "tree", mask)
    done = identity(paths[7])
    assert not one.task.is_done(done)
    one.task.mark_done(done)
    assert [one.task.is_done(identity(path)) for path in paths] == [
        path == paths[7] for path in paths
    ]
    for path in paths:
        path.read_bytes()
    told = {item.file for item in one.read()}
    assert told == {identity(path) for path in paths if path != paths[7]}


def test_done_drops_what_is_pending(watch: Register, place: Path) -> None:
    """Nothing of a done file comes, not even what happened before."""
    path = fill(place / "tree/file", 3)
    one = watch(place / "tree")
    assert one.task.wait(0)
    one.task.mark_done(identity(path))
    assert not one.task.wait(0)
    assert one.read() == []


def test_done_outlives_the_inode(watch: Register, place: Path) -> None:
    """A mark holds after the inode was evicted and read again."""
    path = fill(place / "tree/file", 3)
    one = watch(place / "tree")
    one.read()
    file = identity(path)
    one.task.mark_done(file)
    drop_caches()
    path.read_bytes()
    assert one.read() == []
    assert one.task.is_done(file)


def test_unmark_starts_anew(watch: Register, place: Path) -> None:
    """After a reset the task is told what is cached now, and goes on being told."""
    path = fill(place / "tree/file", 3)
    one = watch(place / "tree")
    one.read()
    file = identity(path)
    one.task.mark_done(file)
    fill(path, 2)
    assert one.read() == []
    one.task.unmark(file)
    assert not one.task.is_done(file)
    assert one.news(path) == {0: State.ADDED, 1: State.ADDED}
    drop_caches()
    assert one.news(path) == {0: State.REMOVED, 1: State.REMOVED}


def test_generation_must_match(watch: Register, place: Path) -> None:
    """Pitfall: inode reuse. A mark for another generation marks nothing of this file."""
    path = fill(place / "tree/file", 1)
    drop_caches()
    one = watch(place / "tree")
    ino, generation = identity(path)
    one.task.mark_done(FileId(ino, generation ^ 1))
    assert not one.task.is_done(FileId(ino, generation))
    path.read_bytes()
    assert one.news(path) == {0: State.ADDED}


def test_marks_are_each_tasks_own(watch: Register, place: Path) -> None:
    """One task's mark silences no other task."""
    path = fill(place / "tree/file", 1)
    drop_caches()
    first, second = watch(place / "tree"), watch(place / "tree")
    first.task.mark_done(identity(path))
    path.read_bytes()
    assert first.read() == []
    assert second.news(path) == {0: State.ADDED}


def test_of_no_interest_counts_as_done(watch: Register, place: Path) -> None:
    """CHECK says 1 for a file outside, or one that does not exist."""
    outside = fill(place / "out/file", 1)
    inside = fill(place / "tree/file", 1)
    one = watch(place / "tree")
    assert one.task.is_done(identity(outside))
    assert not one.task.is_done(identity(inside))
    drop_caches()
    assert not one.task.is_done(identity(inside))
    file = identity(inside)
    inside.unlink()
    drop_caches()
    assert one.task.is_done(file)


def test_many_marks_and_the_end(device: Device, place: Path) -> None:
    """Whatever shape the tree of marks has, a task that ends frees it without a fault."""
    for count in (1, 15, 16, 200, 240, 3000, 20_000):
        task = device.register(place / "tree", STATES)
        files = [FileId(100 + number, 1) for number in range(count)]
        task.mark_many(files)
        assert task.is_done(files[-1])
        task.close()
    # What is freed by RCU is, before the machine is looked at again.
    time.sleep(1)
    assert eventually(lambda: counter("bytes") == 0)
