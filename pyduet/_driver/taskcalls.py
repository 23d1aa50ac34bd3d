# SPDX-License-Identifier: MIT
"""What can be asked of a task and done to it, over its own descriptor or by its number."""

import ctypes
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from pyduet._driver import abi, bulk
from pyduet._driver.descriptor import Descriptor
from pyduet._driver.dump import dump, dump_structures
from pyduet.errors import Operation, error_for
from pyduet.events import FileId, Item, decode


class TaskCalls(ABC):
    """A task's done marks and paths, what is pending of it, and rescans."""

    @property
    @abstractmethod
    def id(self) -> int:
        """Identity of the task, 1 to 255."""

    @abstractmethod
    def _over(self) -> tuple[Descriptor, int]:
        """Return the descriptor of the calls, and the number that they say: 0 over the task's."""

    @abstractmethod
    def _words(self) -> str:
        """Return what the task is called in messages."""

    def mark_done(self, file: FileId) -> None:
        """Mark a file done: the task is told no more of it."""
        self._bmap(abi.Bmap.SET, file)

    def unmark(self, file: FileId) -> None:
        """Take the done mark away: the task is told of the file again."""
        self._bmap(abi.Bmap.RESET, file)

    def is_done(self, file: FileId) -> bool:
        """Return whether a file is done, or of no interest to the task."""
        return self._bmap(abi.Bmap.CHECK, file) == 1

    def mark_many(self, files: Iterable[FileId]) -> None:
        """Mark files done, with few calls.

        Raises:
            DuetError: of the first file that could not be marked; those after
                it may be marked.

        """
        self._marks(abi.Bmap.SET, files)

    def unmark_many(self, files: Iterable[FileId]) -> None:
        """Take the done marks of files away, with few calls; raises as :meth:`mark_many`."""
        self._marks(abi.Bmap.RESET, files)

    def are_done(self, files: Iterable[FileId]) -> list[bool]:
        """Return of each file what :meth:`is_done` would; raises as :meth:`mark_many`."""
        return [result == 1 for result in self._marks(abi.Bmap.CHECK, files)]

    def marked(self) -> Iterator[FileId]:
        """Yield the files that are marked done, in no order.

        What is marked or unmarked meanwhile may or may not be seen.

        Raises:
            OffError, TaskGoneError: the task ended.

        """
        descriptor, tid = self._over()
        subject = f"the done marks of {self._words()}"
        for ref in dump_structures(descriptor, abi.IOC_DUMP_MARKS, abi.FileRef, subject, tid=tid):
            yield FileId(ref.ino, ref.gen)

    def pending(self) -> Iterator[Item]:
        """Yield what a read would return now, in another order, and leave it pending.

        What happens meanwhile may or may not be seen. Overflows are not, and
        nothing of a snapshot.

        Raises:
            PermissionDeniedError: the task was registered without
                CAP_SYS_ADMIN, and the caller has none either.
            OffError, TaskGoneError: the task ended.

        """
        descriptor, tid = self._over()
        subject = f"what is pending of {self._words()}"
        for data in dump(descriptor, abi.IOC_DUMP_PENDING, abi.ITEM.size, subject, tid=tid):
            yield from decode(data)

    def rescan(self) -> None:
        """Have the driver look at all that is cached again; the news come as items.

        A state-based task is told what differs from what it knows, an
        event-based one ``ADDED`` and ``DIRTY`` of all that is cached and dirty.
        This brings a task that overflowed back to the truth.

        Raises:
            OffError, TaskGoneError: the task ended.

        """
        descriptor, tid = self._over()
        descriptor.ioctl(abi.IOC_RESCAN, abi.Rescan(tid=tid), Operation.RESCAN, self._words())

    def paths_of(self, files: Iterable[FileId]) -> dict[FileId, str]:
        """Return the paths of files, as they are now, with few calls.

        A file that :meth:`path_of` would not find, or not be permitted to
        find, is left out.

        Raises:
            OffError, TaskGoneError: the task ended.

        """
        descriptor, tid = self._over()
        found = {}
        for file, answer in bulk.paths(descriptor, files, tid=tid):
            if isinstance(answer, str):
                found[file] = answer
            elif -answer not in (errno.ENOENT, errno.EACCES):
                raise error_for(-answer, Operation.PATH, str(file))
        return found

    def _path(self, file: FileId) -> str:
        request = abi.GpathArgs(size=ctypes.sizeof(abi.GpathArgs), uuid=self._uuid(file))
        self._over()[0].ioctl(abi.IOC_GPATH, request, Operation.PATH, str(file))
        return os.fsdecode(request.path)

    def _marks(self, flag: abi.Bmap, files: Iterable[FileId]) -> list[int]:
        descriptor, tid = self._over()
        results = []
        for file, result in bulk.marks(descriptor, flag, files, tid=tid):
            if result < 0:
                raise error_for(-result, Operation.BMAP, str(file))
            results.append(result)
        return results

    def _bmap(self, flag: abi.Bmap, file: FileId) -> int:
        request = abi.BmapArgs(size=ctypes.sizeof(abi.BmapArgs), flags=flag, uuid=self._uuid(file))
        return self._over()[0].ioctl(abi.IOC_BMAP, request, Operation.BMAP, str(file))

    def _uuid(self, file: FileId) -> abi.Uuid:
        return abi.Uuid(ino=file.ino, gen=file.generation, tid=self.id)
