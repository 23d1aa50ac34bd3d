# SPDX-License-Identifier: MIT
"""What a stream told, counted by file: how much is cached, and how much has changed."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from pyduet._driver import abi
from pyduet.batch import Batch
from pyduet.events import FileId, Mask, State

# Plain numbers: a flag's & makes an object each time.
_ADDED, _REMOVED = State.ADDED.value, State.REMOVED.value
_DIRTY, _FLUSHED = State.DIRTY.value, State.FLUSHED.value


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


class Census:
    """Adds up batches, at some 200 bytes a file. :class:`Tracker` knows which pages.

    What a state-based stream tells is what changed, so sums are exact until it
    overflows; ``overflows`` counts that, ``items`` all that was told.

    Thread-safety: none; one thread counts and asks.
    """

    def __init__(self, mask: Mask) -> None:
        """Start with nothing.

        Args:
            mask: of the stream: says what its states mean.

        """
        self.files: dict[FileId, FileCount] = {}
        self.total = FileCount()
        self.items = 0
        self.overflows = 0
        self._exists = bool(mask & Mask.EXISTS)
        self._modified = bool(mask & Mask.MODIFIED)

    def apply(self, batch: Batch) -> None:
        """Count what a read returned."""
        files, total = self.files, self.total
        self.items += len(batch)
        for ino, generation, task, _, state, pages in batch.rows():
            if state == abi.ITEM_OVERFLOW:
                self.overflows += 1
                continue
            file = FileId(ino, generation, task)
            known = files.get(file)
            if known is None:
                known = files[file] = FileCount()
            for one in (known, total):
                self._count(one, state, pages or 1)

    def _count(self, one: FileCount, state: int, pages: int) -> None:
        if state & _ADDED:
            one.added += pages
            one.cached += pages if self._exists else 0
        if state & _REMOVED:
            one.removed += pages
            one.cached -= pages if self._exists else 0
        if state & _DIRTY:
            one.dirtied += pages
            one.dirty += pages if self._modified else 0
        if state & _FLUSHED:
            one.flushed += pages
            one.dirty -= pages if self._modified else 0

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
