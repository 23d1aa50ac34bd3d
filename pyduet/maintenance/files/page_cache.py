# SPDX-License-Identifier: MIT
"""What a task alone brought into the page cache, so that it can be dropped again."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pyduet.files import cached_ranges
from pyduet.maintenance.frame.inventory import open_quietly
from pyduet.maintenance.frame.work import Work

_PAGE = os.sysconf("SC_PAGESIZE")


class Footprint(NamedTuple):
    """A file that was read, and its pages that were not cached before that."""

    work: Work
    ranges: Sequence[range]

    @property
    def bytes(self) -> int:
        """How much was brought in."""
        return sum(map(len, self.ranges)) * _PAGE

    def drop_part(self, fd: int, begin: int, end: int) -> None:
        """Have the kernel drop what was brought in between two bytes of the file, which is open."""
        first, last = begin // _PAGE, end // _PAGE
        parts = (range(max(one.start, first), min(one.stop, last)) for one in self.ranges)
        drop(fd, filter(None, parts))

    def left(self, root: str) -> "Footprint":
        """Return what of it is still in memory; nothing of a file that is gone, or another."""
        with self._opened(root) as fd:
            there = [] if fd is None else cached_ranges(fd)
            return Footprint(self.work, list(_common(self.ranges, there)))

    def drop(self, root: str) -> None:
        """Have the kernel drop what was brought in; dirty pages stay.

        A file that is gone, or is another by now, is left alone.
        """
        with self._opened(root) as fd:
            if fd is not None:
                drop(fd, self.ranges)

    @contextlib.contextmanager
    def _opened(self, root: str) -> Iterator[int | None]:
        """Open the file; None when it is gone, or another."""
        try:
            fd = open_quietly(os.path.join(root, self.work.path))
        except OSError:
            yield None
            return
        try:
            yield fd if os.fstat(fd).st_ino == self.work.stamp.ino else None
        finally:
            os.close(fd)


def drop(fd: int, ranges: Iterable[range]) -> None:
    """Have the kernel drop pages of an open file; dirty pages stay."""
    for pages in ranges:
        # 0 bytes would mean: to the end.
        os.posix_fadvise(fd, pages.start * _PAGE, len(pages) * _PAGE, os.POSIX_FADV_DONTNEED)


def missing(fd: int, pages: int) -> list[range]:
    """Return which of the first pages of an open file are not in the page cache."""
    return list(_gaps(cached_ranges(fd), pages))


def _gaps(cached: Iterable[range], pages: int) -> Iterable[range]:
    begin = 0
    for one in cached:
        if one.start > begin:
            yield range(begin, min(one.start, pages))
        begin = one.stop
    if begin < pages:
        yield range(begin, pages)


def _common(some: Iterable[range], others: Iterable[range]) -> Iterable[range]:
    """Yield what is in both of two lists of ranges, which are in order."""
    rest = iter(others)
    other = next(rest, None)
    for one in some:
        while other is not None and other.start < one.stop:
            common = range(max(one.start, other.start), min(one.stop, other.stop))
            if common:
                yield common
            if other.stop > one.stop:
                break
            other = next(rest, None)
