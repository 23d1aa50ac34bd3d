# SPDX-License-Identifier: MIT
"""Which pages were read from the disk, and so verified, since a task began."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from pyduet._driver import abi
from pyduet.device import Device
from pyduet.errors import OffError, TaskGoneError
from pyduet.events import Mask
from pyduet.maintenance.files.ranges import RangeSet, without
from pyduet.maintenance.work import Work
from pyduet.task import Task

_ADDED, _REMOVED = abi.Page.ADDED.value, abi.Page.REMOVED.value
_WRITTEN = abi.Page.DIRTY.value | abi.Page.FLUSHED.value
_MASK = Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED


#: Ranges of pages that are remembered of all files: some 64 MiB. Who reads single pages of a large
#: file, here and there, makes one with each.
_MOST = 4 << 20


class _Pages:
    """Of a file."""

    __slots__ = ("came", "went")

    def __init__(self) -> None:
        self.came = RangeSet()
        self.went = RangeSet()

    def __len__(self) -> int:
        """Return how many ranges they are."""
        return len(self.came) + len(self.went)

    def take_in(self, run: range, state: int) -> None:
        """Be told what has become of a run of pages."""
        if state & _WRITTEN:
            self.came.remove(run)
            return
        if state & _ADDED:
            self.came.add(run)
            self.went.remove(run)
        if state & _REMOVED:
            self.went.add(run)

    def forget_gone(self) -> None:
        """Believe no more of what has gone."""
        for run in self.went:
            self.came.remove(run)
        self.went.clear()


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
        #: How many ranges they have.
        self._count = 0

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

    def pages(self, work: Work, resident: Sequence[range]) -> list[range]:
        """Return the pages of a file that were verified, in order.

        Args:
            work: the file.
            resident: its pages that are in memory now, as mincore tells.

        """
        self._look()
        pages = self._files.get(work.identity)
        if pages is None:
            return []
        being_read = without(without(pages.came, resident), pages.went)
        return list(without(pages.came, being_read))

    def done(self, work: Work) -> None:
        """Be told no more of a file."""
        self._forget(work.identity)
        if self._task is not None:
            try:
                self._task.mark_done(work.identity)
            except (OffError, TaskGoneError):
                self._lose()

    def forget_gone(self) -> None:
        """Believe no more of pages that are gone: one of them may not have been read well."""
        self._look()
        for pages in self._files.values():
            pages.forget_gone()
        self._count = sum(map(len, self._files.values()))

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
                        self._forget((ino, generation))
                    else:
                        self._forget_all()
                    continue
                self._take_in((ino, generation), range(index, index + (pages or 1)), state)

    def _take_in(self, identity: tuple[int, int], run: range, state: int) -> None:
        file = self._files.get(identity)
        if file is None:
            file = self._files[identity] = _Pages()
        self._count -= len(file)
        file.take_in(run, state)
        self._count += len(file)
        if self._count > _MOST:
            # What is not known is read again.
            self._forget_all()

    def _forget(self, identity: tuple[int, int]) -> None:
        pages = self._files.pop(identity, None)
        if pages is not None:
            self._count -= len(pages)

    def _forget_all(self) -> None:
        self._files.clear()
        self._count = 0

    def _lose(self) -> None:
        """Go on without Duet: nothing that comes is known any more."""
        if self._task is not None:
            self._task.close()
        self._task = None
        self._forget_all()
