# SPDX-License-Identifier: MIT
"""Counters as rates: what the charts draw."""

from collections import deque

from duet_tui.view import View, is_same
from pyduet.info import TaskInfo

#: Samples that are kept: one a second, so ten minutes.
LENGTH = 600
#: Of each task: two minutes.
TASK_LENGTH = 120
#: A look that comes sooner after the last sample is left out, or rates would jump.
_SOON = 0.7


class Track:
    """The rates of some counters, a sample for each second or so.

    Thread-safety: none.
    """

    def __init__(self, names: tuple[str, ...], length: int) -> None:
        """Begin with no sample.

        Args:
            names: of the counters.
            length: samples that are kept.

        """
        self.names = names
        self.rates: deque[tuple[float, ...]] = deque(maxlen=length)
        self._last: tuple[float, tuple[int, ...]] | None = None

    def take(self, when: float, counts: tuple[int, ...]) -> None:
        """Add what the counters say at a moment, in seconds."""
        if self._last is not None:
            before, old = self._last
            if 0 <= when - before < _SOON:
                return
            if when > before and all(new >= was for new, was in zip(counts, old, strict=True)):
                seconds = when - before
                rates = ((new - was) / seconds for new, was in zip(counts, old, strict=True))
                self.rates.append(tuple(rates))
            # Else they went back: the module was loaded anew, and begins at 0.
        self._last = when, counts

    def series(self, name: str) -> list[float]:
        """Return the rates of a counter, a second each, the last one now."""
        column = self.names.index(name)
        return [rates[column] for rates in self.rates]


class History:
    """The rates of the module and of each task.

    Thread-safety: none.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.module = Track(("added", "removed", "dirtied", "flushed", "dropped"), LENGTH)
        self._tasks: dict[int, tuple[TaskInfo, Track]] = {}

    def take(self, view: View) -> None:
        """Add a look."""
        if view.info is not None and view.counters:
            self.module.take(view.time, (*view.info.events, sum(view.info.drops)))
        known, self._tasks = self._tasks, {}
        for task in view.tasks:
            before, track = known.get(task.id) or (task, _task_track())
            if not is_same(before, task):
                track = _task_track()
            track.take(view.time, (task.delivered, sum(task.drops), task.done))
            self._tasks[task.id] = task, track

    def of(self, task: TaskInfo) -> Track:
        """Return the rates of a task."""
        known = self._tasks.get(task.id)
        return known[1] if known else _task_track()


def _task_track() -> Track:
    return Track(("delivered", "dropped", "done"), TASK_LENGTH)
