# SPDX-License-Identifier: MIT
"""A change of the settings: what was typed, what it will cost, and how it is made."""

import mmap
from dataclasses import dataclass

from duet_tui.backend import Backend
from duet_tui.changes import name_of
from duet_tui.cost import cost_of
from duet_tui.view import View
from pyduet._text.numbers import bytes_of, plural, size, tasks_of
from pyduet.info import DriverInfo

#: Tasks that are named before "and N more".
_NAMED = 6


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings to be made; None leaves one as it is."""

    max_tasks: int | None = None
    limit: int | None = None
    task_limit: int | None = None

    @classmethod
    def of(cls, info: DriverInfo, max_tasks: str, limit: str, task_limit: str) -> "Plan":
        """Return the change that was typed.

        Args:
            info: what is so now.
            max_tasks: number of tasks at a time.
            limit: size, as ``64M``.
            task_limit: likewise.

        Raises:
            ValueError: one of them cannot be; says which.

        """
        texts = {"max_tasks": max_tasks, "limit": limit, "task_limit": task_limit}
        found: dict[str, int | None] = {}
        for name, text in texts.items():
            parse = tasks_of if name == "max_tasks" else bytes_of
            try:
                value = parse(text)
            except ValueError as error:
                raise ValueError(f"{_NAMES[name]}: {error}") from error
            found[name] = None if value == getattr(info, name) else value
        return cls(**found)

    def __bool__(self) -> bool:
        """Return whether it changes something."""
        return any(value is not None for value in (self.max_tasks, self.limit, self.task_limit))

    def needs_restart(self, info: DriverInfo) -> bool:
        """Return whether Duet has to be off for it."""
        return info.on and self.max_tasks is not None

    def words(self, view: View) -> str:
        """Return what it will do and cost, before it is done."""
        info = view.info
        if info is None or not self:
            return ""
        words = []
        if self.max_tasks is not None and info.node_bytes:
            # What the limit holds: pages in sequence, if nothing else were known.
            words.append(_cost(info, self.max_tasks, self.limit))
        if self.limit is not None:
            limit = size(self.limit) if self.limit else "the driver's default"
            words.append(f"All tasks may take {limit}; {_used(view)} is in use.")
        if self.task_limit is not None:
            limit = size(self.task_limit) if self.task_limit else "the driver's default"
            words.append(f"A task registered from now on may leave {limit} unread.")
        if self.needs_restart(info):
            tasks = plural(info.tasks, "task")
            words.append(f"Duet is switched off and on for it, which ends {tasks}.")
        return "\n".join(words)

    def run(self, backend: Backend, info: DriverInfo) -> None:
        """Make the change.

        Raises:
            DuetError: it was refused; what was on is on again, with no task.

        """
        settings = {"max_tasks": self.max_tasks, "limit": self.limit, "task_limit": self.task_limit}
        if not self.needs_restart(info):
            backend.set_limits(**settings)
            return
        backend.stop()
        wanted = self.max_tasks
        try:
            backend.set_limits(**settings)
        except OSError:
            wanted = info.max_tasks
            raise
        finally:
            backend.start(wanted or info.max_tasks)


_NAMES = {
    "max_tasks": "tasks at a time",
    "limit": "limit of all tasks",
    "task_limit": "limit of a task",
}


def ends(view: View) -> str:
    """Return which tasks a switching off ends, for people."""
    if not view.tasks:
        return "No task ends by it." if view.info and not view.info.tasks else "Every task ends."
    named = [name_of(task, view).rstrip(",") for task in view.tasks[:_NAMED]]
    more = len(view.tasks) - len(named)
    if more:
        named.append(f"and {more} more")
    lines = "".join(f"\n  {name}" for name in named)
    lead = f"{plural(len(view.tasks), 'task')} will end; what they have not read is lost:"
    return f"{lead}{lines}"


def _cost(info: DriverInfo, max_tasks: int, limit: int | None) -> str:
    now, then = cost_of(info, info.max_tasks), cost_of(info, max_tasks, limit or None)
    run = info.node_pages * mmap.PAGESIZE
    rows = [
        ("", "now", "then"),
        ("a node", f"{now.node:,} B", f"{then.node:,} B"),
        ("a file", f"{now.file:,} B", f"{then.file:,} B"),
        ("in use", size(now.now), size(then.now)),
        ("hash tables", size(now.tables), size(then.tables)),
        ("limit holds", size(now.nodes * run), size(then.nodes * run)),
    ]
    return "\n".join(f"{name:12}{was:>10} {will:>10}" for name, was, will in rows)


def _used(view: View) -> str:
    return size(view.info.bytes) if view.info and view.counters else "what root alone is told"
