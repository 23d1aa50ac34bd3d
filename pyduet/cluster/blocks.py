# SPDX-License-Identifier: MIT
"""Which blocks are resident: pages that are cached, added up by block."""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple


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
    #: Of the block, or what the names of its parts begin with; None: not known, or no block.
    name: str | None = None
    pages: int = 0
    #: Of each part that has any, how many are cached.
    cached: dict[int, int] = field(default_factory=dict)


class Blocks:
    """Says which blocks are resident, by how many of their pages are.

    A block is resident once nine tenths of its pages are cached, and until fewer than seven tenths
    are: reclaim nibbles at a block that is in use, and a scheduler is not to hear of each bite.

    What is cached of a file is added up from the first news of it on, also while nobody knows which
    block it is. It takes memory for each file that has cached pages, not for each page.

    Thread-safety: none; one thread tells and asks.
    """

    def __init__(self, part: int, gain: float = 0.9, lose: float = 0.7) -> None:
        """Have nothing resident.

        Args:
            part: pages of a block in a file of several, 0 where a file is one: of the store.
            gain: the share of its pages from which on a block is resident.
            lose: the share below which it is resident no more.

        Raises:
            ValueError: shares that are none, or ``lose`` above ``gain``.

        """
        if not 0 < lose <= gain <= 1:
            raise ValueError(f"a block is gained at {gain} and lost below {lose}: that is no order")
        self._part, self._gain, self._lose = part, gain, lose
        self._files: dict[Hashable, _File] = {}
        self._resident: dict[str, None] = {}
        self._told: dict[str, None] = {}

    @property
    def resident(self) -> tuple[str, ...]:
        """The blocks that are resident, in the order in which they came to be."""
        return tuple(self._resident)

    @property
    def pages(self) -> int:
        """How many pages of files that are blocks are cached."""
        return sum(sum(file.cached.values()) for file in self._files.values() if file.name)

    def knows(self, file: Hashable) -> bool:
        """Return whether something of a file is cached, as far as was told."""
        return file in self._files

    def named(self, file: Hashable) -> bool:
        """Return whether it is known which block a file is, or are its parts."""
        known = self._files.get(file)
        return known is not None and known.name is not None

    def met(self, file: Hashable, name: str | None, pages: int) -> None:
        """Say which block a file is, or are its parts, and how large; also when that changed.

        Args:
            file: what names it here.
            name: that its store gives it, None for none.
            pages: its size.

        """
        known = self._files.setdefault(file, _File())
        if known.name != name:
            self._forget(known)
        known.name, known.pages = name, pages
        for part in known.cached:
            self._judge(known, part)

    def change(self, file: Hashable, index: int, pages: int, *, cached: bool) -> None:
        """Add what was told of a file.

        Args:
            file: which.
            index: of the first page.
            pages: how many.
            cached: whether they are cached now, or no more.

        """
        known = self._files.setdefault(file, _File())
        for part, some in self._parts(index, pages):
            now = max(0, known.cached.get(part, 0) + (some if cached else -some))
            known.cached[part] = now
            self._judge(known, part)
            if not now:
                del known.cached[part]
        if not known.cached:
            del self._files[file]

    def hold(self, file: Hashable, name: str, pages: int, ranges: Iterable[range]) -> None:
        """Have a file hold just these pages, in place of what was told of it before."""
        before = self._files.pop(file, _File())
        known = self._files[file] = _File(before.name, pages)
        for some in ranges:
            for part, count in self._parts(some.start, len(some)):
                known.cached[part] = known.cached.get(part, 0) + count
        for part in before.cached.keys() - known.cached.keys():
            self._judge(known, part)
        self.met(file, name, pages)
        if not known.cached:
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
        """See whether a part of a file is resident."""
        if file.name is None:
            return
        size = file.pages
        if self._part:
            size = min(self._part, size - part * self._part)
        # What was told of a file that grew meanwhile may be more than its size.
        share = file.cached.get(part, 0) / max(1, size)
        if share >= self._gain:
            self._resident.setdefault(self._block(file, part))
        elif share < self._lose:
            self._resident.pop(self._block(file, part), None)

    def _forget(self, file: _File) -> None:
        for part in file.cached:
            self._resident.pop(self._block(file, part), None)

    def _block(self, file: _File, part: int) -> str:
        return f"{file.name}#{part}" if self._part else str(file.name)

    def _parts(self, index: int, pages: int) -> Iterator[tuple[int, int]]:
        """Yield each part that some pages are of, with how many of them are."""
        if not self._part:
            yield 0, pages
            return
        end = index + pages
        while index < end:
            part = index // self._part
            stop = min(end, (part + 1) * self._part)
            yield part, stop - index
            index = stop
