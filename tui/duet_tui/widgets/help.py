# SPDX-License-Identifier: MIT
"""What the widget with the keyboard is for, and all keys that do something there."""

from collections.abc import Iterator
from inspect import cleandoc
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Label, Markdown, Static


class Help(ModalScreen[None]):
    """Over the whole screen, so that it can be read on a terminal of 80x24."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back"),
        Binding("down,j", "scroll(1)", "", show=False),
        Binding("up,k", "scroll(-1)", "", show=False),
        Binding("pagedown,space", "scroll(10)", "", show=False),
        Binding("pageup", "scroll(-10)", "", show=False),
    ]

    def __init__(self, screen: Screen[Any]) -> None:
        """Make the help.

        Args:
            screen: what to explain, with the widget that has the keyboard there.

        """
        super().__init__(classes="dialog")
        self._texts = list(_texts(screen))
        self._keys = list(_keys(screen))

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        with VerticalScroll(classes="box help", id="help", can_focus=False):
            for text in self._texts:
                yield Markdown(text)
            table = Table.grid(padding=(0, 2))
            table.add_column(justify="right", style="bold")
            table.add_column()
            for keys, what, can in self._keys:
                said = what if can else f"{what} (not now)"
                table.add_row(Text(keys), Text(said, "" if can else "dim"))
            yield Label("Keys", classes="title")
            yield Static(table)
        yield Static(" Esc or F1: back   up, down: scroll", classes="foot")

    def action_scroll(self, lines: int) -> None:
        """Scroll."""
        self.query_one("#help").scroll_relative(y=lines, animate=False)

    def action_leave(self) -> None:
        """Go back."""
        self.dismiss()


def _texts(screen: Screen[Any]) -> Iterator[str]:
    """Yield what the widget with the keyboard says of itself, and what is around it."""
    nodes = screen.focused.ancestors_with_self if screen.focused else [screen]
    for node in nodes:
        # What Textual says of its own widgets is for programmers.
        if isinstance(node, Widget) and node.HELP and type(node).__module__.startswith("duet_tui"):
            yield cleandoc(node.HELP)


def _keys(screen: Screen[Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield keys, what they do, and whether they can now."""
    found: dict[str, tuple[list[str], str, bool]] = {}
    for _, binding, enabled, _ in screen.active_bindings.values():
        if binding.system or not binding.description:
            continue
        keys, _, _ = found.setdefault(binding.action, ([], binding.description, enabled))
        if (key := screen.app.get_key_display(binding)) not in keys:
            keys.append(key)
    for keys, what, enabled in found.values():
        yield " ".join(keys), what, enabled
