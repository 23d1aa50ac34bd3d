# SPDX-License-Identifier: MIT
"""The control device: switch Duet on and off, list tasks, register one."""

import ctypes
import errno
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

from pyduet._driver import abi, sysfs
from pyduet._driver.descriptor import Descriptor
from pyduet._driver.dump import dump_structures
from pyduet._driver.handle import TaskHandle
from pyduet.errors import Operation, error_for
from pyduet.events import Mask
from pyduet.info import DriverInfo, NodeInfo, TableInfo, TaskInfo
from pyduet.task import Task

DEFAULT_DEVICE = "/dev/duet"


class Device(Descriptor):
    """An open ``/dev/duet``; a context manager that closes it.

    Owns one descriptor, which is close-on-exec. Tasks that it registered live
    on when it is closed. Using a closed one raises :class:`ValueError`.

    Thread-safety: everything may be called from several threads, ``close()``
    also while others are in a call.
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
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise error_for(error.errno or 0, Operation.OPEN, os.fspath(path)) from error
        super().__init__(fd, "the device", os.fspath(path))

    def __repr__(self) -> str:
        """Return which device it is, for people."""
        return f"<Device {self._filename!r}{', closed' if self.closed else ''}>"

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

    def set_limits(
        self,
        *,
        limit: int | None = None,
        task_limit: int | None = None,
        max_tasks: int | None = None,
    ) -> None:
        """Set how much memory Duet may take, and for how many tasks; needs CAP_SYS_ADMIN.

        All or nothing: when the driver refuses one, those before it are put
        back. None leaves a setting as it is.

        Args:
            limit: bytes that files, nodes and marks of all tasks may take; 0
                is the driver's default, 1/32 of the memory.
            task_limit: bytes that what a task has not read yet may take, for
                tasks registered from now on; 0 is the default, 1/128.
            max_tasks: how many tasks may be registered at a time, 1 to 255;
                while Duet is off.

        Raises:
            InUseError: ``limit`` is below what is in use, or Duet is on and
                ``max_tasks`` another, or ``limit`` more than eight times what
                it was when Duet was switched on.
            PermissionDeniedError: without CAP_SYS_ADMIN.
            ValueError: a number that cannot be.

        """
        if max_tasks is not None and not 1 <= max_tasks <= abi.MAX_TASKS:
            raise ValueError(f"max_tasks is {max_tasks}; 1 to {abi.MAX_TASKS} are possible")
        for name, value in (("limit", limit), ("task_limit", task_limit)):
            if value is not None and not 0 <= value < 1 << 63:
                raise ValueError(f"{name} is {value} bytes; 0 to {(1 << 63) - 1} are possible")
        now = self.info()
        wanted = [
            (_MAX_TASKS, now.max_tasks, max_tasks),
            (_LIMIT, now.limit, limit),
            (_TASK_LIMIT, now.task_limit, task_limit),
        ]
        done: list[tuple[_Setting, int]] = []
        try:
            for setting, before, value in wanted:
                if value is not None:
                    setting.write(value)
                    done.append((setting, before))
        except OSError:
            for setting, before in reversed(done):
                setting.write(before)
            raise

    def hooks(self) -> dict[str, str]:
        """Return a word for each hook: ``detached``, ``alive``, ``silent`` or ``missing``.

        The words are explained in ``docs/ABI/testing/sysfs-class-misc-duet``.

        Raises:
            NotLoadedError: the kernel module is not loaded.

        """
        return sysfs.hooks()

    def tasks(self) -> list[TaskInfo]:
        """Return the registered tasks of all processes; without CAP_SYS_ADMIN the user's own."""
        raw = dump_structures(self, abi.IOC_DUMP_TASKS, abi.TaskInfo, "the tasks")
        return [TaskInfo.of(task) for task in raw]

    def task(self, task_id: int) -> TaskHandle:
        """Return a task by its number, to look into it and to act on it.

        Any task of this process; those of others need CAP_SYS_ADMIN. Nothing
        is asked of the driver before it is used.

        Args:
            task_id: its identity, as :meth:`tasks` tells it.

        Raises:
            ValueError: the number is not within 1 to 255.

        """
        return TaskHandle(self, task_id)

    def info(self) -> DriverInfo:
        """Return how Duet is set, and counters."""
        request = abi.Info()
        self.ioctl(abi.IOC_INFO, request, Operation.INFO)
        return DriverInfo.of(request)

    def table(self) -> TableInfo:
        """Return the shape of the table of nodes; needs CAP_SYS_ADMIN.

        For debugging: a later driver may keep things in another way, and say
        nothing of it (``"table"`` is then none of the ``features`` of
        :meth:`info`).

        Raises:
            PermissionDeniedError: without CAP_SYS_ADMIN.

        """
        request = abi.Table()
        self.ioctl(abi.IOC_TABLE, request, Operation.LOOK, "the table")
        return TableInfo.of(request)

    def nodes(self, first: int = 0, end: int = 0) -> Iterator[NodeInfo]:
        """Yield what the nodes of some buckets say to each task; needs CAP_SYS_ADMIN.

        For debugging, as :meth:`table`. What changes meanwhile may or may not
        be seen.

        Args:
            first: bucket to begin with.
            end: bucket to stop before, 0 for none.

        Raises:
            PermissionDeniedError: without CAP_SYS_ADMIN.

        """
        raw = dump_structures(
            self, abi.IOC_DUMP_NODES, abi.NodeInfo, "the nodes", first=first, end=end
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
        snapshot: bool = False,
        dirfd: int | None = None,
        limit: int = 0,
    ) -> Task:
        """Register a task on a directory and everything below it, or on a regular file.

        Its first items tell what is cached already, as far as the mask asks.

        Args:
            path: the directory or file.
            mask: what to be told.
            name: for people, up to 254 bytes. Without one it is made of the
                process id.
            ranges: have the driver tell runs of pages, which is cheaper.
            no_scan: do not tell what is cached already.
            snapshot: tell what is cached now and nothing else, which is far
                cheaper: for a mask of states. :meth:`Task.events` ends when
                all was told.
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
            DuetError: a name or path that is too long.
            ValueError: the mask breaks a rule, see :meth:`Mask.check`; a
                snapshot that is not told what is cached; a NUL in the name or
                the path.

        """
        Mask(mask).check(snapshot=snapshot)
        if snapshot and no_scan:
            raise ValueError("a snapshot tells what is cached already; leave out no_scan")
        name = f"pyduet-{os.getpid()}-{next(_SERIAL)}" if name is None else name
        raw_name, raw_path = os.fsencode(name), os.fsencode(path)
        if b"\0" in raw_name + raw_path:
            raise ValueError("a NUL in the task's name or path")
        flags = abi.Register.NONBLOCK
        if ranges:
            flags |= abi.Register.RANGES
        if no_scan:
            flags |= abi.Register.NO_SCAN
        if snapshot:
            flags |= abi.Register.SNAPSHOT
        name_buffer = ctypes.create_string_buffer(raw_name)
        path_buffer = ctypes.create_string_buffer(raw_path)
        request = abi.RegisterArgs(
            flags=flags,
            mask=mask,
            dirfd=_AT_FDCWD if dirfd is None else dirfd,
            path=ctypes.addressof(path_buffer),
            name=ctypes.addressof(name_buffer),
            limit=limit,
            item_size=abi.ITEM.size,
        )
        subject = os.fsdecode(path)
        fd = self.ioctl(abi.IOC_REGISTER, request, Operation.REGISTER, subject)
        try:
            return Task(
                fd, task_id=request.tid, name=name, path=subject, mask=mask, snapshot=snapshot
            )
        except OSError:
            os.close(fd)
            raise

    def end(self, task_id: int, *, pid: int = 0) -> None:
        """End a task, whoever holds its descriptor, as if Duet were switched off for it alone.

        Its process goes on, and is told with :class:`TaskEndedError`.

        Args:
            task_id: its number, from 1 on.
            pid: of the process that registered it, so that no other task is met
                that has the number by now; 0 for any.

        Raises:
            TaskGoneError: there is no such task, or not of that process.
            PermissionDeniedError: of another process without CAP_SYS_ADMIN.

        """
        subject = f"task {task_id}"
        if not 1 <= task_id <= abi.MAX_TASKS:
            raise error_for(errno.ESRCH, Operation.END, subject, self._filename)
        self.ioctl(abi.IOC_END, abi.End(tid=task_id, pid=pid), Operation.END, subject)

    def _status(
        self, operation: Operation, flag: abi.Status, subject: str = "", *, maxtasks: int = 0
    ) -> int:
        request = abi.StatusArgs(size=ctypes.sizeof(abi.StatusArgs), flags=flag, maxtasks=maxtasks)
        return self.ioctl(abi.IOC_STATUS, request, operation, subject)


class _Setting(NamedTuple):
    """A number in sysfs that the administrator sets."""

    file: str
    operation: Operation
    words: str

    def write(self, value: int) -> None:
        sysfs.write(self.file, value, self.operation, self.words.format(value))


_MAX_TASKS = _Setting("max_tasks", Operation.SET_TASKS, "{}")
_LIMIT = _Setting("limit_bytes", Operation.SET_LIMIT, "the limit of all tasks to {} bytes")
_TASK_LIMIT = _Setting("task_limit_bytes", Operation.SET_LIMIT, "the limit of a task to {} bytes")

_SERIAL = itertools.count(1)

#: AT_FDCWD of linux/fcntl.h.
_AT_FDCWD = -100
