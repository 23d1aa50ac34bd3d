# SPDX-License-Identifier: MIT
"""The other maintenance tasks of the machine, found and asked through Duet alone."""

import os
import time
from collections.abc import Sequence

from pyduet.device import Device
from pyduet.errors import DuetError, TaskGoneError
from pyduet.maintenance.work import Work
from pyduet.task import Task

#: What the names of maintenance tasks begin with; the kind of task follows.
PREFIX = "duet-run/"
#: Seconds for which the list of tasks is believed.
_FRESH = 1.0


class Neighbours:
    """The tasks of other processes that cover some of what one covers.

    A file is wanted while a neighbour would be told of it: it is below the
    neighbour's directory and not marked done. Who has no CAP_SYS_ADMIN sees
    the tasks of their own user only.

    Thread-safety: none.
    """

    def __init__(self, device: Device, own: Task) -> None:
        """Begin with no neighbour known.

        Args:
            device: to ask over; stays the caller's.
            own: the task whose neighbours they are.

        """
        self._device = device
        self._own = own
        self._path = os.path.abspath(own.path)
        self._ids: list[int] = []
        self._asked = -_FRESH

    def ids(self) -> Sequence[int]:
        """Return the numbers of the neighbours' tasks."""
        if time.monotonic() - self._asked >= _FRESH:
            self._asked = time.monotonic()
            try:
                tasks = self._device.tasks()
            except DuetError:
                tasks = []  # it was switched off meanwhile, and so ended them all
            self._ids = [
                task.id
                for task in tasks
                if task.name.startswith(PREFIX)
                and task.id != self._own.id
                and not task.gone
                and self._overlaps(task.path)
            ]
        return self._ids

    def wanted(self, works: Sequence[Work]) -> list[bool]:
        """Return of each piece of work whether a neighbour still wants it."""
        found, is_old = self._ask(works)
        if is_old:
            self._asked = -_FRESH
            found, _ = self._ask(works)
        return found

    def _ask(self, works: Sequence[Work]) -> tuple[list[bool], bool]:
        """Return the same, and whether a neighbour is gone: others may have come since then."""
        found, is_old = [False] * len(works), False
        files = [work.identity for work in works]
        for number in self.ids():
            try:
                done = self._device.task(number).are_done(files)
            except TaskGoneError:
                is_old = True
            except DuetError:
                continue
            else:
                found = [one or not two for one, two in zip(found, done, strict=True)]
        return found, is_old

    def _overlaps(self, path: str) -> bool:
        """Return whether one of the two directories is, or is in, the other."""
        common = os.path.commonpath((self._path, path)) if os.path.isabs(path) else None
        return common is None or common in (self._path, path)
