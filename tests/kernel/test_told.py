# SPDX-License-Identifier: MIT
"""What a state-based task is told is so when it reads, whatever events came, or did not come.

There is dirtiness that ends without a hook: ext4 cleans a dirty folio that has no buffers so. A
test cannot have that happen, nor what may be next. A debug build can be made to miss events, which
is the same to it: the page cache changes, and nobody says so.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions import evict, sync_file, write_at
from conftest import DELAY, PARAMETERS, STATES
from held import Thread, held
from invariant import look
from truth import PAGE, Watch, fill, identity, truth_of

from pyduet import Mask, State

Register = Callable[..., Watch]

pytestmark = pytest.mark.kernel_with(DELAY)


@contextlib.contextmanager
def missing(kind: str) -> Iterator[None]:
    """Have no event of this kind heard of."""
    (PARAMETERS / "miss").write_text(kind)
    try:
        yield
    finally:
        (PARAMETERS / "miss").write_text("none")


def clean_unheard(path: Path) -> None:
    """Write a file back, and have nobody hear of it."""
    with missing("flushed"):
        sync_file(path)
    assert truth_of(path).dirty == set()


@pytest.mark.parametrize("mask", [STATES, Mask.MODIFIED])
def test_no_page_is_told_dirty_that_is_clean(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: the reader was told what events had left behind, not what was so."""
    path = fill(place / "tree/file", 200)
    one = watch(place / "tree", mask)
    one.read()
    write_at(path, 10, 150)
    clean_unheard(path)
    assert look().lines != frozenset(), "it was heard of"
    write_at(path, 70, 3)
    assert one.news(path) == dict.fromkeys(range(70, 73), State.DIRTY)
    assert one.tally.dirty(identity(path)) == truth_of(path).dirty == {70, 71, 72}
    assert look().lines == frozenset()


def test_poll_does_not_say_that_there_is_something(watch: Register, place: Path) -> None:
    """Of what cancelled without a word nothing is left, and the node neither."""
    path = fill(place / "tree/file", 200)
    one = watch(place / "tree", Mask.MODIFIED)
    one.read()
    write_at(path, 0, 200)
    assert one.task.wait(0)
    clean_unheard(path)
    assert not one.task.wait(0)
    assert one.read() == []


def test_no_page_is_told_cached_that_is_gone(watch: Register, place: Path) -> None:
    """The same of presence."""
    path = fill(place / "tree/file", 200)
    evict(path)
    one = watch(place / "tree", Mask.EXISTS)
    one.read()
    assert len(path.read_bytes()) == 200 * PAGE
    with missing("removed"):
        evict(path)
    assert truth_of(path).cached == set()
    assert one.read() == []
    assert look().lines == frozenset()


def test_what_was_told_before_is_taken_back_by_the_next_news(watch: Register, place: Path) -> None:
    """Nothing tells of what changed after it was told; news of the same 64 pages do, or a scan."""
    path = fill(place / "tree/file", 200)
    one = watch(place / "tree", Mask.MODIFIED)
    write_at(path, 0, 130)
    assert one.news(path) == dict.fromkeys(range(130), State.DIRTY)
    clean_unheard(path)
    assert one.read() == []
    write_at(path, 63)  # is dirty, as was told
    assert one.read() == []
    sync_file(path)
    assert one.news(path) == dict.fromkeys(range(64), State.FLUSHED)
    assert one.tally.dirty(identity(path)) == set(range(64, 130))
    one.task.rescan()
    assert one.news(path) == dict.fromkeys(range(64, 130), State.FLUSHED)


def test_what_one_reader_sees_all_are_told(watch: Register, place: Path) -> None:
    """There is one copy for all tasks: what one finds out is news to the others."""
    path = fill(place / "tree/file", 3)
    one, other = watch(place / "tree", Mask.MODIFIED), watch(place / "tree", Mask.MODIFIED)
    write_at(path, 0, 3)
    for each in (one, other):
        assert each.news(path) == dict.fromkeys(range(3), State.DIRTY)
    clean_unheard(path)
    third = watch(place / "tree", STATES)
    assert {page for page, state in third.news(path).items() if State.DIRTY in state} == set()
    for each in (one, other):
        assert each.news(path) == dict.fromkeys(range(3), State.FLUSHED)


def test_reading_while_a_page_is_cleaned(watch: Register, place: Path) -> None:
    """A page of which FLUSHED came is dirty a moment more: the reader is not to believe that.

    Nothing would ever take it back.
    """
    path = fill(place / "tree/file", 64)
    one = watch(place / "tree", Mask.MODIFIED)
    write_at(path, 3)
    assert one.news(path) == {3: State.DIRTY}
    with Thread() as writer, held("flushed", thread=writer.number) as hold:
        writing = writer.submit(sync_file, path)
        hold.wait()
        write_at(path, 40)  # is news of the same node
        assert truth_of(path).dirty == {3, 40}
        assert one.news(path) == {3: State.FLUSHED, 40: State.DIRTY}
        hold.release()
        writing.result()
    one.read()
    assert one.tally.dirty(identity(path)) == truth_of(path).dirty
    assert look().lines == frozenset()


def test_a_file_that_went_unheard(watch: Register, place: Path) -> None:
    """Of an inode that is gone nothing is cached, whatever the events said."""
    path = fill(place / "tree/file", 100)
    file = identity(path)
    one = watch(place / "tree")
    one.read()
    with missing("removed"):
        os.unlink(path)
    assert set(one.news(file).values()) == {State.REMOVED}
    assert one.tally.cached(file) == set()
