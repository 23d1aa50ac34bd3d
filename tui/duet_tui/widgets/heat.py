# SPDX-License-Identifier: MIT
"""The whole hash table in one picture: each cell stands for some buckets."""

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

#: What a cell looks like, by fifths of the scale.
_LEVELS = (("·", "some"), ("░", "low"), ("▒", "middle"), ("▓", "high"), ("█", "full"))


class Heat(Widget, can_focus=True):
    """Cells with a cursor; Enter opens the buckets of one."""

    HELP = """
    # The hash table

    The whole table, from its first bucket at the top left to its last at the bottom right. A cell
    stands for as many buckets as the line below says; what it looks like is the mean number of
    nodes in those of its buckets that were read.

    Move with the arrows, *n* and *p* go to the next and the previous cell with a
    node. *Enter* or a double click opens a cell.
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "heat--none", "heat--some", "heat--low", "heat--middle", "heat--high", "heat--full",
        "heat--cursor",
    }  # fmt: skip
    DEFAULT_CSS = """
    Heat {
        height: 1fr;
        min-height: 3;
        & .heat--none { color: $text-muted; }
        & .heat--some { color: $foreground; text-style: bold; }
        & .heat--low { color: $success; }
        & .heat--middle { color: $warning; }
        & .heat--high { color: $accent; }
        & .heat--full { color: $error; }
        & .heat--cursor { text-style: reverse; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "move(0,-1)", "Up", show=False),
        Binding("down", "move(0,1)", "Down", show=False),
        Binding("left", "move(-1,0)", "Left", show=False),
        Binding("right", "move(1,0)", "Right", show=False),
        Binding("home", "jump(0)", "First", show=False),
        Binding("end", "jump(-1)", "Last", show=False),
        Binding("n", "occupied(1)", "Next"),
        Binding("p", "occupied(-1)", "Previous used", show=False),
        Binding("enter", "open", "Open"),
    ]

    class Moved(Message):
        """The cursor is on another cell."""

    class Resized(Message):
        """There is room for more cells, or for fewer."""

    class Opened(Message):
        """A cell was opened; ``cell`` is its number."""

        def __init__(self, cell: int) -> None:
            super().__init__()
            self.cell = cell

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's
        """Make an empty picture."""
        super().__init__(id=id)
        self._cells: list[float] = []
        self._top = 1.0
        self.cursor = 0

    def show(self, cells: Sequence[float], unit: float = 1.0) -> None:
        """Draw other cells.

        Args:
            cells: of each the mean number of nodes a bucket.
            unit: what one node makes of it; the scale has at least five.

        """
        top = max([5 * unit, *cells])
        if list(cells) != self._cells or top != self._top:
            self._cells, self._top = list(cells), top
            self.cursor = max(0, min(self.cursor, len(self._cells) - 1))
            self.refresh()

    def action_move(self, right: int, down: int) -> None:
        """Move the cursor."""
        wanted = self.cursor + right + down * max(1, self.size.width)
        if 0 <= wanted < len(self._cells):
            self._go(wanted)

    def action_jump(self, cell: int) -> None:
        """Move the cursor to a cell, -1 is the last."""
        self._go(cell % max(1, len(self._cells)))

    def action_occupied(self, way: int) -> None:
        """Move the cursor to the next cell with a node, round the end."""
        count = len(self._cells)
        for step in range(1, count + 1):
            cell = (self.cursor + way * step) % count
            if self._cells[cell]:
                self._go(cell)
                return

    def action_open(self) -> None:
        """Open the cell at the cursor."""
        if self._cells:
            self.post_message(self.Opened(self.cursor))

    def on_click(self, event: events.Click) -> None:
        """Go where the mouse is, and open that at the second click."""
        cell = event.y * self.size.width + event.x
        if cell < len(self._cells):
            self._go(cell)
            if event.chain > 1:
                self.action_open()

    def _go(self, cell: int) -> None:
        width = max(1, self.size.width)
        before, self.cursor = self.cursor, cell
        # Two lines, not thousands of cells: the cursor has to follow a key that is held down.
        self.refresh(*(Region(0, one // width, width, 1) for one in {before, cell}))
        self.post_message(self.Moved())

    def on_resize(self) -> None:
        """Tell that other cells are needed."""
        self.post_message(self.Resized())

    def on_focus(self) -> None:
        """Show the cursor."""
        self.refresh()

    def on_blur(self) -> None:
        """Hide the cursor."""
        self.refresh()

    def legend(self, unit: float) -> str:
        """Return what the characters mean.

        Args:
            unit: in which to say it; a cell's number of nodes a bucket.

        """
        steps = [
            f"{char} {self._top / unit * fifth / len(_LEVELS):.2g}"
            for fifth, (char, _) in enumerate(_LEVELS, 1)
        ]
        return f"up to  {'   '.join(steps)}"

    def _look(self, cell: float) -> tuple[str, str]:
        """Return the character and the style of a cell."""
        if not cell:
            return " ", "none"
        return _LEVELS[min(len(_LEVELS), math.ceil(len(_LEVELS) * cell / self._top)) - 1]

    def render_line(self, y: int) -> Strip:
        """Draw a line of cells."""
        width = self.size.width
        first = y * width
        segments: list[Segment] = []
        looks = itertools.groupby(map(self._look, self._cells[first : first + width]))
        for (char, name), some in looks:
            style = self.get_component_rich_style(f"heat--{name}")
            segments.append(Segment(char * sum(1 for _ in some), style))
        strip = Strip(segments)
        at = self.cursor - first
        if self.has_focus and 0 <= at < strip.cell_length:
            cursor = self.get_component_rich_style("heat--cursor")
            before, under, behind = strip.divide([at, at + 1, strip.cell_length])
            strip = Strip.join([before, under.apply_style(cursor), behind])
        return strip.adjust_cell_length(width, self.rich_style)
