# SPDX-License-Identifier: MIT
"""What all screens have: the bar above, the keys below, export, and being shown what is so."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Input, Static
from textual.widgets._footer import FooterKey

from duet_tui.view import View
from pyduet._text.names import printable

if TYPE_CHECKING:
    from duet_tui.app import DuetApp

#: The modes of the application with their digits and titles.
TITLES = {
    "overview": "Overview",
    "tasks": "Tasks",
    "table": "Hash table",
    "watch": "Watch",
    "log": "Log",
}


class TopBar(Static):
    """The names of the screens, and whether Duet is on."""

    def __init__(self) -> None:
        """Make an empty bar."""
        super().__init__(id="top")
        self._said: object = None

    def show(self, view: View, mode: str, source: str) -> None:
        """Say what is so."""
        said = (mode, _state(view), source, self.app.size.width)
        if said == self._said:
            return
        self._said = said
        parts: list[Content] = []
        for number, (name, title) in enumerate(TITLES.items(), 1):
            style = "reverse bold" if name == mode else ""
            parts.append(
                Content.from_markup(
                    f"[@click=app.show('{name}')] [b]{number}[/b] $title [/]", title=title
                ).stylize(style)
            )
        state, style = _state(view)
        left = Content("").join(parts)
        right = Content.assemble((source, "dim"), "  ", (f" {state} ", style))
        room = self.app.size.width - left.cell_length - right.cell_length
        if room < 1:
            right = Content.assemble((f" {state} ", style))
            room = self.app.size.width - left.cell_length - right.cell_length
        self.update(Content.assemble(left, " " * max(1, room), right))


def _state(view: View) -> tuple[str, str]:
    """Return whether Duet is on, in words and a style."""
    if not view.loaded:
        return "not loaded", "$text-error bold"
    if view.info is None:
        return "cannot be asked", "$text-error bold"
    if not view.info.on:
        return "off", "$text-warning bold"
    return f"on, {view.info.tasks} of {view.info.max_tasks} tasks", "$text-success bold"


class Keys(Footer):
    """What keys do; the one for help stays in sight where there is no room for all."""

    def compose(self) -> ComposeResult:
        """Make the keys anew."""
        view = cast("DuetApp", self.app).view
        for key in super().compose():
            if isinstance(key, FooterKey):
                if key.has_class("-disabled"):
                    key.tooltip = view.refusal or "not now"
                if key.key == "f1":
                    key.add_class("-always")
            yield key


class DuetScreen(Screen[None]):
    """A screen that is shown every look at the driver while it is in sight.

    Attributes:
        MODE: the mode that it belongs to.
        FIRST: selector of the widget that has the keyboard at first, and after
            Escape in a field.

    """

    MODE: ClassVar[str]
    FIRST: ClassVar[str] = ""
    AUTO_FOCUS: ClassVar[str | None] = None
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
    ]

    @property
    def duet(self) -> "DuetApp":
        """The application."""
        return cast("DuetApp", self.app)

    def __init__(self) -> None:
        """Make a screen that has shown nothing yet."""
        super().__init__()
        self._allowed: object = None

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield TopBar()
        yield from self.body()
        yield Keys(show_command_palette=False, compact=True)

    def body(self) -> Iterable[Widget]:
        """Return the widgets between the bars."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Give the keyboard to the first widget."""
        self.focus_first()

    def on_screen_resume(self) -> None:
        """Show what is so by now."""
        self.refresh_view(self.duet.view)

    def refresh_view(self, view: View) -> None:
        """Show a look at the driver; called about once a second while in sight."""
        self.query_one(TopBar).show(view, self.MODE, self.duet.backend.title)
        self.show(view)
        # To draw the keys anew costs more than all the rest.
        if (allowed := (view.refusal, view.info is None, view.on)) != self._allowed:
            self._allowed = allowed
            self.refresh_bindings()

    def say(self, selector: str, text: str | Content) -> None:
        """Show a text, at no cost if it is shown already."""
        content = text if isinstance(text, Content) else Content(printable_lines(text))
        shown = self.query_one(selector, Static)
        if shown.content != content:
            shown.update(content)

    def show(self, view: View) -> None:
        """Show a look at the driver."""
        raise NotImplementedError

    def noted(self) -> None:
        """Do what there is to do when a line was added to the log: here nothing."""

    def focus_first(self) -> None:
        """Give the keyboard to the first widget."""
        if self.FIRST:
            self.query_one(self.FIRST).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Say of an action whether it can be done (True), not now (None), or not here (False)."""
        if action == "leave":
            return isinstance(self.focused, Input) or len(self.app.screen_stack) > 1
        return self.allows(action, parameters)

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Say the same of an action of this screen alone."""
        del action, parameters
        return True

    def action_leave(self) -> None:
        """Leave a field, or go back to where this screen was opened."""
        if isinstance(self.focused, Input):
            self.focus_first()
        elif len(self.app.screen_stack) > 1:
            self.app.pop_screen()

    def export(self) -> tuple[Any, list[str]]:
        """Return what is on the screen: for JSON, and as lines."""
        raise NotImplementedError


class Cell(Text):
    """A cell of a table, which is sorted by a value that it may not show."""

    def __init__(
        self, text: str, value: Any = None, *, right: bool = False, style: str = ""
    ) -> None:
        """Make a cell.

        Args:
            text: to show.
            value: to sort by; None for the text.
            right: whether it is set right.
            style: of the text.

        """
        super().__init__(
            printable(text), justify="right" if right else "left", no_wrap=True, style=style
        )
        self.value = text.casefold() if value is None else value


def number(value: int) -> Cell:
    """Return a cell with a number."""
    return Cell(f"{value:,}", value, right=True)


def printable_lines(text: str) -> str:
    """Return text that cannot steer the terminal, its lines left as they are."""
    return "\n".join(map(printable, text.split("\n")))
