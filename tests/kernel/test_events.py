# SPDX-License-Identifier: MIT
"""Each event, each state: which page of which file, and nothing else.

Truth: what this test did; which pages are dirty is what the kernel says
(truth.py), since a large folio is dirty as a whole.
"""

import itertools
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from actions import evict, read_page, sync_file, write_at
from conftest import EVENTS, STATES
from truth import PAGE, Watch, changes, drop_caches, fill, identity, truth_of

from pyduet import Mask, State

Register = Callable[..., Watch]

ADDED, REMOVED, DIRTY, FLUSHED = State.ADDED, State.REMOVED, State.DIRTY, State.FLUSHED


@pytest.mark.parametrize("mask", [Mask.ADDED, Mask.EXISTS])
def test_added(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: EXISTS and MODIFIED tasks received nothing at all. MODIFIED: the next two."""
    path = fill(place / "tree/file", 20)
    drop_caches()
    one = watch(place / "tree", mask)
    assert one.read() == []
    read_page(path, 7)
    read_page(path, 19)
    assert one.news(path) == {7: ADDED, 19: ADDED}


@pytest.mark.parametrize("mask", [Mask.REMOVED, Mask.EXISTS])
def test_removed(watch: Register, place: Path, mask: Mask) -> None:
    """A page that is dropped from the cache is reported by its index."""
    path = fill(place / "tree/file", 20)
    drop_caches()
    read_page(path, 7)
    one = watch(place / "tree", mask)
    one.read()
    evict(path)
    assert one.news(path) == {7: REMOVED}


@pytest.mark.parametrize("mask", [Mask.DIRTY, Mask.MODIFIED])
def test_dirty(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: a DIRTY task was accepted and stayed silent; another bit was sent.

    Pitfall: EXISTS and MODIFIED tasks received nothing at all.
    """
    path = fill(place / "tree/file", 20)
    one = watch(place / "tree", mask)
    assert one.read() == []
    write_at(path, 5, 2)
    dirty = truth_of(path).dirty
    assert {5, 6} <= dirty
    assert one.news(path) == dict.fromkeys(dirty, DIRTY)


@pytest.mark.parametrize("mask", [Mask.FLUSHED, Mask.MODIFIED])
def test_flushed(watch: Register, place: Path, mask: Mask) -> None:
    """Write-back of a dirty page is reported; that of no other page is."""
    path = fill(place / "tree/file", 20)
    write_at(path, 5, 2)
    one = watch(place / "tree", mask)
    one.read()
    dirty = truth_of(path).dirty
    assert {5, 6} <= dirty
    sync_file(path)
    assert truth_of(path).dirty == set()
    assert one.news(path) == dict.fromkeys(dirty, FLUSHED)


def test_a_file_of_one_page(watch: Register, place: Path) -> None:
    """Its page is all that the page cache's tree has, which is no tree then."""
    path = fill(place / "tree/file", 1)
    drop_caches()
    one = watch(place / "tree")
    read_page(path, 0)
    assert one.news(path) == {0: ADDED}
    write_at(path, 0)
    assert one.news(path) == {0: DIRTY}
    sync_file(path)
    assert one.news(path) == {0: FLUSHED}
    evict(path)
    assert one.news(path) == {0: REMOVED}
    read_page(path, 0)
    write_at(path, 0)
    assert one.news(path) == {0: ADDED | DIRTY}
    os.truncate(path, 0)
    assert one.news(path) == {0: REMOVED | FLUSHED}


def test_mmap_write(watch: Register, place: Path) -> None:
    """A write through a mapping dirties its page, msync flushes it."""
    path = fill(place / "tree/file", 8)
    one = watch(place / "tree")
    one.read()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[3 * PAGE] = 1
        dirty = truth_of(path).dirty
        assert 3 in dirty
        assert one.news(path) == dict.fromkeys(dirty, DIRTY)
        view.flush()
        assert one.news(path) == dict.fromkeys(dirty, FLUSHED)


def test_truncated_dirty_page(watch: Register, place: Path) -> None:
    """Pitfall: FLUSHED meant "dirty bit cleared". A dirty page that is cut off was not flushed."""
    path = fill(place / "tree/file", 8)
    drop_caches()
    for page in range(8):  # one by one: no large folio
        read_page(path, page)
    states, events = watch(place / "tree"), watch(place / "tree", EVENTS)
    states.read(), events.read()
    write_at(path, 6, 2)
    before = truth_of(path)
    assert before.dirty == {6, 7}
    assert states.news(path) == events.news(path) == {6: DIRTY, 7: DIRTY}
    os.truncate(path, 6 * PAGE)
    expected = changes(before, truth_of(path))
    assert expected == {6: REMOVED | FLUSHED, 7: REMOVED | FLUSHED}
    assert states.news(path) == expected
    told = events.news(path)
    # XFS flushes the page at the new end first. test_workloads.py asks the kernel's trace.
    assert told.pop(6) | FLUSHED == REMOVED | FLUSHED
    assert told == {7: REMOVED}


def test_events_are_ored_between_reads(watch: Register, place: Path) -> None:
    """An event-based task gets each event since the last read, once, whatever the order."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    one = watch(place / "tree", EVENTS)
    one.read()
    read_page(path, 1)
    write_at(path, 1)
    sync_file(path)
    evict(path)
    assert one.news(path) == {1: ADDED | DIRTY | FLUSHED | REMOVED}
    assert one.read() == []


def test_opposite_states_cancel(watch: Register, place: Path) -> None:
    """Pitfall: cancelled events left poll() saying readable and read() empty."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    one = watch(place / "tree")
    one.read()
    read_page(path, 1)
    evict(path)
    assert not one.task.wait(0)
    assert one.read() == []
    read_page(path, 1)
    assert one.task.wait(0)
    assert one.news(path) == {1: ADDED}
    write_at(path, 1)
    sync_file(path)
    assert not one.task.wait(0)
    assert one.read() == []


def test_every_mask_gets_just_its_events(watch: Register, place: Path, device: object) -> None:
    """Pitfall: items with state 0, for events the task never asked for."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    every = [ADDED, REMOVED, DIRTY, FLUSHED]
    masks = [Mask(sum(chosen)) for n in range(1, 5) for chosen in itertools.combinations(every, n)]
    for part in (masks[:8], masks[8:]):
        watches = [(mask, watch(place / "tree", mask)) for mask in part]
        for _, one in watches:
            one.read()
        read_page(path, 2)
        write_at(path, 2)
        sync_file(path)
        evict(path)
        for mask, one in watches:
            assert one.news(path) == {2: State(mask)}, mask
            one.task.close()


@pytest.mark.parametrize("mask", [Mask.EXISTS | Mask.DIRTY, Mask.ADDED | Mask.MODIFIED])
def test_mixed_masks(watch: Register, place: Path, mask: Mask) -> None:
    """A mask may be state-based for one pair and event-based for the other."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    one = watch(place / "tree", mask)
    one.read()
    read_page(path, 2)
    write_at(path, 2)
    assert one.news(path) == {2: ADDED | DIRTY}
    sync_file(path)
    evict(path)
    gone = {Mask.EXISTS | Mask.DIRTY: {2: REMOVED}, Mask.ADDED | Mask.MODIFIED: {2: FLUSHED}}
    assert one.news(path) == gone[mask]


def test_registration_tells_what_is_cached(watch: Register, place: Path) -> None:
    """A new task's first read returns what is cached, dirty pages marked, as its mask asks.

    Pitfall (2016): report what is cached now.
    """
    path = fill(place / "tree/file", 70)
    drop_caches()
    read_page(path, 3)
    read_page(path, 69)
    write_at(path, 66)
    expected = {3: ADDED, 66: ADDED | DIRTY, 69: ADDED}
    assert watch(place / "tree").news(path) == expected
    assert watch(place / "tree", EVENTS).news(path) == expected
    assert watch(place / "tree", Mask.DIRTY).news(path) == {66: DIRTY}
    assert watch(place / "tree", Mask.FLUSHED).news(path) == {}


def test_scan_keeps_other_tasks_events(watch: Register, place: Path) -> None:
    """Pitfall: the registration scan took over a node: another task's event was lost."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    first = watch(place / "tree", EVENTS)
    read_page(path, 1)
    second = watch(place / "tree", EVENTS)
    assert second.news(path) == {1: ADDED}
    second.task.close()
    assert first.news(path) == {1: ADDED}


def test_many_tasks(watch: Register, place: Path) -> None:
    """Pitfall: the 8th task wrote past its node's array. Each of 8 gets everything."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    watches = [watch(place / "tree", EVENTS) for _ in range(8)]
    assert [one.task.id for one in watches] == list(range(1, 9))
    read_page(path, 3)
    assert [one.news(path) for one in watches] == [{3: ADDED}] * 8


def test_hot_page_starves_nobody(watch: Register, place: Path) -> None:
    """Pitfall: a hot page came back on every fetch and starved the rest."""
    hot = fill(place / "tree/hot", 1)
    others = [fill(place / f"tree/cold{i}", 1) for i in range(4)]
    drop_caches()
    one = watch(place / "tree", EVENTS)
    seen = set()
    for path in [hot, *others]:
        read_page(path, 0)
    for _ in range(5):
        seen |= {item.file for item in one.task.read(1)}
        evict(hot)
        read_page(hot, 0)
    assert seen == {identity(path) for path in [hot, *others]}


def test_one_files_items_come_together_in_page_order(watch: Register, place: Path) -> None:
    """Reads of one page at a time still go file by file, in page order."""
    paths = [fill(place / f"tree/{name}", 200) for name in "ab"]
    drop_caches()
    one = watch(place / "tree")
    one.read()
    for page in (190, 3, 70, 2):
        for path in paths:
            read_page(path, page)
    items = [item for _ in range(8) for item in one.task.read(1)]
    assert [(item.file, item.index) for item in items] == [
        (identity(path), page) for path in paths for page in (2, 3, 70, 190)
    ]
    assert one.read() == []


def test_only_regular_files(watch: Register, place: Path) -> None:
    """Directories, their blocks and the file system's own inodes are no files."""
    one = watch(place / "tree")
    for i in range(50):
        (place / f"tree/dir{i}").mkdir()
    (place / "tree/link").symlink_to("x" * 200)
    drop_caches()
    assert one.read() == []


def test_other_directories_are_silent(watch: Register, place: Path) -> None:
    """Pitfall: /data/a matched /data/ab, since strings were compared."""
    (place / "tree2").mkdir()
    one = watch(place / "tree")
    for name in ("tree2/file", "out/file", "file"):
        fill(place / name, 3)
    assert one.read() == []


def test_seen_from_a_chroot(watch: Register, place: Path) -> None:
    """Pitfall: the path test ran in the context of whoever caused the event."""
    path = fill(place / "tree/file", 3)
    drop_caches()
    one = watch(place / "tree")
    pid = os.fork()
    if not pid:
        os.chroot(place / "tree")
        os.chdir("/")
        read_page(Path("/file"), 1)
        os._exit(0)
    os.waitpid(pid, 0)
    assert one.news(path) == {1: ADDED}


def test_two_state_masks_see_one_truth(watch: Register, place: Path) -> None:
    """A task that comes later is told the state, not the history."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    first = watch(place / "tree", STATES)
    read_page(path, 0)
    read_page(path, 2)
    evict(path)
    read_page(path, 1)
    assert watch(place / "tree", STATES).news(path) == {1: ADDED}
    assert first.news(path) == {1: ADDED}
