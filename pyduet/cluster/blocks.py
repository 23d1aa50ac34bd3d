# SPDX-License-Identifier: MIT
"""Which blocks are resident: pages that are cached, added up by block."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from pyduet.cluster.stores import Place


class Changes(NamedTuple):
    """What changed since it was last asked.

    Attributes:
        gained: blocks that are resident now, in the order in which they came to be.
        lost: blocks that are resident no more.

    """

    gained: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(slots=True)
class _File:
    place: Place
    pages: int
    #: Of each part that has any, how many are cached.
    cached: dict[int, int] = field(default_factory=dict)

    def size(self, part: int) -> int:
        """Return the pages of a part; at least 1, as an empty file has no pages to be cached."""
        if not self.place.part:
            return max(1, self.pages)
        return max(1, min(self.place.part, self.pages - part * self.place.part))


class Blocks:
    """Says which blocks are resident, by how many of their pages are.

    A block is resident once nine tenths of its pages are cached, and until fewer than seven tenths
    are: reclaim nibbles at a block that is in use, and a scheduler is not to hear of each bite.

    It takes memory for each file that has cached pages, not for each page.

    Thread-safety: none; one thread tells and asks.
    """

    def __init__(self, gain: float = 0.9, lose: float = 0.7) -> None:
        """Have nothing resident.

        Args:
            gain: the share of its pages from which on a block is resident.
            lose: the share below which it is resident no more.

        Raises:
            ValueError: shares that are none, or ``lose`` above ``gain``.

        """
        if not 0 < lose <= gain <= 1:
            raise ValueError(f"a block is gained at {gain} and lost below {lose}: that is no order")
        self._gain, self._lose = gain, lose
        self._files: dict[Hashable, _File] = {}
        self._resident: dict[str, None] = {}
        self._told: dict[str, None] = {}

    @property
    def resident(self) -> tuple[str, ...]:
        """The blocks that are resident, in the order in which they came to be."""
        return tuple(self._resident)

    @property
    def pages(self) -> int:
        """How many pages of blocks are cached."""
        return sum(sum(file.cached.values()) for file in self._files.values())

    def knows(self, file: Hashable) -> bool:
        """Return whether a file was met."""
        return file in self._files

    def met(self, file: Hashable, place: Place, pages: int) -> None:
        """Take a file up, or say anew what it is and how large.

        Args:
            file: what names it from here on.
            place: what it is to its store: another one where it was renamed, in parts of the same
                size.
            pages: its size.

        """
        known = self._files.get(file)
        if known is None:
            self._files[file] = _File(place, pages)
            return
        if known.place != place:
            self._forget(known)
        known.place, known.pages = place, pages
        for part in known.cached:
            self._judge(known, part)

    def change(self, file: Hashable, index: int, pages: int, *, cached: bool) -> None:
        """Add what was told of a file that was met; of others nothing is kept.

        Args:
            file: which.
            index: of the first page.
            pages: how many.
            cached: whether they are cached now, or no more.

        """
        known = self._files.get(file)
        if known is None:
            return
        for part, some in _parts(known.place.part, index, pages):
            now = max(0, known.cached.get(part, 0) + (some if cached else -some))
            known.cached[part] = now
            self._judge(known, part)
            if not now:
                del known.cached[part]
        if not known.cached:
            del self._files[file]

    def hold(self, file: Hashable, place: Place, pages: int, ranges: Iterable[range]) -> None:
        """Have a file hold just these pages, in place of what was told of it before."""
        known = self._files.get(file)
        before = dict(known.cached) if known and known.place == place else {}
        if known and known.place != place:
            self._forget(known)
        now: dict[int, int] = {}
        for some in ranges:
            for part, count in _parts(place.part, some.start, len(some)):
                now[part] = now.get(part, 0) + count
        known = self._files[file] = _File(place, pages, now)
        for part in before.keys() | now.keys():
            self._judge(known, part)
        if not now:
            del self._files[file]

    def gone(self, file: Hashable) -> None:
        """Forget a file, and what its blocks are."""
        known = self._files.pop(file, None)
        if known:
            self._forget(known)

    def clear(self) -> None:
        """Forget all: nothing is known."""
        self._files.clear()
        self._resident.clear()

    def changes(self) -> Changes:
        """Return what changed since this was last asked; what came and went is no change."""
        gained = tuple(block for block in self._resident if block not in self._told)
        lost = tuple(block for block in self._told if block not in self._resident)
        self._told = dict(self._resident)
        return Changes(gained, lost)

    def _judge(self, file: _File, part: int) -> None:
        block = file.place.block(part)
        share = file.cached.get(part, 0) / file.size(part)
        if share >= self._gain:
            self._resident.setdefault(block)
        elif share < self._lose:
            self._resident.pop(block, None)

    def _forget(self, file: _File) -> None:
        for part in file.cached:
            self._resident.pop(file.place.block(part), None)


def _parts(size: int, index: int, pages: int) -> Iterable[tuple[int, int]]:
    """Yield each part that some pages are of, with how many of them are."""
    if not size:
        yield 0, pages
        return
    end = index + pages
    while index < end:
        part = index // size
        stop = min(end, (part + 1) * size)
        yield part, stop - index
        index = stop
