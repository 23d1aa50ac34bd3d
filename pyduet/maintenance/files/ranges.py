# SPDX-License-Identifier: MIT
"""Sets of pages as ranges: what they cost depends on how many ranges there are, not on where."""

import bisect
import operator
from array import array
from collections.abc import Iterable, Iterator, Sequence


def without(some: Iterable[range], others: Iterable[range]) -> Iterator[range]:
    """Yield what is in the first of two lists of ranges, and not in the other; both in order."""
    rest = iter(others)
    other = next(rest, None)
    for one in some:
        begin = one.start
        while other is not None and other.start < one.stop:
            if begin < other.start:
                yield range(begin, other.start)
            begin = max(begin, other.stop)
            if other.stop > one.stop:
                break
            other = next(rest, None)
        if begin < one.stop:
            yield range(begin, one.stop)


def common(some: Iterable[range], others: Iterable[range]) -> Iterator[range]:
    """Yield what is in both of two lists of ranges, which are in order."""
    rest = iter(others)
    other = next(rest, None)
    for one in some:
        while other is not None and other.start < one.stop:
            both = range(max(one.start, other.start), min(one.stop, other.stop))
            if both:
                yield both
            if other.stop > one.stop:
                break
            other = next(rest, None)


def within(some: Sequence[range], window: range) -> Iterator[range]:
    """Yield what of a list of ranges, in order, is in one range; looks at no others."""
    first = bisect.bisect_right(some, window.start, key=operator.attrgetter("stop"))
    return common([window], (some[number] for number in range(first, len(some))))


class RangeSet:
    """A set of numbers, of which ranges come and go in any order; iterates over its ranges.

    Thread-safety: none.
    """

    __slots__ = ("_bounds",)

    def __init__(self) -> None:
        """Begin with nothing."""
        # Where a range begins and where it ends, by turns.
        self._bounds = array("Q")

    def __len__(self) -> int:
        """Return how many ranges there are."""
        return len(self._bounds) // 2

    def __iter__(self) -> Iterator[range]:
        """Yield them, in order."""
        return map(range, self._bounds[::2], self._bounds[1::2])

    def add(self, one: range) -> None:
        """Take the numbers of a range in; it is not empty."""
        self._replace(one, is_in=True)

    def remove(self, one: range) -> None:
        """Take the numbers of a range out, as far as they are in; it is not empty."""
        self._replace(one, is_in=False)

    def clear(self) -> None:
        """Take all out."""
        del self._bounds[:]

    def _replace(self, one: range, *, is_in: bool) -> None:
        begin = bisect.bisect_left(self._bounds, one.start)
        end = bisect.bisect_right(self._bounds, one.stop)
        # At an odd place a range is open: what is there already has no bound of its own.
        bounds = array("Q")
        if begin % 2 != is_in:
            bounds.append(one.start)
        if end % 2 != is_in:
            bounds.append(one.stop)
        self._bounds[begin:end] = bounds
