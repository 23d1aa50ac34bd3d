# SPDX-License-Identifier: MIT
"""What happens below a directory, as it happens, and what is cached of it."""

import asyncio
import contextlib
import mmap
import os
import time
from collections.abc import Iterable
from typing import Any, ClassVar

from rich.text import Text, TextType
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget
from textual.widgets import DirectoryTree, Input, Static
from textual.widgets.directory_tree import DirEntry
from textual.worker import Worker

from duet_tui.screens.base import Cell, DuetScreen, number
from duet_tui.view import View
from duet_tui.widgets.bars import bar
from duet_tui.widgets.grid import Grid
from duet_tui.widgets.lines import LENGTH, Lines
from pyduet._text.names import printable
from pyduet._text.numbers import plural, size
from pyduet.batch import Batch
from pyduet.events import FileId, Item, Mask, State
from pyduet.stream import Stream
from pyduet.tally import FileCount, Tally

_STATES = Mask.EXISTS | Mask.MODIFIED
_EVENTS = Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED
#: Files in the table below, and the width of their bars.
_ROWS, _BAR = 50, 12
#: Seconds after a read, so that a flood is read in large pieces and the screen stays quick.
_REST = 0.05
#: Seconds between two counts of what is cached most.
_COUNT = 1.0
_HEADS = ("cached", "residency", "dirty", "path")


class Tree(DirectoryTree):
    """Directories and files, drawn without pictures that some terminals do not have."""

    ICON_NODE = "▸ "
    ICON_NODE_EXPANDED = "▾ "
    ICON_FILE = "  "
    HELP = """
    # What to watch

    *Enter* opens a directory; *w* watches what is at the cursor, and *Enter* a file.
    """

    def process_label(self, label: TextType) -> Text:
        """Return the label of a node; the root has a name of no letters otherwise."""
        return super().process_label(label or "/")


