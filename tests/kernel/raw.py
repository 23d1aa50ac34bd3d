# SPDX-License-Identifier: MIT
"""The calls from 0x10 on as they are, with a valid argument for each to spoil."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable

from pyduet import Device, FileId, Mask, Task
from pyduet._driver import abi

AT_FDCWD = -100

#: The calls that act on a task.
TASK_CALLS = ("marks", "paths", "rescan", "pending", "marked")
#: Those that only root may make.
ROOT_CALLS = ("table", "nodes")
CALLS = ("info", "register", *TASK_CALLS, *ROOT_CALLS, "tasks")
#: Sizes of their arguments in the first version, in bytes: whatever they grow to, programs that
#: were built with it use these.
FIRST_SIZES = {
    "info": 304,
    "register": 56,
    "marks": 24,
    "paths": 32,
    "rescan": 8,
    "end": 16,
    "table": 168,
    "tasks": 56,
    "nodes": 56,
    "pending": 56,
    "marked": 56,
}
#: Of the structures that the dumps return, in bytes.
SIZES = {
    "tasks": ctypes.sizeof(abi.TaskInfo),
    "nodes": ctypes.sizeof(abi.NodeInfo),
    "pending": ctypes.sizeof(abi.Item),
    "marked": ctypes.sizeof(abi.FileRef),
}


def ioctl(fd: int, number: int, request: object) -> int:
    """Make a call; return what it returned, or the error as a negative number."""
    try:
        return int(fcntl.ioctl(fd, number, request))  # type: ignore[call-overload]
    except OSError as error:
        return -(error.errno or 0)


def resized(number: int, size: int) -> int:
    """Return a call's number for another size of its structure."""
    return number & ~(0x3FFF << 16) | size << 16


def errno_of(function: Callable[[], object]) -> int:
    """Return the error that a function ends with, 0 for none."""
    try:
        function()
    except OSError as error:
        return error.errno or -1
    return 0


class Requests:
    """A valid argument for each call, with the memory that it points to."""

    def __init__(self, device: Device, task: Task, file: FileId) -> None:
        """Take a file that the task may be asked about."""
        self.device = device
        self.task = task
        self.refs = (abi.FileRef * 1)(abi.FileRef(ino=file.ino, gen=file.generation))
        self.buffer = ctypes.create_string_buffer(2 * ctypes.sizeof(abi.TaskInfo))
        self.path = ctypes.create_string_buffer(os.fsencode(task.path))
        self.name = ctypes.create_string_buffer(b"raw")

    def make(self, name: str) -> tuple[int, int, ctypes.Structure]:
        """Return descriptor, number and argument of a call by its name."""
        fd, number, request = self._make(name)
        request.memory = self  # what it points to lives as long as it does
        return fd, number, request

    def _make(self, name: str) -> tuple[int, int, ctypes.Structure]:
        task, device = self.task.fileno(), self.device.fileno()
        refs, buffer = ctypes.addressof(self.refs), ctypes.addressof(self.buffer)
        dump = abi.Dump(len=len(self.buffer), buf=buffer, size=SIZES.get(name, 0))
        match name:
            case "info":
                return device, abi.IOC_INFO, abi.Info()
            case "register":
                return device, abi.IOC_REGISTER, self.register()
            case "marks":
                return task, abi.IOC_MARKS, abi.Marks(flags=abi.Bmap.SET, nr=1, files=refs)
            case "paths":
                return (
                    task,
                    abi.IOC_PATHS,
                    abi.Paths(nr=1, len=len(self.buffer), files=refs, buf=buffer),
                )
            case "rescan":
                return task, abi.IOC_RESCAN, abi.Rescan()
            case "end":
                return task, abi.IOC_END, abi.End()
            case "table":
                return device, abi.IOC_TABLE, abi.Table()
            case "tasks":
                return device, abi.IOC_DUMP_TASKS, dump
            case "nodes":
                return device, abi.IOC_DUMP_NODES, dump
            case "pending":
                return task, abi.IOC_DUMP_PENDING, dump
            case "marked":
                return task, abi.IOC_DUMP_MARKS, dump
        raise LookupError(name)

    def register(self, mask: int = Mask.EXISTS, flags: int = 0) -> abi.RegisterArgs:
        """Return the argument for another task on the same path."""
        return abi.RegisterArgs(
            flags=flags,
            mask=mask,
            dirfd=AT_FDCWD,
            path=ctypes.addressof(self.path),
            name=ctypes.addressof(self.name),
        )

    def state(self) -> tuple[list[int], bool, int]:
        """Return what a call could have changed: the tasks, the file's mark, the descriptors."""
        check = abi.Marks(flags=abi.Bmap.CHECK, nr=1, files=ctypes.addressof(self.refs))
        assert ioctl(self.task.fileno(), abi.IOC_MARKS, check) == 0
        marked = self.refs[0].result == 1
        assert self.refs[0].result >= 0, errno.errorcode[-self.refs[0].result]
        return [task.id for task in self.device.tasks()], marked, len(os.listdir("/proc/self/fd"))
