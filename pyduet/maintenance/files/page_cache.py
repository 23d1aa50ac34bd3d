# SPDX-License-Identifier: MIT
"""What a task alone brought into the page cache, and the one place that drops it again."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from pyduet.files import cached_ranges, data_ranges
from pyduet.maintenance.files.ranges import common, without
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.work import Work

_PAGE = os.sysconf("SC_PAGESIZE")


class Footprint(NamedTuple):
    """A file that is read, and its pages that were not cached before that.

    Attributes:
        work: the file.
        ranges: of the pages of its data that were not cached.
        cached: bytes of its data that were.

    """

    work: Work
    ranges: Sequence[range]
    cached: int = 0

    @classmethod
    def of(cls, work: Work, fd: int) -> Self:
        """Look what of a file is cached, before it is read.

        Args:
            work: the file.
            fd: its descriptor.

        """
        pages = list(_pages_of_data(fd))
        ranges = list(without(pages, _cached(fd)))
        cached = sum(map(len, pages)) - sum(map(len, ranges))
        return cls(work, ranges, min(cached * _PAGE, work.size))

    @property
    def bytes(self) -> int:
        """How much was brought in."""
        return sum(map(len, self.ranges)) * _PAGE

    def drop_part(self, fd: int, begin: int, end: int) -> None:
        """Have the kernel drop what was brought in between two bytes of the file, which is open."""
        first, last = begin // _PAGE, end // _PAGE
        parts = (range(max(one.start, first), min(one.stop, last)) for one in self.ranges)
        drop(fd, filter(None, parts))

    def left(self, tree: Tree) -> "Footprint":
        """Return what of it is still in memory; nothing of a file that is gone, or another."""
        with self._opened(tree) as fd:
            there = [] if fd is None else _cached(fd)
            return Footprint(self.work, list(common(self.ranges, there)))

    def drop(self, tree: Tree) -> None:
        """Have the kernel drop what was brought in; dirty pages stay.

        A file that is gone, or is another by now, is left alone.
        """
        with self._opened(tree) as fd:
            if fd is not None:
                drop(fd, self.ranges)

    @contextlib.contextmanager
    def _opened(self, tree: Tree) -> Iterator[int | None]:
        """Open the file; None when it is gone, or another."""
        try:
            fd = tree.open(self.work.path, self.work.inode)
        except OSError:
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)


def drop(fd: int, ranges: Iterable[range]) -> None:
    """Have the kernel drop pages of an open file; dirty pages stay."""
    for pages in ranges:
        # 0 bytes would mean: to the end.
        os.posix_fadvise(fd, pages.start * _PAGE, len(pages) * _PAGE, os.POSIX_FADV_DONTNEED)


def drop_written(fd: int) -> None:
    """Have the kernel write an open file's data to the disk, and drop all of its pages."""
    os.fdatasync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def missing(fd: int) -> list[range]:
    """Return which pages of an open file's data are not in the page cache, in order.

    A page of a hole is none of these: nothing is read for it.
    """
    return list(without(_pages_of_data(fd), _cached(fd)))


def _cached(fd: int) -> list[range]:
    """Return which pages of an open file are cached; none of one that cannot be mapped.

    That is one of a FUSE file system that keeps nothing in memory.
    """
    try:
        return cached_ranges(fd)
    except OSError:
        return []


def _pages_of_data(fd: int) -> Iterator[range]:
    end = 0
    for data in data_ranges(fd, 0, os.fstat(fd).st_size):
        begin = max(end, data.start // _PAGE)
        end = -(-data.stop // _PAGE)
        if begin < end:
            yield range(begin, end)
