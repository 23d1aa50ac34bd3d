# SPDX-License-Identifier: MIT
"""Questions that are answered before anything else."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, RadioButton, RadioSet, Static


class Confirm(ModalScreen[bool]):
    """Says what will happen, and asks whether it shall."""

    HELP = """
    # A question

    Nothing has been done yet. *Escape* leaves all as it is.
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "answer(False)", "No"),
        Binding("y", "answer(True)", "Yes"),
        Binding("n", "answer(False)", "No", show=False),
        Binding("left,up", "app.focus_previous", "", show=False),
        Binding("right,down", "app.focus_next", "", show=False),
    ]

    def __init__(self, title: str, text: str, verb: str) -> None:
        """Make a question.

        Args:
            title: what is asked.
            text: what will happen.
            verb: on the button that does it.

        """
        super().__init__(classes="dialog")
        self._title, self._text, self._verb = title, text, verb

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll(classes="box", can_focus=False):
            yield Label(self._title, classes="title", markup=False)
            yield Static(self._text, markup=False, id="text")
            with Horizontal(classes="buttons"):
                yield Button("No (Esc)", id="no", compact=True)
                yield Button(f"{self._verb} (y)", id="yes", variant="error", compact=True)

    def on_mount(self) -> None:
        """Let Enter do nothing bad."""
        self.query_one("#no").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer."""
        event.stop()
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Answer."""
        self.dismiss(yes)


class Ask(ModalScreen[str | None]):
    """Asks for a line of text."""

    HELP = """
    # A question

    Type the answer and press *Enter*; *Escape* leaves all as it is.
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel")]

    def __init__(self, title: str, text: str, value: str = "") -> None:
        """Make a question.

        Args:
            title: what is asked.
            text: what may be answered.
            value: the answer to begin with.

        """
        super().__init__(classes="dialog")
        self._title, self._text, self._value = title, text, value

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll(classes="box", can_focus=False):
            yield Label(self._title, classes="title", markup=False)
            yield Static(self._text, markup=False, id="text")
            yield Input(self._value, compact=True, id="answer")

    def on_mount(self) -> None:
        """Begin with the text."""
        self.query_one(Input).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer."""
        event.stop()
        self.dismiss(event.value)

    def action_leave(self) -> None:
        """Answer nothing."""
        self.dismiss(None)


class AskExport(ModalScreen[tuple[str, str] | None]):
    """Asks for a format and a file."""

    HELP = """
    # Export

    Writes what is on the screen to a new file: as lines of text, or as one object of JSON.
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel")]

    def __init__(self, name: str) -> None:
        """Make the question.

        Args:
            name: of the file, without its suffix.

        """
        super().__init__(classes="dialog")
        self._name = name

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll(classes="box", can_focus=False):
            yield Label("Export what is on the screen", classes="title")
            with RadioSet(id="format", compact=True):
                yield RadioButton("JSON", value=True, id="json", compact=True)
                yield RadioButton("text", id="txt", compact=True)
            yield Input(f"{self._name}.json", compact=True, id="answer")

    def on_mount(self) -> None:
        """Begin with the file."""
        self.query_one(Input).focus()

    def on_radio_set_changed(self, event: RadioSet.Changed) -> None:
        """Give the file the suffix of the format."""
        name = self.query_one(Input)
        if name.value.endswith((".json", ".txt")):
            name.value = f"{name.value.rpartition('.')[0]}.{event.pressed.id}"

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer."""
        event.stop()
        pressed = self.query_one(RadioSet).pressed_button
        self.dismiss((str(pressed.id if pressed else "json"), event.value))

    def action_leave(self) -> None:
        """Answer nothing."""
        self.dismiss(None)
