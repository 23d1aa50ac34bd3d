# SPDX-License-Identifier: MIT
"""Adding items up: pages of files, and their numbers."""

import random

import pytest

from pyduet import Batch, FileCount, FileId, Item, Mask, State, Tally
from pyduet._driver import abi

STATES = Mask.EXISTS | Mask.MODIFIED
ONE, OTHER = FileId(11, 1), FileId(11, 2)


def test_it_follows_a_file_through_its_life() -> None:
    tally = Tally(STATES, pages=True)
    tally.apply([Item(ONE, 0, 4, State.ADDED)])
    assert tally.cached(ONE) == {0, 1, 2, 3}
    assert tally.dirty(ONE) == set()
    tally.apply([Item(ONE, 2, 3, State.ADDED | State.DIRTY)])
    assert tally.cached(ONE) == {0, 1, 2, 3, 4}
    assert tally.dirty(ONE) == {2, 3, 4}
    tally.apply([Item(ONE, 2, 2, State.FLUSHED)])
    assert tally.dirty(ONE) == {4}
    assert tally.cached(ONE) == {0, 1, 2, 3, 4}
    tally.apply([Item(ONE, 3, 2, State.REMOVED)])
    assert tally.cached(ONE) == {0, 1, 2}
    assert tally.dirty(ONE) == set(), "what is not cached is not dirty"
    tally.apply([Item(ONE, 0, 10, State.REMOVED)])
    assert tally.cached_files() == []


def test_it_tells_generations_apart() -> None:
    tally = Tally(STATES, pages=True)
    tally.apply([Item(ONE, 0, 1, State.ADDED), Item(OTHER, 7, 1, State.ADDED)])
    tally.apply([Item(ONE, 0, 1, State.REMOVED)])
    assert tally.cached_files() == [OTHER]


def test_it_takes_a_page_far_out() -> None:
    tally = Tally(STATES, pages=True)
    tally.apply([Item(ONE, 2**51, 1, State.ADDED)])
    assert tally.cached(ONE) == {2**51}


def test_it_forgets_what_it_never_knew() -> None:
    tally = Tally(STATES, pages=True)
    tally.apply([Item(ONE, 0, 2, State.REMOVED | State.FLUSHED)])
    assert tally.cached_files() == []
    assert tally.cached(ONE) == set()


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_page_by_page(seed: int) -> None:
    dice = random.Random(seed)
    tally, cached, dirty = Tally(STATES, pages=True), set(), set()
    for _ in range(200):
        first, pages = dice.randrange(40), dice.randrange(1, 8)
        state = dice.choice(
            [
                State.ADDED,
                State.ADDED | State.DIRTY,
                State.DIRTY,
                State.FLUSHED,
                State.REMOVED,
                State.REMOVED | State.FLUSHED,
            ]
        )
        tally.apply([Item(ONE, first, pages, state)])
        for page in range(first, first + pages):
            if State.ADDED in state:
                cached.add(page)
            if State.DIRTY in state:
                dirty.add(page)
            if State.REMOVED in state:
                cached.discard(page)
                dirty.discard(page)
            if State.FLUSHED in state:
                dirty.discard(page)
        assert tally.cached(ONE) == cached
        assert tally.dirty(ONE) == dirty


def test_the_tracker_takes_an_overflow_for_no_news() -> None:
    tally = Tally(STATES, pages=True)
    tally.apply([Item(ONE, 0, 2, State.ADDED), Item(ONE, 0, 0, State.OVERFLOW)])
    assert tally.cached(ONE) == {0, 1}


def batch(*rows: tuple[FileId, int, int, State]) -> Batch:
    return Batch(b"".join(abi.ITEM.pack(*file, 1, at, state, nr) for file, at, nr, state in rows))


NEWS = batch(
    (ONE, 0, 4, State.ADDED),
    (ONE, 1, 0, State.DIRTY),  # 0 pages: one is meant
    (OTHER, 7, 2, State.ADDED | State.DIRTY),
    (ONE, 2, 2, State.REMOVED),
    (OTHER, 8, 1, State.FLUSHED),
)


@pytest.mark.parametrize("pages", [False, True])
def test_the_numbers(pages: bool) -> None:
    tally = Tally(STATES, pages=pages)
    tally.apply(NEWS)
    assert tally.files == {
        ONE: FileCount(cached=2, dirty=1, added=4, removed=2, dirtied=1),
        OTHER: FileCount(cached=2, dirty=1, added=2, dirtied=2, flushed=1),
    }
    assert tally.total == FileCount(cached=4, dirty=2, added=6, removed=2, dirtied=3, flushed=1)
    assert (tally.items, tally.overflows) == (5, 0)
    assert tally.most_changing(1) == [(ONE, tally.files[ONE])]
    assert set(tally.cached_files()) == {ONE, OTHER}


def test_a_batch_and_its_items_are_the_same() -> None:
    one, other = Tally(STATES, pages=True), Tally(STATES, pages=True)
    one.apply(NEWS)
    other.apply(list(NEWS))
    assert (one.files, one.total) == (other.files, other.total)
    assert one.cached(OTHER) == other.cached(OTHER) == {7, 8}
    assert one.dirty(ONE) == other.dirty(ONE) == {1}


@pytest.mark.parametrize("pages", [False, True])
def test_events_tell_no_state(pages: bool) -> None:
    """Of an event-based task, nobody knows which of two events of a page was the last."""
    tally = Tally(Mask.ADDED | Mask.REMOVED | Mask.DIRTY, pages=pages)
    tally.apply(NEWS)
    assert (tally.total.cached, tally.total.dirty) == (0, 0)
    assert (tally.total.added, tally.total.removed) == (6, 2)
    assert tally.cached_files() == tally.most_cached(9) == []
    if pages:
        assert tally.cached(ONE) == tally.dirty(ONE) == set()


def test_with_pages_what_is_told_twice_counts_once() -> None:
    """As after a rescan, which tells what is cached again."""
    tally = Tally(STATES, pages=True)
    tally.apply(NEWS)
    tally.apply(batch((ONE, 0, 0, State.OVERFLOW), (ONE, 0, 3, State.ADDED)))
    assert tally.overflows == 1
    assert tally.cached(ONE) == {0, 1, 2}
    assert (tally.files[ONE].cached, tally.total.cached) == (3, 5)


def test_without_pages_nobody_knows_which() -> None:
    tally = Tally(STATES)
    for ask in (tally.cached, tally.dirty):
        with pytest.raises(ValueError, match="pages=True"):
            ask(ONE)


def test_to_begin_anew_keeps_what_is_cached() -> None:
    tally = Tally(STATES, pages=True)
    tally.apply(NEWS)
    tally.apply(batch((OTHER, 0, 100, State.REMOVED)))
    tally.begin_anew()
    assert tally.files == {ONE: FileCount(cached=2, dirty=1)}
    assert tally.total == FileCount(cached=2, dirty=1)
    assert tally.cached(ONE) == {0, 1}


def test_the_last_word_of_a_file_may_be_long() -> None:
    tally = Tally(STATES, pages=True)
    tally.apply(batch((ONE, 5, 1, State.ADDED), (ONE, 0, 2**32 - 1, State.REMOVED)))
    assert tally.total.cached == 0
