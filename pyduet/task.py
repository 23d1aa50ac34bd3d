# SPDX-License-Identifier: GPL-2.0-only
"""A registered task: its events, its done marks, and the paths of its files."""

import ctypes
import errno
import itertools
import os
import select
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from pyduet import abi
from pyduet.call import call
from pyduet.errors import Operation, TaskGoneError, error_for
from pyduet.events import FileId, Item, Mask, decode


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One registered task, of any process.

    Attributes:
        id: identity of the task, 1 to 255; reused after the task ended.
        fd: number of the task's descriptor in the process that registered it.
        name: human-readable name.
        mask: what the task asked for.
        path: the directory, as the registering process saw it.

    """

    id: int
    fd: int
    name: str
    mask: Mask
    path: str


def list_tasks(fd: int) -> list[TaskInfo]:
    """Return the registered tasks of all processes, asked over the device or a task."""
    request = abi.TaskList()
    request.head.size = ctypes.sizeof(abi.StatusArgs)
    request.head.flags = abi.Status.PRINT_LIST
    request.head.numtasks = abi.MAX_TASKS
    call(fd, abi.IOC_STATUS, request, Operation.LIST)
    return [
        TaskInfo(
            id=task.id,
            fd=task.fd,
            name=os.fsdecode(task.name),
            mask=Mask(task.regmask & ~abi.Page.FD_NONBLOCK),
            path=os.fsdecode(task.path),
        )
        for task in itertools.islice(request.tasks, request.head.numtasks)
    ]


class Task:
    """A registration; made by :meth:`Device.register`, a context manager that ends it.

    Owns the task's descriptor, which is close-on-exec and whose closing ends
    the task. Using a closed task raises :class:`ValueError`.

    Thread-safety: ``mark_done``, ``unmark``, ``is_done`` and ``path_of`` may be
    called from several threads; events are read by one thread at a time; and
    ``close()`` waits for nobody, so no other thread may be in a call.
    """

    def __init__(self, fd: int, *, name: str, path: str) -> None:
        """Take over the descriptor; :meth:`Device.register` calls this."""
        os.set_inheritable(fd, False)
        self._fd = fd
        self._id: int | None = None
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        #: Name that the task was registered with.
        self.name = name
        #: Directory that the task was registered on, as it was given.
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
        """Identity of the task, 1 to 255.

        Items carry it; before the first one it is looked up in the task list
        by descriptor number and name.

        Raises:
            TaskGoneError: no such task is registered any more.
            LookupError: several tasks of that descriptor number and name exist
                (of other processes); register under a name of its own.

        """
        fd = self.fileno()
        if self._id is None:
            ids = [t.id for t in list_tasks(fd) if (t.fd, t.name) == (fd, self.name)]
            if not ids:
                raise TaskGoneError(
                    errno.ESRCH,
                    f"the task {self.name} on {self.path} is not registered; register again",
                )
            if len(ids) > 1:
                raise LookupError(f"tasks {ids} are all named {self.name}; use a name of its own")
            self._id = ids[0]
        return self._id

    def read(self, max_items: int = 4096) -> list[Item]:
        """Return what is pending now, without waiting; an empty list when nothing is.

        Args:
            max_items: how many pages at most; consecutive ones with the same
                news come merged, so fewer objects are returned.

        Raises:
            OffError: Duet was switched off.
            TaskGoneError: the file system was unmounted, and all was read.

        """
        if max_items < 1:
            raise ValueError(f"max_items is {max_items}; at least 1 is needed")
        try:
            data = os.read(self.fileno(), max_items * abi.ITEM.size)
        except BlockingIOError:
            return []
        except OSError as error:
            raise error_for(error.errno or 0, Operation.READ, self.path) from error
        items = list(decode(data))
        if items:
            self._id = items[0].file.task
        return items

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

    def path_of(self, file: FileId) -> str:
        """Return the path of a file, as it is now; nothing is remembered between calls.

        Raises:
            PathNotFoundError: it was deleted, or moved out of the directory.
            TaskGoneError: the task ended.

        """
        request = abi.GpathArgs(size=ctypes.sizeof(abi.GpathArgs), uuid=_uuid(file))
        call(self.fileno(), abi.IOC_GPATH, request, Operation.PATH, str(file))
        return os.fsdecode(request.path)

    def _bmap(self, flag: abi.Bmap, file: FileId) -> int:
        request = abi.BmapArgs(size=ctypes.sizeof(abi.BmapArgs), flags=flag, uuid=_uuid(file))
        return call(self.fileno(), abi.IOC_BMAP, request, Operation.BMAP, str(file))


def _uuid(file: FileId) -> abi.Uuid:
    return abi.Uuid(ino=file.ino, gen=file.generation, tid=file.task)