class WatchScreen(DuetScreen):
    """The fourth screen."""

    MODE = "watch"
    FIRST = "#tree"
    HELP = """
    # Watch

    Pick a directory or file in the tree and press *w*, or type its path after *p*: a task is
    registered on it, and what it is told streams in. *Space* pauses the picture, not the task. */*
    filters, *m* changes between what is cached now (states) and each event, *Backspace* ends the
    task and shows the tree again. *x* writes what is on the screen to a file.
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "watch", "Watch"),
        Binding("space", "pause", "Pause"),
        Binding("slash", "search", "Filter"),
        Binding("m", "mask", "Events/states"),
        Binding("p", "path", "Path"),
        Binding("backspace", "stop", "End"),
    ]

    def __init__(self) -> None:
        """Watch nothing yet."""
        super().__init__()
        self._mask = _STATES
        self._worker: Worker[None] | None = None
        self._stream: Stream | None = None
        self._tally = Tally(self._mask)
        self._begin = 0.0
        self._counted = 0.0

    def body(self) -> Iterable[Widget]:
        """Return the widgets between the bars."""
        live = self.duet.backend.live
        path = Input(placeholder="the path of a directory or file", compact=True, id="path")
        filter_ = Input(placeholder="/ filters", compact=True, id="search")
        yield Horizontal(path, filter_, id="watch_fields")
        yield Static("", id="watch_said", markup=False)
        panes: list[Widget] = (
            [Tree("/", id="tree")] if live else [Static(_NO_TREE, id="tree", markup=False)]
        )
        cached = Grid(_HEADS, sort=0, reverse=True, id="watch_cached")
        cached.border_title = "Most cached"
        cached.add_class("panel")
        lines = Lines(id="events")
        lines.border_title = "Events"
        lines.add_class("panel")
        yield Horizontal(*panes, Vertical(lines, cached, id="watch_right"))

    def focus_first(self) -> None:
        """Give the keyboard to the tree, or to the events when something is watched."""
        if self._stream is not None or not self.duet.backend.live:
            self.query_one("#events").focus()
        else:
            self.query_one("#tree").focus()

    def on_mount(self) -> None:
        """Begin with the tree; a recording has one path only, and begins at once."""
        super().on_mount()
        self.say("#watch_said", self._idle())
        if not self.duet.backend.live:
            self._start("")

    def _idle(self) -> str:
        view = self.duet.view
        if self.duet.backend.live and not view.on:
            return (
                "Duet is off: switch it on with o on the first screen"
                if view.info
                else view.problem
            )
        kind = "what is cached and dirty" if self._mask == _STATES else "each event"
        return f"Pick what to watch: w begins. It will be told {kind}; m changes that."

    def show(self, view: View) -> None:
        """Say how it goes; the stream tells by itself."""
        del view
        if self._stream is not None or (self._worker is None and self.duet.backend.live):
            self._summary()

    # Choosing

    def on_tree_node_highlighted(self, event: Tree.NodeHighlighted[DirEntry]) -> None:
        """Say what would be watched."""
        event.stop()
        field = self.query_one("#path", Input)
        # Not while a path is typed: a directory that opens slowly is told of late.
        if event.node.data is not None and self._stream is None and not field.has_focus:
            field.value = str(event.node.data.path)

    def on_directory_tree_file_selected(self, event: DirectoryTree.FileSelected) -> None:
        """Watch a file."""
        event.stop()
        self._start(str(event.path))

    def action_watch(self) -> None:
        """Watch the path in the field, which follows the tree."""
        if path := self.query_one("#path", Input).value.strip():
            self._start(path)

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what a recording does not do."""
        del parameters
        return self.duet.backend.live or action not in ("watch", "path", "mask", "stop")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Watch a path, or go to what was filtered."""
        if event.input.id == "path" and event.value.strip():
            self._start(event.value.strip())
        else:
            self.focus_first()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Show the lines that contain it."""
        if event.input.id == "search":
            self.query_one(Lines).search = event.value
            self.query_one(Grid).search = event.value

    def action_path(self) -> None:
        """Go to the field of the path."""
        self.query_one("#path").focus()

    def action_search(self) -> None:
        """Go to the filter."""
        self.query_one("#search").focus()

    def action_mask(self) -> None:
        """Change between states and events."""
        self._mask = _EVENTS if self._mask == _STATES else _STATES
        if self._stream is not None and self.duet.backend.live:
            self._start(self._stream.path)
        else:
            self.say("#watch_said", self._idle())

    # Watching

    def _start(self, path: str) -> None:
        if self._worker is not None:
            self._worker.cancel()
        self._worker = self.run_worker(
            self._watch(path), name="watch", group="watch", exclusive=True, exit_on_error=False
        )

    def action_stop(self) -> None:
        """End the task."""
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None

    def action_pause(self) -> None:
        """Stop and go on showing; the task is read all the while."""
        lines = self.query_one(Lines)
        lines.paused = not lines.paused
        if not lines.paused:
            self._count()
        self._summary()

    async def _watch(self, path: str) -> None:
        tally = self._tally = Tally(self._mask)
        lines, words = self.query_one(Lines), ""
        lines.clear()
        self.query_one(Grid).show({})
        try:
            watched = self.duet.backend.watch(path, self._mask)
            # To register looks at all inodes in memory, which may take its time.
            stream = await asyncio.to_thread(watched.__enter__)
            try:
                self._stream, self._begin = stream, time.monotonic()
                self._tally = tally = Tally(stream.mask)
                self.add_class("watching")
                self.focus_first()
                self._summary()
                async for batch in stream.batches_async():
                    tally.apply(batch)
                    self._add(stream, batch)
                    self._tell()
                    await asyncio.sleep(_REST)
                words = f"{stream.path}: the recording has ended"
                self._count()
            finally:
                with contextlib.suppress(OSError):
                    watched.__exit__(None, None, None)
        except (OSError, ValueError) as error:
            self.duet.complain(error)
            words = str(error)
        finally:
            if self._tally is tally or not words:
                self._summary(words)
            self._stream = None
            if self.is_mounted and not words:
                self.remove_class("watching")
                self.say("#watch_said", self._idle())
                self.focus_first()

    def _add(self, stream: Stream, batch: Batch) -> None:
        items = list(batch)[-LENGTH:]
        paths = _paths(stream, items)
        clock = time.strftime("%H:%M:%S", time.localtime(self.duet.backend.now()))
        self.query_one(Lines).add(
            (clock, f"{item.state:14}", _words(item, paths)) for item in items
        )

    def _tell(self) -> None:
        if time.monotonic() - self._counted >= _COUNT and not self.query_one(Lines).paused:
            self._count()

    def _count(self) -> None:
        """Show what is cached most."""
        self._counted = time.monotonic()
        stream, tally = self._stream, self._tally
        if stream is None:
            return
        by_changes = not stream.mask & Mask.EXISTS
        most = tally.most_changing(_ROWS) if by_changes else tally.most_cached(_ROWS)
        with contextlib.suppress(OSError):
            paths = stream.paths_of([file for file, _ in most])
            self.query_one(Grid).show(
                {
                    f"{file.ino}:{file.generation}": self._row(one, paths.get(file), file)
                    for file, one in most
                }
            )
        self._summary()

    def _row(self, one: FileCount, path: str | None, file: FileId) -> tuple[Cell, ...]:
        cached = max(0, one.cached)
        pages = self._pages(path) if path else None
        return (
            number(cached or one.changes),
            Cell(
                bar(cached, pages or max(self._tally.total.cached, 1), _BAR),
                cached / pages if pages else 0,
            ),
            number(max(0, one.dirty)),
            Cell(path if path is not None else f"({file})"),
        )

    def _pages(self, path: str) -> int | None:
        if not self.duet.backend.live:
            return None
        with contextlib.suppress(OSError):
            return -(-os.stat(path).st_size // mmap.PAGESIZE) or 1
        return None

    def _summary(self, words: str = "") -> None:
        if words or self._stream is None:
            self.say("#watch_said", words or self._idle())
            return
        stream, tally = self._stream, self._tally
        paused = "PAUSED  " if self.query_one(Lines).paused else ""
        lost = (
            f"; {plural(tally.overflows, 'overflow')}: not all was told" if tally.overflows else ""
        )
        cached = ""
        if stream.mask & Mask.EXISTS:
            pages = max(0, tally.total.cached)
            cached = f"{plural(pages, 'page')} ({size(pages * mmap.PAGESIZE)}) cached, "
            cached += f"{max(0, tally.total.dirty):,} dirty, "
        self.say(
            "#watch_said",
            f"{paused}{stream.path}: {cached}{plural(len(tally.files), 'file')}, "
            f"{plural(tally.items, 'item')}{lost}",
        )

    def export(self) -> tuple[Any, list[str]]:
        """Return what is on the screen: the lines that the filter leaves, and the files."""
        shown = self.query_one(Lines).shown
        files = list(self.query_one(Grid).found.values())
        data = {
            "path": self._stream.path if self._stream else self.query_one("#path", Input).value,
            "filter": self.query_one("#search", Input).value,
            "items": [
                {"time": clock, "state": state.strip().split(","), "text": text}
                for clock, state, text in shown
            ],
            "most_cached": [
                {"path": row[3].plain, "cached": row[0].value, "dirty": row[2].value}
                for row in files
            ],
        }
        lines = ["  ".join(line) for line in shown]
        return data, [*lines, "", *("  ".join(cell.plain for cell in row) for row in files)]


_NO_TREE = "A recording has one path."


def _paths(stream: Stream, items: list[Item]) -> dict[FileId, str]:
    with contextlib.suppress(OSError):
        return stream.paths_of(dict.fromkeys(item.file for item in items if item.file.ino))
    return {}


def _words(item: Item, paths: dict[FileId, str]) -> str:
    if item.state & State.OVERFLOW:
        pages = "?"
    else:
        pages = f"{item.index}" if item.pages == 1 else f"{item.index}-{item.end - 1}"
    unknown = f"({item.file})" if item.file.ino else "(files that are not known)"
    return f"{pages:>11}  {printable(paths.get(item.file, unknown))}"


SCREEN = WatchScreen
