# SPDX-License-Identifier: MIT
"""Large folios, folios that are split, folios that are migrated.

Truth: mincore, page flags and, from 6.5 on, cachestat, page for page; the
page flags prove that the folios were large, and were split or moved.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from actions import evict, punch, read_page, sync_file, write_at
from conftest import EVENTS, STATES
from journal import Journal, Ledger
from truth import PAGE, Watch, changes, drop_caches, fill, frames, truth_of

from pyduet import Mask, State

Register = Callable[..., Watch]
large = pytest.mark.fs("xfs")  # ext4 and btrfs have none in 6.1 and 6.12
BOTH = pytest.mark.parametrize("mask", [STATES, EVENTS], ids=["states", "events"])


def read_large(path: Path) -> Path:
    """Leave a file in the cache, in large folios."""
    drop_caches()
    # Readahead grows its folios from one round to the next.
    with path.open("rb") as file:
        while file.read(32 * PAGE):
            pass
    assert any(frame.pages > 1 for frame in frames(path).values()), "no large folio"
    return path


def inside_large(path: Path, least: int = 4) -> tuple[int, int]:
    """Return first page and size of a large folio of a file."""
    sizes = frames(path)
    page = next(page for page, frame in sorted(sizes.items()) if frame.pages >= least)
    return page - (sizes[page].number - sizes[page].head), sizes[page].pages


@large
@BOTH
def test_large_folio_comes_and_goes(watch: Register, place: Path, mask: Mask) -> None:
    """One event of many pages is told of every page, across the table's nodes."""
    path = fill(place / "tree/file", 1000)
    one = watch(place / "tree", mask)
    drop_caches()
    one.read()
    read_large(path)
    truth = truth_of(path)
    assert len(truth.cached) == 1000
    told = one.news(path)
    assert told == dict.fromkeys(truth.cached, State.ADDED)
    evict(path)
    assert one.news(path) == changes(truth, truth_of(path))
    assert not truth_of(path).cached


@large
@BOTH
def test_large_folio_is_dirty_as_a_whole(watch: Register, place: Path, mask: Mask) -> None:
    """One page is written, the folio is dirty, and so it is told and flushed."""
    path = read_large(fill(place / "tree/file", 300))
    first, size = inside_large(path)
    one = watch(place / "tree", mask)
    one.read()
    write_at(path, first + 1)
    folio = range(first, first + size)
    assert set(folio) == set(truth_of(path).dirty)
    assert one.news(path) == dict.fromkeys(folio, State.DIRTY)
    sync_file(path)
    assert one.news(path) == dict.fromkeys(folio, State.FLUSHED)


@large
def test_registration_finds_large_folios(watch: Register, place: Path) -> None:
    """The scan tells of each page of a folio, and of each once."""
    path = read_large(fill(place / "tree/file", 1000))
    first, _ = inside_large(path)
    write_at(path, first)
    truth = truth_of(path)
    for mask in (STATES, EVENTS):
        assert watch(place / "tree", mask).news(path) == {
            page: State.ADDED | (State.DIRTY if page in truth.dirty else State(0))
            for page in truth.cached
        }


@large
@pytest.mark.parametrize("dirty", [False, True], ids=["clean", "dirty"])
@pytest.mark.parametrize("how", ["truncate", "punch", "punch_unaligned"])
def test_folio_is_split(
    watch: Register, place: Path, journal: Journal, how: str, dirty: bool
) -> None:
    """A cut or a hole inside a large folio splits it: pages stay, without an event."""
    path = read_large(fill(place / "tree/file", 300))
    first, size = inside_large(path)
    one, events = watch(place / "tree"), watch(place / "tree", EVENTS)
    ledger = Ledger(journal, place / "tree", [(EVENTS, events)])
    if dirty:
        write_at(path, first + 1)
        assert one.disagreements(place / "tree") == []
        assert ledger.differences() == []
    middle = (first + size // 2) * PAGE
    if how == "truncate":
        os.truncate(path, middle)
    elif how == "punch":
        punch(path, middle, PAGE)
    else:
        punch(path, middle + 100, PAGE)
    # XFS leaves a dirty folio whole that was cut: it reaches beyond the end of the file.
    whole = how == "truncate" and dirty
    assert whole or frames(path)[first].pages < size, "the folio was not split"
    assert one.disagreements(place / "tree") == []
    assert ledger.differences() == []
    # The parts live on by themselves.
    write_at(path, first)
    assert one.disagreements(place / "tree") == []
    os.sync()
    assert one.disagreements(place / "tree") == []
    evict(path)
    assert one.disagreements(place / "tree") == []
    assert ledger.differences() == []


def moved_pages() -> int:
    """Return how many pages the kernel has migrated so far."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return int(dict(line.split() for line in lines)["pgmigrate_success"])


def scatter(path: Path) -> None:
    """Leave every other page of a file in the cache: memory that compaction can tidy."""
    drop_caches()
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    size = os.fstat(fd).st_size
    for offset in range(0, size, PAGE):
        os.pread(fd, 1, offset)
    for offset in range(0, size, 2 * PAGE):
        os.posix_fadvise(fd, offset, PAGE, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@BOTH
def test_migration_is_no_event(watch: Register, place: Path, mask: Mask) -> None:
    """Compaction moves pages to other frames, and nothing is told; later events find them."""
    path = fill(place / "tree/file", 3000)
    scatter(path)
    for page in range(1, 100, 10):
        write_at(path, page)
    one = watch(place / "tree", mask)
    one.read()
    before, was, migrated = truth_of(path), frames(path), moved_pages()
    for _ in range(20):
        Path("/proc/sys/vm/compact_memory").write_text("1")
        now = frames(path)
        if any(now[page].number != was[page].number for page in was.keys() - before.dirty):
            break
    else:
        pytest.fail(f"compaction moved no page of the file, {moved_pages() - migrated} in all")
    assert truth_of(path) == before
    assert one.read() == []
    moved = next(
        page
        for page, frame in was.items()
        if now[page].number != frame.number and page not in before.dirty
    )
    write_at(path, moved)
    assert moved in one.news(path)
    os.sync()
    one.read()
    evict(path)
    told = one.news(path)
    assert moved in told
    assert set(told.values()) == {State.REMOVED}
    read_page(path, moved)
    assert one.news(path) == {moved: State.ADDED}
