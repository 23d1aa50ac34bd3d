# SPDX-License-Identifier: MIT
"""A rate as it was in the last minutes, a column a second."""

import itertools
from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual.strip import Strip
from textual.widget import Widget

from duet_tui.widgets.bars import columns, rate

#: Columns before and behind the chart.
_LABEL, _VALUE, _TOP = 10, 10, 10


class Chart(Widget):
    """The name of a rate, what it is now, how it was, and the most that is drawn."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"chart--label", "chart--bars", "chart--top"}
    DEFAULT_CSS = """
    Chart {
        height: 1fr;
        min-height: 1;
        width: 1fr;
        & .chart--label { color: $foreground; }
        & .chart--bars { color: $primary; }
        & .chart--top { color: $text-muted; }
    }
    """

    def __init__(self, label: str, *, unit: str = "/s", id: str | None = None) -> None:  # noqa: A002 -- Textual's
        """Make an empty chart.

        Args:
            label: its name.
            unit: behind the numbers.
            id: of the widget.

        """
        super().__init__(id=id)
        self._label = label
        self._unit = unit
        self._values: list[float] = []
        self._drawn: object = None
        self._hidden = ""

    def show(self, values: Sequence[float], hidden: str = "") -> None:
        """Draw other values.

        Args:
            values: the last one is now.
            hidden: why there are none to show.

        """
        self._values, self._hidden = list(values), hidden
        width = max(1, self.size.width - _LABEL - _VALUE - _TOP)
        # What scrolls and looks the same costs nothing: zeros at the left are as good as none.
        shown = list(itertools.dropwhile(lambda value: not value, self._values[-width:]))
        drawn = (shown, bool(self._values), hidden)
        if drawn != self._drawn:
            self._drawn = drawn
            self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw a line."""
        width, height = self.size
        room = max(0, width - _LABEL - _VALUE - _TOP)
        shown = self._values[-room:] if room else []
        top = max(shown, default=0.0)
        label, bars, faint = (
            self.get_component_rich_style(f"chart--{part}") for part in ("label", "bars", "top")
        )
        if self._hidden:
            text = f"{self._label:{_LABEL}}{self._hidden}" if y == 0 else ""
            return Strip([Segment(text, faint)]).adjust_cell_length(width, self.rich_style)
        first, last = "", ""
        if y == 0:
            now = rate(self._values[-1]) + self._unit if self._values else "-"
            first = f"{self._label:{_LABEL}}{now:>{_VALUE - 1}} "
            last = f" ▔{rate(top)}" if top else ""
        line = columns(shown, top, room, height)[y] if room else ""
        segments = [
            Segment(f"{first:{_LABEL + _VALUE}}", label),
            Segment(line, bars),
            Segment(f"{last:{_TOP}}", faint),
        ]
        return Strip(segments).adjust_cell_length(width, self.rich_style)
