# SPDX-License-Identifier: MIT
"""A task by its number: one of this process, or with CAP_SYS_ADMIN anybody's.

What is done may be asked of any task of the same user.
"""

from pyduet._driver import abi
from pyduet._driver.descriptor import Descriptor
from pyduet._driver.taskcalls import TaskCalls
from pyduet.events import FileId


class TaskHandle(TaskCalls):
    """A task that is reached over the device; made by :meth:`Device.task`.

    It is looked into and acted on as a :class:`Task` is, but its items are for
    who holds its descriptor. It owns nothing. A number is free again when its
    task ends, and may then be another task's.

    Every call raises :class:`TaskGoneError` when there is no such task, and
    :class:`PermissionDeniedError` when another process registered it and the
    caller has no CAP_SYS_ADMIN.

    Thread-safety: everything may be called from several threads.
    """

    def __init__(self, device: Descriptor, task_id: int) -> None:
        """Take the number; :meth:`Device.task` calls this."""
        if not 1 <= task_id <= abi.MAX_TASKS:
            raise ValueError(f"{task_id} is no task's number; those are 1 to {abi.MAX_TASKS}")
        self._device = device
        self._id = task_id

    def __repr__(self) -> str:
        """Return which task it is, and over what it is reached, for people."""
        return f"<TaskHandle {self._id} over {self._device!r}>"

    @property
    def id(self) -> int:
        """Identity of the task, 1 to 255."""
        return self._id

    def path_of(self, file: FileId) -> str:
        """Return the path of a file, as it is now.

        Raises:
            PathNotFoundError: it was deleted, or is not below the task's directory.
            PermissionDeniedError: also when who registered the task may not
                know of the file.

        """
        return self._path(file)

    def _over(self) -> tuple[Descriptor, int]:
        return self._device, self._id

    def _words(self) -> str:
        return f"task {self._id}"
