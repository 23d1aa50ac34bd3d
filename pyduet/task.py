# SPDX-License-Identifier: GPL-2.0-only
"""A registered task: its events, its done marks, and the paths of its files."""

import ctypes
import errno
import os
import select
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from pyduet import abi, batch
from pyduet.call import call
from pyduet.dump import dump, dump_structures
from pyduet.errors import Operation, error_for
from pyduet.events import FileId, Item, decode


class Task:
    """A registration; made by :meth:`Device.register`, a context manager that ends it.

    Owns the task's descriptor, which is close-on-exec and whose closing ends
    the task. Using a closed task raises :class:`ValueError`.

    Thread-safety: marks, paths and dumps may be asked for from several
    threads; events are read by one thread at a time; and ``close()`` waits for
    nobody, so no other thread may be in a call.
    """

    def __init__(self, fd: int, *, task_id: int, name: str, path: str) -> None:
        """Take over the descriptor; :meth:`Device.register` calls this."""
        self._fd = fd
        self._id = task_id
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        #: Name that the task was registered with.
        self.name = name
        #: Directory or file that the task was registered on, as it was given.
        self.path = path

    def __enter__(self) -> Self:
        """Return the task itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the task."""
        self.close()

    def close(self) -> None:
        """End the task; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def fileno(self) -> int:
        """Return the task's descriptor, for poll and the like; raises ValueError when closed."""
        if self._fd < 0:
            raise ValueError(f"the task on {self.path} is closed")
        return self._fd

    @property
    def id(self) -> int:
        """Identity of the task, 1 to 255; raises ValueError when closed."""
        self.fileno()
        return self._id

    def read(self, max_items: int = 4096) -> list[Item]:
        """Return what is pending now, without waiting; an empty list when nothing is.

        Args:
            max_items: how many of the driver's items at most: of pages, or of
                runs of pages when the task was registered for ranges.
                Consecutive ones with the same news come merged, so fewer
                objects are returned.

        Raises:
            OffError: Duet was switched off.
            TaskGoneError: the directory was removed or the file system
                unmounted, and all was read.

        """
        if max_items < 1:
            raise ValueError(f"max_items is {max_items}; at least 1 is needed")
        try:
            data = os.read(self.fileno(), max_items * abi.ITEM.size)
        except BlockingIOError:
            return []
        except OSError as error:
            raise error_for(error.errno or 0, Operation.READ, self.path) from error
        return list(decode(data))

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until :meth:`read` has something to say.

        Args:
            timeout: seconds; 0 does not wait, None waits without end.

        Returns:
            Whether it has: items, or the error that the task ended.

        """
        self.fileno()
        return bool(self._poll.poll(None if timeout is None else timeout * 1000))

    def events(self, timeout: float | None = None) -> Iterator[Item]:
        """Yield items as they come.

        Args:
            timeout: stop after so many seconds without one; 0 yields what is
                pending and stops, None never stops.

        Raises:
            OffError, TaskGoneError: as :meth:`read`.

        """
        while True:
            if items := self.read():
                yield from items
            elif not self.wait(timeout):
                return

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
            ValueError: a file of another task.

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
        subject = f"the done marks of {self.path}"
        for ref in dump_structures(self.fileno, abi.IOC_DUMP_MARKS, abi.FileRef, subject):
            yield FileId(ref.ino, ref.gen, self._id)

    def pending(self) -> Iterator[Item]:
        """Yield what :meth:`read` would return now, in another order, and leave it pending.

        What happens meanwhile may or may not be seen.

        Raises:
            PermissionDeniedError: the task was registered without
                CAP_SYS_ADMIN, and the caller has none either.
            OffError, TaskGoneError: the task ended.

        """
        subject = f"what is pending of {self.path}"
        for data in dump(self.fileno, abi.IOC_DUMP_PENDING, abi.ITEM.size, subject):
            yield from decode(data)

    def rescan(self) -> None:
        """Have the driver look at all that is cached again; the news come as items.

        A state-based task is told what differs from what it knows, an
        event-based one ``ADDED`` and ``DIRTY`` of all that is cached and dirty.
        This brings a task that overflowed back to the truth.

        Raises:
            OffError, TaskGoneError: the task ended.

        """
        call(self.fileno(), abi.IOC_RESCAN, abi.Rescan(), Operation.RESCAN, self.path)

    def path_of(self, file: FileId) -> str:
        """Return the path of a file, as it is now; nothing is remembered between calls.

        Raises:
            PathNotFoundError: it was deleted, or moved out of the directory.
            PermissionDeniedError: who registered the task may not know of it.
            TaskGoneError: the task ended.

        """
        request = abi.GpathArgs(size=ctypes.sizeof(abi.GpathArgs), uuid=_uuid(file))
        call(self.fileno(), abi.IOC_GPATH, request, Operation.PATH, str(file))
        return os.fsdecode(request.path)

    def paths_of(self, files: Iterable[FileId]) -> dict[FileId, str]:
        """Return the paths of files, as they are now, with few calls.

        A file that :meth:`path_of` would not find, or not be permitted to
        find, is left out.

        Raises:
            OffError, TaskGoneError: the task ended.
            ValueError: a file of another task.

        """
        found = {}
        for file, answer in batch.paths(self.fileno, self._own(files)):
            if isinstance(answer, str):
                found[file] = answer
            elif -answer not in (errno.ENOENT, errno.EACCES):
                raise error_for(-answer, Operation.PATH, str(file))
        return found

    def _own(self, files: Iterable[FileId]) -> Iterator[FileId]:
        """Yield the files, which have to be of this task: the batch calls cannot tell."""
        for file in files:
            if file.task != self._id:
                raise ValueError(f"{file} is of task {file.task}, and this is task {self._id}")
            yield file

    def _marks(self, flag: abi.Bmap, files: Iterable[FileId]) -> list[int]:
        results = []
        for file, result in batch.marks(self.fileno, flag, self._own(files)):
            if result < 0:
                raise error_for(-result, Operation.BMAP, str(file))
            results.append(result)
        return results

    def _bmap(self, flag: abi.Bmap, file: FileId) -> int:
        request = abi.BmapArgs(size=ctypes.sizeof(abi.BmapArgs), flags=flag, uuid=_uuid(file))
        return call(self.fileno(), abi.IOC_BMAP, request, Operation.BMAP, str(file))


def _uuid(file: FileId) -> abi.Uuid:
    return abi.Uuid(ino=file.ino, gen=file.generation, tid=file.task)
