# SPDX-License-Identifier: MIT
"""What the shell holds between two lines: the device, and the tasks that it registered."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from pyduet import Device, FileId, Task, TaskInfo, identity_of
from pyduet.cli.shell.lines import UsageError

#: The last inode number that the driver takes, and the last generation.
_MAX_INO, _MAX_GENERATION = 2**64 - 2, 2**32 - 1


class Session:
    """The device and the shell's own tasks.

    Thread-safety: none; one line at a time.
    """

    def __init__(self, node: str) -> None:
        """Begin with no task; the device is opened when it is needed.

        Args:
            node: path of the device node.

        """
        self._node = node
        self._device: Device | None = None
        self._own: dict[int, Task] = {}

    def close(self) -> None:
        """End the shell's tasks and close the device."""
        self.drop_all()
        if self._device:
            self._device.close()

    @property
    def device(self) -> Device:
        """The open device; raises as :class:`Device` does."""
        if self._device is None:
            self._device = Device(self._node)
        return self._device

    def keep(self, task: Task) -> None:
        """Keep a task that the shell registered, until it is dropped."""
        if before := self._own.pop(task.id, None):
            before.close()  # switched off by somebody else meanwhile; the number was free again
        self._own[task.id] = task

    def drop(self, task_id: int) -> None:
        """End a task of the shell."""
        self._own.pop(task_id).close()

    def drop_all(self) -> None:
        """End all tasks of the shell."""
        for task_id in list(self._own):
            self.drop(task_id)

    def is_own(self, info: TaskInfo) -> bool:
        """Return whether the shell registered a task, and not who has its number by now."""
        task = self._own.get(info.id)
        return task is not None and (info.pid, info.fd) == (os.getpid(), task.fileno())

    def known(self, task_id: int) -> TaskInfo:
        """Return what the driver tells of a task.

        Raises:
            ValueError: there is none, or the caller may not see it.

        """
        for info in self.device.tasks():
            if info.id == task_id:
                return info
        raise ValueError(f"there is no task {task_id} that you may see; list tells those there are")

    def own(self, task_id: int, remedy: str) -> Task:
        """Return a task that the shell registered.

        Args:
            task_id: its number.
            remedy: what to say when it is somebody else's: what can be done.

        Raises:
            ValueError: it is somebody else's, or there is none.

        """
        info = self.known(task_id)
        if not self.is_own(info):
            _refuse(info, remedy)
        return self._own[task_id]

    def files(self, task_id: int, words: Sequence[str]) -> list[FileId]:
        """Return the files that words name: paths, or ``INO:GEN``, or a single ``INO GEN``.

        Raises:
            DuetError: of a path, as :func:`identity_of`.
            UsageError: a number that cannot be.
            ValueError: no such task, or a path on another file system than it watches.

        """
        info = self.known(task_id)
        if len(words) == 2 and all(re.fullmatch(r"[0-9]{1,20}", word) for word in words):
            words = [":".join(words)]
        return [_file(info, word) for word in words]


def _file(info: TaskInfo, word: str) -> FileId:
    numbers = re.fullmatch(r"([0-9]{1,20}):([0-9]{1,20})", word)
    if numbers:
        ino, generation = map(int, numbers.groups())
        if ino > _MAX_INO or generation > _MAX_GENERATION:
            raise UsageError(f"{word} is no file: INO has 64 bits and GEN has 32")
        return FileId(ino, generation)
    file = identity_of(word)
    # Numbers mean other files there. On btrfs each subvolume has its own, and a st_dev of its own.
    try:
        same = os.stat(info.path).st_dev == os.stat(word).st_dev
    except OSError:
        same = True  # the directory was moved, or is not to be seen from here
    if not same:
        raise ValueError(
            f"{word} is on another file system or subvolume than {info.path}, "
            f"which task {info.id} watches; choose a file of that one, or say INO:GEN"
        )
    return file


def _refuse(info: TaskInfo, remedy: str) -> NoReturn:
    who = "a process that cannot be seen from here"
    if info.pid:
        who = f"process {info.pid}"
        with suppress(OSError), open(f"/proc/{info.pid}/comm", errors="replace") as file:
            who += f" ({file.read().strip()})"
    raise ValueError(f"task {info.id} ({info.name}) is of {who}; {remedy}")
