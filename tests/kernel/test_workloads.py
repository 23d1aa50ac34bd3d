# SPDX-License-Identifier: MIT
"""What programs do to files, one thing at a time: states and events, page for page.

Truth of what a state-based task was told: mincore and the page flags, and
cachestat from 6.5 on (truth.py). Truth of what event-based tasks were told:
the kernel's own trace of the page cache (journal.py).
"""

import os
import subprocess
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from actions import (
    FALLOC_FL_COLLAPSE_RANGE,
    FALLOC_FL_ZERO_RANGE,
    allocate,
    copy_range,
    direct_read,
    direct_write,
    evict,
    map_write,
    punch,
    read_ahead,
    read_page,
    reflink,
    sync_file,
    write_at,
)
from conftest import EVENTS, STATES
from journal import Journal, Ledger
from truth import PAGE, Watch, drop_caches, fill, identity

from pyduet import Mask

Register = Callable[..., Watch]
Step = Callable[[Path], None]

#: Every event alone, all of them, and both ways of mixing.
MASKS = [Mask.ADDED, Mask.REMOVED, Mask.DIRTY, Mask.FLUSHED, EVENTS]


def refill(tree: Path) -> None:
    """Write the files that the steps work on, down to the disk."""
    for name in ("a", "b"):
        fill(tree / name, 100)


def read(tree: Path) -> None:
    (tree / "a").read_bytes()


def read_single_pages(tree: Path) -> None:
    for page in (0, 63, 64, 99):
        read_page(tree / "a", page)


def write(tree: Path) -> None:
    write_at(tree / "a", 3, 70)
    sync_file(tree / "a")
    write_at(tree / "a", 0)


def write_parts_of_pages(tree: Path) -> None:
    fd = os.open(tree / "a", os.O_WRONLY)
    os.pwrite(fd, b"x" * 10, 5 * PAGE + 100)
    os.pwrite(fd, b"x" * 2 * PAGE, 7 * PAGE + 100)
    os.close(fd)


def append(tree: Path) -> None:
    with (tree / "a").open("ab") as file:
        file.write(b"x" * 1000)
        file.flush()
        file.write(b"x" * 9 * PAGE)


def write_new_and_unlink(tree: Path) -> None:
    fill(tree / "new", 20, sync=False)
    (tree / "a").unlink()


def map_and_write(tree: Path) -> None:
    map_write(tree / "a", 7)
    map_write(tree / "a", 70, flush=True)


def truncate(tree: Path) -> None:
    (tree / "a").read_bytes()
    os.truncate(tree / "a", 50 * PAGE)


def truncate_dirty_and_inside_a_page(tree: Path) -> None:
    write_at(tree / "a", 20, 60)
    os.truncate(tree / "a", 40 * PAGE + 17)
    os.truncate(tree / "a", 120 * PAGE)


def punch_holes(tree: Path) -> None:
    (tree / "a").read_bytes()
    punch(tree / "a", 10 * PAGE, 5 * PAGE)
    write_at(tree / "b", 0, 40)
    punch(tree / "b", 10 * PAGE + 50, 5 * PAGE)


def zero_range(tree: Path) -> None:
    write_at(tree / "a", 0, 40)
    allocate(tree / "a", FALLOC_FL_ZERO_RANGE, 3 * PAGE, 6 * PAGE)


def collapse_range(tree: Path) -> None:
    (tree / "a").read_bytes()
    allocate(tree / "a", FALLOC_FL_COLLAPSE_RANGE, 8 * PAGE, 16 * PAGE)


def copy_file_range(tree: Path) -> None:
    (tree / "b").read_bytes()
    copy_range(tree / "a", tree / "b", 20, 5)


def share_blocks(tree: Path) -> None:
    (tree / "b").read_bytes()
    reflink(tree / "a", tree / "b", 20, 8)
    write_at(tree / "b", 10)
    (tree / "a").read_bytes()


def share_over_dirty_pages(tree: Path) -> None:
    write_at(tree / "b", 0, 40)
    write_at(tree / "a", 3)
    reflink(tree / "a", tree / "b", 20, 8)


def direct_over_cached_pages(tree: Path) -> None:
    (tree / "a").read_bytes()
    direct_read(tree / "a", 2, 4)
    direct_write(tree / "a", 10, 4)
    write_at(tree / "a", 20, 4)
    direct_read(tree / "a", 19, 6)
    write_at(tree / "a", 30, 4)
    direct_write(tree / "a", 31, 8)


def read_ahead_unused(tree: Path) -> None:
    read_ahead(tree / "a")
    with (tree / "b").open("rb", buffering=0) as file:
        file.read(10)


def read_ahead_and_drop(tree: Path) -> None:
    read_ahead(tree / "a")
    evict(tree / "a")


