# SPDX-License-Identifier: MIT
"""Which pages were read from the disk, and so verified, since a task began."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from pyduet._driver import abi
from pyduet.device import Device
from pyduet.errors import OffError, TaskGoneError
from pyduet.events import Mask
from pyduet.maintenance.work import Work
from pyduet.task import Task

_ADDED, _REMOVED = abi.Page.ADDED.value, abi.Page.REMOVED.value
_WRITTEN = abi.Page.DIRTY.value | abi.Page.FLUSHED.value
_MASK = Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED


class _Pages:
    """Of a file, as bits of integers: bit N is page N."""

    __slots__ = ("came", "went")

    def __init__(self) -> None:
        self.came = self.went = 0


class PagesRead:
    """Pages of files that came into the page cache by being read.

    A file system that has checksums, btrfs, verifies what it reads. A page that
    was written while it was in memory is none of these: it never came from the
    disk, or is not any more what is there. Nor is one that was cached before.

    Of a page that is told to have come, the read may not have ended, or have
    failed. So a page counts only if it is in memory and up to date, which
    mincore tells, or has gone since; a failed read that is gone shows in the
    device's count of errors: see :meth:`forget_gone`.

    Thread-safety: none.
    """

    def __init__(self, device: Device, root: str, name: str) -> None:
        """Register with Duet.

        Args:
            device: stays the caller's.
            root: the directory.
            name: of the task.

        Raises:
            DuetError: as of :meth:`Device.register`.

        """
        # What is cached already is no news: nobody knows when it was read.
        self._task: Task | None = device.register(root, _MASK, name=name, ranges=True, no_scan=True)
        self._files: dict[tuple[int, int], _Pages] = {}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the task."""
        if self._task is not None:
            self._task.close()

    def pages(self, work: Work, resident: Iterable[range]) -> int:
        """Return the pages of a file that were verified, as the bits of an integer.

        Args:
            work: the file.
            resident: its pages that are in memory now, as mincore tells.

        """
        self._look()
        pages = self._files.get(work.identity)
        if pages is None:
            return 0
        return pages.came & (bits(resident) | pages.went)

    def done(self, work: Work) -> None:
        """Be told no more of a file."""
        self._files.pop(work.identity, None)
        if self._task is not None:
            try:
                self._task.mark_done(work.identity)
            except (OffError, TaskGoneError):
                self._lose()

    def forget_gone(self) -> None:
        """Believe no more of pages that are gone: one of them may not have been read well."""
        self._look()
        for pages in self._files.values():
            pages.came &= ~pages.went
            pages.went = 0

    def _look(self) -> None:
        """Take in what is new."""
        while self._task is not None:
            try:
                batch = self._task.read_batch()
            except (OffError, TaskGoneError):
                self._lose()
                return
            if not batch:
                return
            for ino, generation, _, index, state, pages in batch.rows():
                if state == abi.ITEM_OVERFLOW:
                    # That a page was written may be among what was not told.
                    if ino:
                        self._files.pop((ino, generation), None)
                    else:
                        self._files.clear()
                    continue
                file = self._files.setdefault((ino, generation), _Pages())
                run = bits([range(index, index + (pages or 1))])
                if state & _WRITTEN:
                    file.came &= ~run
                    continue
                if state & _ADDED:
                    file.came |= run
                    file.went &= ~run
                if state & _REMOVED:
                    file.went |= run

    def _lose(self) -> None:
        """Go on without Duet: nothing that comes is known any more."""
        if self._task is not None:
            self._task.close()
        self._task = None
        self._files.clear()


def bits(ranges: Iterable[range]) -> int:
    """Return ranges of pages as the bits of an integer."""
    found = 0
    for pages in ranges:
        found |= ((1 << len(pages)) - 1) << pages.start
    return found


def runs(found: int) -> Iterable[range]:
    """Yield the set bits of an integer as ranges."""
    start = 0
    while found:
        skip = (found & -found).bit_length() - 1
        found >>= skip
        start += skip
        length = (~found & (found + 1)).bit_length() - 1
        yield range(start, start + length)
        found >>= length
        start += length
