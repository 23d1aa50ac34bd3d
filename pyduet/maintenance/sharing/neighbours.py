# SPDX-License-Identifier: MIT
"""The other maintenance tasks of the machine, found and asked through Duet alone."""

import os
import time
from collections.abc import Sequence

from pyduet.device import Device
from pyduet.errors import DuetError, TaskGoneError
from pyduet.info import TaskInfo
from pyduet.maintenance.work import Work
from pyduet.task import Task

#: What the names of maintenance tasks begin with; the kind of task follows.
PREFIX = "duet-run/"
#: Seconds for which the list of tasks is believed.
_FRESH = 1.0


class Neighbours:
    """The tasks of other processes that cover some of what one covers.

    A file is wanted while a neighbour would be told of it: it is below the
    neighbour's directory and not marked done. Tasks of the same user count,
    and root's for who has CAP_SYS_ADMIN: nobody else is to hold up either.

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
        # How many files each has marked done, and when that was seen to have grown.
        self._seen: dict[int, tuple[int, float]] = {}
        self._idle: set[int] = set()
        self._asked = -_FRESH

    def ids(self) -> Sequence[int]:
        """Return the numbers of the neighbours' tasks."""
        if time.monotonic() - self._asked >= _FRESH:
            self._ask_who()
        return [number for number in self._seen if number not in self._idle]

    def forget_idle(self, seconds: float) -> None:
        """Leave out who has got done with nothing for so long, until they do with something."""
        self._ask_who()
        now = time.monotonic()
        self._idle.update(
            number for number, (_, since) in self._seen.items() if now - since >= seconds
        )

    def _ask_who(self) -> None:
        self._asked = now = time.monotonic()
        try:
            tasks = self._device.tasks()
        except DuetError:
            tasks = []  # it was switched off meanwhile, and so ended them all
        seen: dict[int, tuple[int, float]] = {}
        for task in tasks:
            if self._is_neighbour(task):
                done, since = self._seen.get(task.id, (-1, now))
                if task.done > done:
                    since = now
                    self._idle.discard(task.id)
                seen[task.id] = task.done, since
        self._seen = seen
        self._idle &= seen.keys()

    def _is_neighbour(self, task: TaskInfo) -> bool:
        return (
            task.name.startswith(PREFIX)
            and task.id != self._own.id
            and task.uid in (0, os.getuid())
            and not task.gone
            and self._overlaps(task.path)
        )

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
