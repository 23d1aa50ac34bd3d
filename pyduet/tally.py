# SPDX-License-Identifier: MIT
"""What a stream told, added up by file: how much is cached, and which pages, and what changed."""

import heapq
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import attrgetter

from pyduet._driver import abi
from pyduet.batch import Batch
from pyduet.events import FileId, Item, Mask, State

# Plain numbers: a flag's & makes an object each time.
_ADDED, _REMOVED = State.ADDED.value, State.REMOVED.value
_DIRTY, _FLUSHED = State.DIRTY.value, State.FLUSHED.value

_Pages = dict[FileId, set[int]]


@dataclass(slots=True)
class FileCount:
    """Pages of a file, as far as they were told.

    Attributes:
        cached: pages that are cached now; stays 0 without ``EXISTS``.
        dirty: pages that are dirty now; stays 0 without ``MODIFIED``.
        added: pages told as added since the count began, and so on.

    """

    cached: int = 0
    dirty: int = 0
    added: int = 0
    removed: int = 0
    dirtied: int = 0
    flushed: int = 0

    @property
    def changes(self) -> int:
        """Pages told of, whatever happened to them."""
        return self.added + self.removed + self.dirtied + self.flushed


class Tally:
    """Adds up what a stream tells, at some 200 bytes a file.

    What a state-based stream tells is what changed, so sums are exact until it
    overflows. With ``pages`` it is known which pages are cached and dirty, at
    some 60 bytes a page: then what is told twice counts once, and a
    :meth:`Task.rescan` after an overflow makes the sums exact again.

    Attributes:
        files: of which something was told since :meth:`begin_anew`, or is cached.
        total: of all files.
        items: how many were told, overflows as well.
        overflows: how often the stream could not tell all.

    Thread-safety: none; one thread adds and asks.
    """

    def __init__(self, mask: Mask, *, pages: bool = False) -> None:
        """Start with nothing.

        Args:
            mask: of the stream: says what its states mean.
            pages: whether to know which pages are cached and dirty.

        """
        self.files: dict[FileId, FileCount] = {}
        self.total = FileCount()
        self.items = 0
        self.overflows = 0
        self._exists = bool(mask & Mask.EXISTS)
        self._modified = bool(mask & Mask.MODIFIED)
        self._cached: _Pages | None = {} if pages else None
        self._dirty: _Pages | None = {} if pages else None

    def apply(self, news: Batch | Iterable[Item]) -> None:
        """Add what was told, in the order in which the stream told it.

        Args:
            news: what a read returned; a batch is cheaper than its items.

        """
        files, total = self.files, self.total
        rows = news.rows() if isinstance(news, Batch) else map(_row, news)
        for ino, generation, _, index, state, pages in rows:
            self.items += 1
            if state == abi.ITEM_OVERFLOW:
                self.overflows += 1
                continue
            file = FileId(ino, generation)
            known = files.get(file)
            if known is None:
                known = files[file] = FileCount()
            count = pages or 1
            cached, dirty = self._change(file, state, range(index, index + count))
            for one in (known, total):
                one.cached += cached
                one.dirty += dirty
                if state & _ADDED:
                    one.added += count
                if state & _REMOVED:
                    one.removed += count
                if state & _DIRTY:
                    one.dirtied += count
                if state & _FLUSHED:
                    one.flushed += count

    def _change(self, file: FileId, state: int, pages: range) -> tuple[int, int]:
        """Return how many more pages are cached, and dirty, by what is told; fewer are negative."""
        cached = dirty = 0
        if self._exists:
            if state & _ADDED:
                cached += _add(self._cached, file, pages)
            if state & _REMOVED:
                cached -= _discard(self._cached, file, pages)
        if self._modified:
            if state & _DIRTY:
                dirty += _add(self._dirty, file, pages)
            # What is not cached is not dirty, and is told as flushed as well.
            if state & _FLUSHED or (state & _REMOVED and self._dirty is not None):
                dirty -= _discard(self._dirty, file, pages)
        return cached, dirty

    def cached_files(self) -> list[FileId]:
        """Return the files that have cached pages; none without ``EXISTS``."""
        return [file for file, one in self.files.items() if one.cached > 0]

    def cached(self, file: FileId) -> AbstractSet[int]:
        """Return the indexes of the cached pages of a file: a view, not to be changed.

        Raises:
            ValueError: it was made without ``pages``.

        """
        return _known(self._cached, file)

    def dirty(self, file: FileId) -> AbstractSet[int]:
        """Return the indexes of the dirty pages of a file; see :meth:`cached`."""
        return _known(self._dirty, file)

    def most_cached(self, number: int) -> list[tuple[FileId, FileCount]]:
        """Return the files with most cached pages, the first with most; none without any."""
        return self._most(number, attrgetter("cached"))

    def most_changing(self, number: int) -> list[tuple[FileId, FileCount]]:
        """Return the files that were told most of since :meth:`begin_anew`."""
        return self._most(number, attrgetter("changes"))

    def _most(self, number: int, key: Callable[[FileCount], int]) -> list[tuple[FileId, FileCount]]:
        some = [item for item in self.files.items() if key(item[1])]
        return heapq.nlargest(number, some, key=lambda item: key(item[1]))

    def begin_anew(self) -> None:
        """Forget what happened, keep what is cached, and forget files of which nothing is."""
        for file, one in list(self.files.items()):
            if one.cached or one.dirty:
                one.added = one.removed = one.dirtied = one.flushed = 0
            else:
                del self.files[file]
        one = self.total
        one.added = one.removed = one.dirtied = one.flushed = 0


def _row(item: Item) -> tuple[int, int, int, int, int, int]:
    """Return an item as a row of a batch; of which task is of no interest here."""
    return *item.file, 0, item.index, item.state.value, item.pages


def _known(pages_of: _Pages | None, file: FileId) -> AbstractSet[int]:
    if pages_of is None:
        raise ValueError("this tally knows numbers of pages alone: make it with pages=True")
    return pages_of.get(file, frozenset())


def _add(pages_of: _Pages | None, file: FileId, pages: range) -> int:
    """Return how many pages are new; all of them where they are not known."""
    if pages_of is None:
        return len(pages)
    known = pages_of.setdefault(file, set())
    before = len(known)
    known.update(pages)
    return len(known) - before


def _discard(pages_of: _Pages | None, file: FileId, pages: range) -> int:
    """Return how many pages there were; all of them where they are not known."""
    if pages_of is None:
        return len(pages)
    known = pages_of.get(file)
    if known is None:
        return 0
    before = len(known)
    # Of a file's last word, the range may be far longer than what is known.
    known.difference_update(pages if len(pages) <= before else [p for p in known if p in pages])
    after = len(known)
    if not known:
        del pages_of[file]
    return before - after
