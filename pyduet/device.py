# SPDX-License-Identifier: GPL-2.0-only
"""The control device: switch Duet on and off, list tasks, register one."""

import ctypes
import itertools
import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from pyduet import abi
from pyduet.call import call
from pyduet.dump import dump_structures
from pyduet.errors import Operation, error_for
from pyduet.events import Mask
from pyduet.info import Info, NodeInfo, Table, TaskInfo
from pyduet.task import Task

DEFAULT_DEVICE = "/dev/duet"


class Device:
    """An open ``/dev/duet``; a context manager that closes it.

    Owns one descriptor, which is close-on-exec. Tasks that it registered live
    on when it is closed. Using a closed one raises :class:`ValueError`.

    Thread-safety: the calls may be made from several threads; ``close()`` only
    when no other thread is in a call.
    """

    def __init__(self, path: str | os.PathLike[str] = DEFAULT_DEVICE) -> None:
        """Open the device.

        Args:
            path: the device node.

        Raises:
            NotLoadedError: the kernel module is not loaded.
            PermissionDeniedError: the caller may not open the device.

        """
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise error_for(error.errno or 0, Operation.OPEN, os.fspath(path)) from error

    def __enter__(self) -> Self:
        """Return the device itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the device."""
        self.close()

    def close(self) -> None:
        """Close the descriptor; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def fileno(self) -> int:
        """Return the descriptor; raises ValueError when closed."""
        if self._fd < 0:
            raise ValueError("the device is closed")
        return self._fd

    def start(self, max_tasks: int = 0) -> None:
        """Switch Duet on; needs CAP_SYS_ADMIN.

        Args:
            max_tasks: how many tasks may be registered at a time, up to 255;
                0 is the driver's default, 8.

        Raises:
            AlreadyError: Duet is on.
            PermissionDeniedError: without CAP_SYS_ADMIN.
            ValueError: ``max_tasks`` is not within 0 to 255.

        """
        if not 0 <= max_tasks <= abi.MAX_TASKS:
            raise ValueError(f"max_tasks is {max_tasks}; 0 to {abi.MAX_TASKS} are possible")
        subject = f"{max_tasks or abi.DEFAULT_TASKS} tasks"
        self._status(Operation.START, abi.Status.START, subject, maxtasks=max_tasks)

    def stop(self) -> None:
        """Switch Duet off, which ends every task of every process; needs CAP_SYS_ADMIN.

        Raises:
            AlreadyError: Duet is off.
            PermissionDeniedError: without CAP_SYS_ADMIN.

        """
        self._status(Operation.STOP, abi.Status.STOP)

    def is_on(self) -> bool:
        """Return whether Duet is switched on."""
        return self._status(Operation.REPORT, abi.Status.REPORT) == 1

    def tasks(self) -> list[TaskInfo]:
        """Return the registered tasks of all processes; without CAP_SYS_ADMIN the user's own."""
        raw = dump_structures(self.fileno, abi.IOC_DUMP_TASKS, abi.TaskInfo, "the tasks")
        return [TaskInfo.of(task) for task in raw]

    def info(self) -> Info:
        """Return how Duet is set, and counters."""
        request = abi.Info()
        call(self.fileno(), abi.IOC_INFO, request, Operation.INFO)
        return Info.of(request)

    def table(self) -> Table:
        """Return the shape of the table of nodes; needs CAP_SYS_ADMIN.

        Raises:
            PermissionDeniedError: without CAP_SYS_ADMIN.

        """
        request = abi.Table()
        call(self.fileno(), abi.IOC_TABLE, request, Operation.LOOK, "the table")
        return Table.of(request)

    def nodes(self, first: int = 0, end: int = 0) -> Iterator[NodeInfo]:
        """Yield what the nodes of some buckets say to each task; needs CAP_SYS_ADMIN.

        What changes meanwhile may or may not be seen.

        Args:
            first: bucket to begin with.
            end: bucket to stop before, 0 for none.

        Raises:
            PermissionDeniedError: without CAP_SYS_ADMIN.

        """
        raw = dump_structures(
            self.fileno, abi.IOC_DUMP_NODES, abi.NodeInfo, "the nodes", first=first, end=end
        )
        return map(NodeInfo.of, raw)

    def register(
        self,
        path: str | os.PathLike[str],
        mask: Mask,
        *,
        name: str | None = None,
        ranges: bool = False,
        no_scan: bool = False,
        dirfd: int | None = None,
        limit: int = 0,
    ) -> Task:
        """Register a task on a directory and everything below it, or on a regular file.

        Its first items tell what is cached already, as far as the mask asks.

        Args:
            path: the directory or file.
            mask: what to be told; see :class:`Mask` for what excludes what.
            name: for people, up to 254 bytes. Without one it is made of the
                process id.
            ranges: have the driver tell runs of pages, which is cheaper.
            no_scan: do not tell what is cached already.
            dirfd: descriptor of what a relative path is relative to, without
                one the working directory; an empty path means it itself.
            limit: bytes that what the task has not read yet may take, 0 for
                the default, which is also the most without CAP_SYS_ADMIN.

        Raises:
            OffError: Duet is off.
            TooManyTasksError: no task is free.
            PathNotFoundError, NotDirectoryError: of ``path``.
            UnsupportedFilesystemError: Duet does not watch this file system,
                or this kernel does not tell what the mask asks for.
            PermissionDeniedError: no read and search permission on ``path``;
                a limit above the default.
            DuetError: a bad mask, a name or path that is too long.
            ValueError: a NUL in the name or the path.

        """
        name = f"pyduet-{os.getpid()}-{next(_SERIAL)}" if name is None else name
        raw_name, raw_path = os.fsencode(name), os.fsencode(path)
        if b"\0" in raw_name + raw_path:
            raise ValueError("a NUL in the task's name or path")
        flags = abi.Register.CLOEXEC | abi.Register.NONBLOCK
        if ranges:
            flags |= abi.Register.RANGES
        if no_scan:
            flags |= abi.Register.NO_SCAN
        name_buffer = ctypes.create_string_buffer(raw_name)
        path_buffer = ctypes.create_string_buffer(raw_path)
        request = abi.RegisterArgs(
            flags=flags,
            mask=mask,
            dirfd=_AT_FDCWD if dirfd is None else dirfd,
            path=ctypes.addressof(path_buffer),
            name=ctypes.addressof(name_buffer),
            limit=limit,
        )
        subject = os.fsdecode(path)
        fd = call(self.fileno(), abi.IOC_REGISTER, request, Operation.REGISTER, subject)
        return Task(fd, task_id=request.tid, name=name, path=subject)

    def _status(
        self, operation: Operation, flag: abi.Status, subject: str = "", *, maxtasks: int = 0
    ) -> int:
        request = abi.StatusArgs(size=ctypes.sizeof(abi.StatusArgs), flags=flag, maxtasks=maxtasks)
        return call(self.fileno(), abi.IOC_STATUS, request, operation, subject)


_SERIAL = itertools.count(1)

#: AT_FDCWD of linux/fcntl.h.
_AT_FDCWD = -100
