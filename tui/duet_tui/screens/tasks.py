# SPDX-License-Identifier: MIT
"""The registered tasks, live."""

from collections.abc import Iterable
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import DataTable, Input, Static

from duet_tui.changes import name_of, owner_of
from duet_tui.screens.base import Cell, DuetScreen, number
from duet_tui.view import View
from duet_tui.widgets.grid import Grid
from pyduet._text.names import printable
from pyduet._text.numbers import age, plural, size
from pyduet.info import TaskInfo

_HIDDEN = Cell("-", 0, right=True)
_HEADS = ("id", "name", "owner", "path", "mask", "pending", "done", "delivered", "dropped", "age")


class Tasks(DuetScreen):
    """The second screen."""

    MODE = "tasks"
    FIRST = "#tasks"
    HELP = """
    # Tasks

    All registered tasks; without CAP_SYS_ADMIN your own. *Enter* opens one: its rates, its most
    cached files, what is pending, its done marks. *d* ends one.

    *Pending* is the memory of what the task has not read yet, *dropped* what it could not be told.
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open", show=True),
        Binding("slash", "search", "Search"),
        Binding("d", "end", "End task"),
    ]

    def body(self) -> Iterable[Widget]:
        """Return the widgets between the bars."""
        yield Input(placeholder="/ searches: a name, a user, a path …", compact=True, id="search")
        grid = Grid(_HEADS, id="tasks")
        grid.fixed_columns = 2  # who scrolls to the numbers still sees whose they are
        yield grid
        yield Static("", id="tasks_said", classes="said", markup=False)

    def on_mount(self) -> None:
        """Say also what depends on how wide the table is: it finds that out later."""
        self.watch(self.query_one(Grid), "virtual_size", self._say, init=False)

    def show(self, view: View) -> None:
        """Show a look at the driver."""
        self.query_one(Grid).show({key_of(task): _row(task, view) for task in view.tasks})
        self._say()

    def _say(self) -> None:
        self.say("#tasks_said", self._said(self.duet.view, len(self.query_one(Grid).found)))

    def _said(self, view: View, shown: int) -> str:
        if view.info is None:
            return view.problem
        words = [plural(shown, "task")]
        if shown < len(view.tasks):
            words.append(f"of {len(view.tasks)}: those with {self.query_one(Grid).search!r}")
        if view.info.tasks > len(view.tasks):
            words.append(f"of {view.info.tasks}; those of other users are told to root alone")
        if not view.info.on:
            words.append("- Duet is off: switch it on with o on the first screen")
        if self.query_one(Grid).max_scroll_x:
            words.append("- left and right show more columns")
        return " ".join(words)

    def selected(self) -> TaskInfo | None:
        """Return the task at the cursor."""
        key = self.query_one(Grid).cursor_key
        return next((task for task in self.duet.view.tasks if key_of(task) == key), None)

    def action_search(self) -> None:
        """Go to the field."""
        self.query_one("#search").focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show what contains it."""
        self.query_one(Grid).search = event.value
        self.show(self.duet.view)

    def on_input_submitted(self) -> None:
        """Go to what was found."""
        self.focus_first()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Open a task."""
        event.stop()
        self.action_open()

    def action_open(self) -> None:
        """Open the task at the cursor."""
        from duet_tui.screens.task import TaskScreen

        if task := self.selected():
            self.app.push_screen(TaskScreen(task, self.MODE))

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what may not be done: the tasks are of other processes."""
        del parameters
        return None if action == "end" and self.duet.view.refusal else True

    def action_end(self) -> None:
        """Offer to end the task at the cursor."""
        if task := self.selected():
            ask_to_end(self, task)

    def export(self) -> tuple[Any, list[str]]:
        """Return what is on the screen."""
        rows = self.query_one(Grid).found
        shown = [task for task in self.duet.view.tasks if key_of(task) in rows]
        lines = ["  ".join(_HEADS)]
        lines += ["  ".join(cell.plain for cell in rows[key_of(task)]) for task in shown]
        return shown, lines


def key_of(task: TaskInfo) -> str:
    """Return what tells a task from others, those that had its identity before as well."""
    return f"{task.id}:{task.pid}:{task.fd}:{task.name}"


def _row(task: TaskInfo, view: View) -> tuple[Cell, ...]:
    dropped = sum(task.drops)
    return (
        Cell(str(task.id), task.id, right=True),
        Cell(task.name),
        Cell(owner_of(task, view)),
        Cell(task.path + (" (gone)" if task.gone else "")),
        Cell(",".join(task.mask.names)),
        Cell(size(task.pending), task.pending, right=True) if view.counters else _HIDDEN,
        number(task.done),
        number(task.delivered),
        (number(dropped) if view.counters else _HIDDEN),
        Cell(age(task.age), task.age, right=True),
    )


def ask_to_end(screen: DuetScreen, task: TaskInfo) -> None:
    """End a task, once that was confirmed."""
    from duet_tui.widgets.dialogs import Confirm

    app = screen.duet
    view = app.view
    name = name_of(task, view).rstrip(",")
    text = (
        f"{name} is told no more of {printable(task.path)}, and its place is free. What it has "
        "not read and its done marks are lost. Its process goes on: the next time that it reads, "
        "it is told that the task has ended."
    )

    def answered(yes: bool | None) -> None:
        if yes:
            app.act(lambda: app.backend.end(task), said=f"{name} was ended")

    app.push_screen(Confirm(f"End task {task.id}, {task.name}?", text, "End the task"), answered)


SCREEN = Tasks
