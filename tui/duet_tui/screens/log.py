# SPDX-License-Identifier: MIT
"""What happened: uevents of the device, changes of its state, errors, what was done here."""

import time
from collections.abc import Iterable
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Input

from duet_tui.screens.base import DuetScreen
from duet_tui.view import View
from duet_tui.widgets.lines import Lines
from pyduet._text.names import printable


class LogScreen(DuetScreen):
    """The fifth screen."""

    MODE = "log"
    FIRST = "#log_lines"
    HELP = """
    # Log

    What happened since this program began: *uevent*, what the kernel told of the device; *change*,
    what became different; *done*, what was done here; *error*, what could not be.
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("slash", "search", "Filter")]

    def body(self) -> Iterable[Widget]:
        """Return the widgets between the bars."""
        yield Input(placeholder="/ filters: uevent, error, a path …", compact=True, id="search")
        yield Lines(id="log_lines")

    def __init__(self) -> None:
        """Begin with no line."""
        super().__init__()
        self._shown = 0

    def noted(self) -> None:
        """Show what was added to the log since."""
        new = min(self.duet.noted - self._shown, len(self.duet.records))
        self._shown = self.duet.noted
        if new:
            self.query_one(Lines).add(map(_line, list(self.duet.records)[-new:]))

    def show(self, view: View) -> None:
        """Show what was added to the log while another screen was in sight."""
        del view
        self.noted()

    def action_search(self) -> None:
        """Go to the field."""
        self.query_one(Input).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the lines that contain it."""
        self.query_one(Lines).search = event.value

    def on_input_submitted(self) -> None:
        """Go to the lines."""
        self.focus_first()

    def export(self) -> tuple[Any, list[str]]:
        """Return what is on the screen."""
        shown = self.query_one(Lines).shown
        data = [{"time": time, "kind": kind.strip(), "text": text} for time, kind, text in shown]
        return data, ["  ".join(line) for line in shown]


def _line(record: tuple[float, str, str]) -> tuple[str, str, str]:
    when, kind, text = record
    return time.strftime("%H:%M:%S", time.localtime(when)), f"{kind:6}", printable(text)


SCREEN = LogScreen
