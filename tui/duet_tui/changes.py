# SPDX-License-Identifier: MIT
"""What changed between two looks, in words for the log."""

from collections.abc import Iterator

from duet_tui.view import View, is_same
from pyduet._text.names import printable, user_name
from pyduet._text.numbers import age, plural, size
from pyduet.info import DriverInfo, TaskInfo

#: Seconds without a drop after which it has stopped.
_QUIET = 5


def beginning(view: View) -> str:
    """Return what is so at first, in a sentence."""
    if view.info is None:
        return view.problem or "nothing is known of Duet"
    tasks = f"{plural(view.info.tasks, 'task')} registered"
    words = f"Duet is {'on' if view.info.on else 'off'}, for {plural(view.info.max_tasks, 'task')}"
    return f"{words}; {tasks}"


def changes(before: View, now: View) -> Iterator[str]:
    """Yield what changed, a sentence each."""
    if before.loaded != now.loaded:
        yield "the module was loaded" if now.loaded else "the module was unloaded"
    if now.problem and now.problem != before.problem:
        yield now.problem
    if before.info and now.info:
        yield from _settings(before.info, now.info)
    for name, word in now.hooks.items():
        if before.hooks.get(name, word) != word:
            yield f"hook {name} is {word}"
    yield from _tasks(before, now)


class Drops:
    """Says when events begin to be dropped, and how many were when that has stopped.

    Thread-safety: none.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._before: int | None = None
        self._first = self._last = 0.0
        self._count = 0

    def take(self, view: View) -> str:
        """Take a look; return what there is to say, mostly nothing."""
        if view.info is None or not view.counters:
            self._before = None
            return ""
        now, before = sum(view.info.drops), self._before
        self._before = now
        if before is not None and now > before:
            words = "" if self._count else "events are being dropped"
            self._first = self._first if self._count else view.time
            self._last = view.time
            self._count += now - before
            return words
        if self._count and view.time - self._last > _QUIET:
            words = f"{plural(self._count, 'event')} dropped in {age(self._last - self._first + 1)}"
            self._count = 0
            return words
        return ""


def _settings(before: DriverInfo, now: DriverInfo) -> Iterator[str]:
    if before.on != now.on:
        yield f"switched on, for {plural(now.max_tasks, 'task')}" if now.on else "switched off"
    elif before.max_tasks != now.max_tasks:
        yield f"tasks at a time: {now.max_tasks}, was {before.max_tasks}"
    if before.limit != now.limit:
        yield f"limit of all tasks: {size(now.limit)}, was {size(before.limit)}"
    if before.task_limit != now.task_limit:
        yield f"limit of a task: {size(now.task_limit)}, was {size(before.task_limit)}"


def _tasks(before: View, now: View) -> Iterator[str]:
    known = {task.id: task for task in before.tasks}
    for task in now.tasks:
        was = known.pop(task.id, None)
        if was and is_same(was, task):
            continue
        if was:
            yield f"{name_of(was, before)} ended"
        yield f"{name_of(task, now)} was registered on {printable(task.path)}"
    for task in known.values():
        yield f"{name_of(task, before)} ended"


def name_of(task: TaskInfo, view: View) -> str:
    """Return a task and its owner, for people."""
    return f"task {task.id}, {printable(task.name)}, of {owner_of(task, view)},"


def owner_of(task: TaskInfo, view: View) -> str:
    """Return the user, the process and the program of a task."""
    program = view.commands.get(task.pid)
    process = f"{task.pid} ({printable(program)})" if program else str(task.pid)
    return f"{printable(user_name(task.uid))}:{process}"
