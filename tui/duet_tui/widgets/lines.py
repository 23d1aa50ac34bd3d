# SPDX-License-Identifier: MIT
"""The last of many lines: drawn as they are scrolled into sight, filtered, followed, paused."""

from collections import deque
from collections.abc import Iterable
from typing import ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

#: Lines that are kept.
LENGTH = 5000


class Lines(ScrollView, can_focus=True):
    """Lines of text that come at the end.

    As long as the last line is in sight it stays so; who has scrolled up is
    left there.
    """

    HELP = """
    # Lines

    The newest are at the bottom. Scroll up to read, *End* follows again. Only the last 5,000 lines
    are kept.
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"lines--time", "lines--word", "lines--text"}
    DEFAULT_CSS = """
    Lines {
        & .lines--time { color: $text-muted; }
        & .lines--word { color: $text-accent; }
        & .lines--text { color: $foreground; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home", "scroll_home", "First", show=False),
        Binding("end", "scroll_end", "Follow", show=False),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002 -- Textual's
        """Begin with no line."""
        super().__init__(id=id)
        #: Time, word and text of each.
        self._all: deque[tuple[str, str, str]] = deque(maxlen=LENGTH)
        self._shown: list[tuple[str, str, str]] = []
        self._search = ""
        self._paused = False
        #: Whether the last line is to stay in sight: until somebody scrolls away from it.
        self._follow = True
        self._strips: LRUCache[tuple[object, ...], Strip] = LRUCache(512)

    def add(self, lines: Iterable[tuple[str, str, str]]) -> None:
        """Add lines: a time, a word and a text each."""
        new = list(lines)
        self._all.extend(new)
        if not self._paused:
            self._shown.extend(line for line in new if self._matches(line))
            del self._shown[:-LENGTH]
            self._show()

    def clear(self) -> None:
        """Forget all lines."""
        self._all.clear()
        self._follow = True
        self._rebuild()

    @property
    def search(self) -> str:
        """What lines have to contain, upper or lower case, to be shown."""
        return self._search

    @search.setter
    def search(self, text: str) -> None:
        self._search = text.casefold()
        self._rebuild()

    @property
    def paused(self) -> bool:
        """Whether what comes is kept, and not shown."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        self._paused = paused
        if not paused:
            self._rebuild()

    @property
    def shown(self) -> list[tuple[str, str, str]]:
        """The lines that can be scrolled to."""
        return self._shown

    def _matches(self, line: tuple[str, str, str]) -> bool:
        return not self._search or any(self._search in part.casefold() for part in line)

    def _rebuild(self) -> None:
        self._shown = [line for line in self._all if self._matches(line)]
        self._show()

    def _show(self) -> None:
        width = max(
            (len(time) + len(word) + len(text) + 4 for time, word, text in self._shown[-200:]),
            default=0,
        )
        self.virtual_size = Size(
            max(width, self.virtual_size.width if self._shown else 0), len(self._shown)
        )
        self._keep_up()
        self.refresh()

    def _keep_up(self) -> None:
        if self._follow:
            self.scroll_end(animate=False, immediate=True, x_axis=False)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Follow when the last line was scrolled to, and no longer when it was left."""
        super().watch_scroll_y(old_value, new_value)
        self._follow = self.is_vertical_scroll_end

    def on_resize(self) -> None:
        """Keep the last line in sight: with less room it would be out of it."""
        self._keep_up()

    def render_line(self, y: int) -> Strip:
        """Draw a line."""
        x, top = self.scroll_offset
        number, width = top + y, self.size.width
        if number >= len(self._shown):
            return Strip.blank(width, self.rich_style)
        line = self._shown[number]
        key = (line, self.rich_style)
        strip = self._strips.get(key)
        if strip is None:
            time, word, text = line
            styles = [
                self.get_component_rich_style(f"lines--{part}") for part in ("time", "word", "text")
            ]
            parts = zip((f"{time}  ", f"{word}  ", text), styles, strict=True)
            strip = self._strips[key] = Strip(
                [Segment(part, style) for part, style in parts if part.strip()]
            )
        return strip.crop_extend(x, x + width, self.rich_style)