def drop(tree: Path) -> None:
    (tree / "a").read_bytes()
    write_at(tree / "b", 3)
    Path("/proc/sys/vm/drop_caches").write_text("1")


def drop_everything(tree: Path) -> None:
    (tree / "a").read_bytes()
    write_at(tree / "b", 3)
    drop_caches()
    read_page(tree / "b", 5)


def same_page_again_and_again(tree: Path) -> None:
    for _ in range(3):
        write_at(tree / "a", 9)
        sync_file(tree / "a")
        evict(tree / "a")


STEPS = [
    read, read_single_pages, write, write_parts_of_pages, append, write_new_and_unlink,
    map_and_write, truncate, truncate_dirty_and_inside_a_page, punch_holes, zero_range,
    copy_file_range, direct_over_cached_pages, read_ahead_unused, read_ahead_and_drop, drop,
    drop_everything, same_page_again_and_again,
    pytest.param(collapse_range, marks=pytest.mark.fs("ext4", "xfs")),
    pytest.param(share_blocks, marks=pytest.mark.fs("xfs", "btrfs")),
    pytest.param(share_over_dirty_pages, marks=pytest.mark.fs("xfs", "btrfs")),
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_states(watch: Register, place: Path, step: Step) -> None:
    """Pitfall: a DIRTY subscriber got nothing for a year: every kind for itself, end to end."""
    for where in ("tree", "out"):
        refill(place / where)
    drop_caches()
    one = watch(place / "tree", STATES)
    alone = [watch(place / "tree", mask) for mask in (Mask.EXISTS, Mask.MODIFIED)]
    for settle in (lambda: None, os.sync, drop_caches):
        step(place / "tree")
        step(place / "out")
        assert one.disagreements(place / "tree") == []
        settle()
        assert one.disagreements(place / "tree") == []
        # Half a mask is half of the truth.
        for each in alone:
            each.read()
        exists, modified = alone
        for name in ("a", "b"):
            if (path := place / "tree" / name).exists():
                cached = one.tally.cached(identity(path))
                dirty = one.tally.dirty(identity(path))
                assert exists.tally.cached(identity(path)) == cached
                assert modified.tally.dirty(identity(path)) == dirty
        for where in ("tree", "out"):
            refill(place / where)


@pytest.mark.parametrize("step", STEPS)
def test_events(watch: Register, place: Path, journal: Journal, step: Step) -> None:
    """Pitfall: items with state 0, for events the task never asked for. Each event, no other."""
    for where in ("tree", "out"):
        refill(place / where)
    drop_caches()
    watches = [(mask, watch(place / "tree", mask)) for mask in MASKS]
    ledger = Ledger(journal, place / "tree", watches)
    for settle in (lambda: None, os.sync, drop_caches):
        for act in (step, lambda _, settle=settle: settle(), refill):
            for where in ("tree", "out"):
                act(place / where)
                assert ledger.differences() == []


def test_flushed_by_the_kernel_itself(watch: Register, place: Path, journal: Journal) -> None:
    """Pitfall: the path test ran in whoever caused the event: here a thread of the kernel."""
    path, outside = fill(place / "tree/file", 8), fill(place / "out/file", 8)
    drop_caches()
    one = watch(place / "tree", EVENTS)
    ledger = Ledger(journal, place / "tree", [(EVENTS, one)])
    for target in (path, outside):
        write_at(target, 2, 3)
    os.sync()
    flushers = {
        event.comm
        for event in ledger.events()
        if event.ino == path.stat().st_ino and event.state == Mask.FLUSHED
    }
    assert flushers
    assert {comm.split("/")[0] for comm in flushers} == {"kworker"}
    assert ledger.differences() == []


@pytest.mark.fs("btrfs")
def test_compressed_pages_are_flushed_once(watch: Register, place: Path) -> None:
    """Pitfall: FLUSHED meant "dirty bit cleared". btrfs clears it again where it is not set.

    It does so for pages that it has compressed, a while after the first time: a
    task that reads meanwhile must not be told twice.
    """
    path, pages = place / "tree/file", 1024
    path.touch()
    subprocess.run(["btrfs", "property", "set", path, "compression", "zlib"], check=True)
    one = watch(place / "tree", Mask.FLUSHED)
    flushed: Counter[int] = Counter()

    def follow() -> None:
        for item in one.task.read():
            flushed.update(range(item.index, item.end))

    with path.open("r+b") as file, ThreadPoolExecutor() as pool:
        file.write(b"x" * PAGE * pages)
        file.flush()
        written = pool.submit(os.fsync, file.fileno())
        while not written.done():
            follow()
        written.result()
    follow()
    assert "encoded" in subprocess.check_output(["filefrag", "-v", path], text=True)
    assert flushed == dict.fromkeys(range(pages), 1)
