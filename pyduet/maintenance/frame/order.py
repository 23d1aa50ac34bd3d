# SPDX-License-Identifier: MIT
"""In which order work is done: what is most in memory first, the rest as it lies on the device."""

import heapq
import itertools
from collections.abc import Iterable

from pyduet.maintenance.frame.work import Work

#: Steps in which residency counts: a page more or less does not move a file.
_STEPS = 16


class Order:
    """The work that is left, and how much of each is cached.

    Without residency the order is that of the device: tasks that begin
    together walk together, and the disk seeks least.

    Thread-safety: none; one thread tells and asks.
    """

    def __init__(self, works: Iterable[Work]) -> None:
        """Take the work."""
        self._works = sorted(works, key=_place)
        self._number = {work.identity: number for number, work in enumerate(self._works)}
        self._cached = [0] * len(self._works)
        self._left = bytearray(b"\1" * len(self._works))
        self._heap: list[tuple[int, int]] = []
        self._cursor = 0
        self.files = len(self._works)
        self.bytes = sum(work.size for work in self._works)

    def told(self, identity: tuple[int, int], pages: int) -> None:
        """Take in that pages of a file came, or, below 0, went."""
        number = self._number.get(identity)
        if number is None:
            return
        before = self._step(number)
        self._cached[number] = max(0, self._cached[number] + pages)
        after = self._step(number)
        if after != before and after and self._left[number]:
            heapq.heappush(self._heap, (-after, number))

    def best(self) -> tuple[Work, float] | None:
        """Return what to do next, and which share of it is cached; it stays in the order."""
        heap = self._heap
        while heap:
            step, number = heap[0]
            if self._left[number] and self._step(number) == -step:
                return self._works[number], self._share(number)
            heapq.heappop(heap)
        while self._cursor < len(self._works) and not self._left[self._cursor]:
            self._cursor += 1
        if self._cursor == len(self._works):
            return None
        return self._works[self._cursor], self._share(self._cursor)

    def ahead(self, count: int) -> list[Work]:
        """Return what comes next on the device, cached or not, as many as are asked for."""
        left = (number for number in range(self._cursor, len(self._works)) if self._left[number])
        return [self._works[number] for number in itertools.islice(left, count)]

    def remove(self, work: Work) -> None:
        """Take a piece of work out: it is done, or cannot be."""
        number = self._number[work.identity]
        if self._left[number]:
            self._left[number] = 0
            self.files -= 1
            self.bytes -= work.size

    def _share(self, number: int) -> float:
        pages = self._works[number].pages
        return min(1.0, self._cached[number] / pages) if pages else 0.0

    def _step(self, number: int) -> int:
        return -int(-self._share(number) * _STEPS // 1)


def _place(work: Work) -> tuple[bool, int, int]:
    return work.physical is None, work.physical or 0, work.stamp.ino
