# SPDX-License-Identifier: MIT
"""A registered task: its events, its done marks, and the paths of its files."""

import os
import select
import time
from collections.abc import Iterable
from typing import Self

from pyduet._driver import abi, fdinfo
from pyduet._driver.descriptor import Bell, Descriptor
from pyduet._driver.dump import dump_structures
from pyduet._driver.taskcalls import TaskCalls
from pyduet.batch import Batch
from pyduet.errors import Operation, error_for
from pyduet.events import FileId, Mask
from pyduet.info import TaskInfo
from pyduet.stream import MAX_ITEMS, Stream

#: Paths that a task remembers at most.
_PATHS = 65536


class Task(TaskCalls, Descriptor, Stream):
    """A registration; made by :meth:`Device.register`, a context manager that ends it.

    Owns the task's descriptor, which is close-on-exec and whose closing ends
    the task, unless another process has it as well: after ``fork()`` and after
    sending it over a socket (see :meth:`adopt`) each item goes to the one that
    reads it first, and the task ends when all have closed it.

    Thread-safety: marks, paths, dumps and ``close()`` may be used from several
    threads, ``close()`` also while others are in a call; it wakes who waits.
    Items are read by one thread, or one coroutine, at a time.
    """

    def __init__(
        self,
        fd: int,
        *,
        task_id: int,
        name: str,
        path: str,
        mask: Mask,
        snapshot: bool = False,
    ) -> None:
        """Take over the descriptor; :meth:`Device.register` and :meth:`adopt` call this."""
        bell = Bell()  # before anything is owned: it may fail
        super().__init__(fd, f"the task on {path}", path)
        self._id = task_id
        self.name = name
        self.path = path
        self.mask = mask
        self.finite = snapshot
        self._bell = bell
        self._poll = _poll_of(fd, bell)
        self._awaited = False
        self._paths: dict[FileId, tuple[float, str]] = {}

    def __repr__(self) -> str:
        """Return which task it is, and of what, for people."""
        names, kind = ",".join(self.mask.names), ", snapshot" if self.finite else ""
        closed = ", closed" if self.closed else ""
        return f"<Task {self._id} {self.name!r} on {self.path!r}, {names}{kind}{closed}>"

    @classmethod
    def adopt(cls, fd: int) -> Self:
        """Take over the descriptor of a task that another process registered.

        For one that was inherited (``pass_fds`` of :mod:`subprocess`) or
        received over a socket (``socket.recv_fds``). It is made non-blocking,
        for all who share it.

        Args:
            fd: the descriptor; the task owns it from here on.

        Raises:
            ValueError: it is no task's descriptor, or its items are larger
                than this library knows. It stays open.

        """
        found = fdinfo.read(fd)
        if found.item_size != abi.ITEM.size:
            raise ValueError(
                f"descriptor {fd} has items of {found.item_size} bytes; "
                f"this library knows those of {abi.ITEM.size}"
            )
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)
        return cls(
            fd,
            task_id=found.task,
            name=found.name,
            path=found.path,
            mask=found.mask,
            snapshot=bool(found.flags & abi.Register.SNAPSHOT),
        )

    def info(self) -> TaskInfo:
        """Return what the driver says of the task, to whoever holds its descriptor.

        Raises:
            OffError, TaskGoneError: the task ended.

        """
        subject = f"the task on {self.path}"
        [raw] = dump_structures(self, abi.IOC_DUMP_TASKS, abi.TaskInfo, subject)
        return TaskInfo.of(raw)

    @property
    def snapshot(self) -> bool:
        """Whether it tells what is cached once, and of no change."""
        return self.finite

    @property
    def id(self) -> int:
        """Identity of the task, 1 to 255; raises ValueError when closed."""
        self.fileno()
        return self._id

    def read_batch(self, max_items: int = MAX_ITEMS) -> Batch:
        """Return what is pending now, without waiting; see :meth:`Stream.read_batch`."""
        if max_items < 1:
            raise ValueError(f"max_items is {max_items}; at least 1 is needed")
        with self._use() as fd:
            try:
                return Batch(os.read(fd, max_items * abi.ITEM.size))
            except BlockingIOError:
                return Batch()
            except OSError as error:
                raise error_for(error.errno or 0, Operation.READ, self.path) from error

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to read; see :meth:`Stream.wait`."""
        end = None if timeout is None else time.monotonic() + timeout
        with self._use() as fd:
            while True:
                left = None if end is None else max(0.0, end - time.monotonic())
                ready = dict(self._poll.poll(None if left is None else left * 1000))
                if self.closed or not ready:
                    return False
                if fd in ready:
                    return True
                # Rung by the other process of a fork, which closed its task.
                self._bell.silence()

    async def wait_async(self) -> bool:
        """Wait in the running event loop; see :meth:`Stream.wait_async`."""
        from pyduet._driver.aio import readable

        if self._awaited:
            raise RuntimeError(f"another coroutine waits for the task on {self.path}")
        with self._use() as fd:
            self._awaited = True
            try:
                while not self.closed and not self._readable(fd):
                    await readable(fd, self._bell.fileno())
            finally:
                self._awaited = False
            return not self.closed

    def _readable(self, fd: int) -> bool:
        """Return whether there is something to read, and silence a bell that is not ours."""
        ready = dict(self._poll.poll(0))
        if not self.closed and self._bell.fileno() in ready:
            self._bell.silence()
        return fd in ready

    def _wake(self) -> None:
        self._bell.ring()

    def _release(self) -> None:
        self._bell.close()
        super()._release()

    def _begin_in_child(self) -> None:
        super()._begin_in_child()
        # Another thread may have been in it, and would be for ever.
        self._poll = _poll_of(self._fd, self._bell)
        self._awaited = False

    def path_of(self, file: FileId, *, max_age: float = 1.0) -> str:
        """Return the path of a file, as it was at most ``max_age`` seconds ago.

        Items of one file come together, so one call of the driver serves them
        all; what :meth:`paths_of` found is remembered as well.

        Args:
            file: one that the task was told of.
            max_age: seconds for which an answer is remembered; 0 asks anew.

        Raises:
            PathNotFoundError: it was deleted, or moved out of the directory.
            PermissionDeniedError: who registered the task may not know of it.
            TaskGoneError: the task ended.

        """
        if max_age > 0:
            known = self._paths.get(file)
            if known and time.monotonic() - known[0] <= max_age:
                self.fileno()
                return known[1]
        return self._remember(file, self._path(file))

    def paths_of(self, files: Iterable[FileId]) -> dict[FileId, str]:
        """Return the paths of files; see :meth:`TaskCalls.paths_of`. They are remembered."""
        found = super().paths_of(files)
        for file, path in found.items():
            self._remember(file, path)
        return found

    def _over(self) -> tuple[Descriptor, int]:
        return self, 0

    def _words(self) -> str:
        return self.path

    def _remember(self, file: FileId, path: str) -> str:
        if len(self._paths) >= _PATHS:
            self._paths.clear()
        self._paths[file] = time.monotonic(), path
        return path


def _poll_of(fd: int, bell: Bell) -> select.poll:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.register(bell, select.POLLIN)
    return poll
