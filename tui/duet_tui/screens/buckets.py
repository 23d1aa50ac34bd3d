# SPDX-License-Identifier: MIT
"""Buckets opened into their nodes: of a part of the table, or those that hold a file."""

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import DataTable, Static

from duet_tui.sample import Node, nodes_of, search
from duet_tui.screens.base import Cell, DuetScreen, number
from duet_tui.view import View
from duet_tui.widgets.grid import Grid
from pyduet._text.names import printable
from pyduet._text.numbers import plural
from pyduet.events import FileId, Mask

#: Nodes that are shown at most, and added at a time: so much that a key waits for no more.
_MOST, _ADDED = 1000, 100
#: Seconds between two words of a search.
_TELL = 0.2
_HEADS = ("bucket", "pages", "cached", "dirty", "tasks", "file")
_PAGES = 64


@dataclass(frozen=True, slots=True)
class OfRange:
    """The buckets from ``first`` on and before ``end``."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class OfFile:
    """All buckets that hold nodes of a file; of whatever task it was told."""

    file: FileId


class BucketsScreen(DuetScreen):
    """The nodes of some buckets, and the bits of one."""

    FIRST = "#nodes"
    HELP = """
    # Buckets

    A row is a node: up to 64 pages of a file. Below are its pages, one a character, and what the
    node says of them to each task: to an event-based one what it has not read yet, to a state-based
    one as what it knows the page.

    *f* finds all buckets of the file at the cursor, *t* goes to its task, with the file in the
    field of the bitmap. *n* and *p* go to the next and the previous buckets; *Escape* goes back.
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "file", "File"),
        Binding("t", "task", "Task"),
        Binding("n", "turn(1)", "Next"),
        Binding("p", "turn(-1)", "Previous", show=False),
        Binding("r", "again", "Reread"),
    ]

    def __init__(self, what: OfRange | OfFile, mode: str) -> None:
        """Make the screen.

        Args:
            what: to show.
            mode: that it was opened from.

        """
        super().__init__()
        self.MODE = mode  # type: ignore[misc]
        self._what = what
        self.nodes: list[Node] = []
        self._paths: dict[FileId, str] = {}
        self._stopped = threading.Event()

    def body(self) -> Iterable[Widget]:
        """Return the widgets between the bars."""
        yield Static("", id="buckets_said", markup=False)
        yield Grid(_HEADS, id="nodes")
        bits = VerticalScroll(Static("", id="bits", markup=False), id="bits_panel", classes="panel")
        bits.border_title = "The node at the cursor"
        yield bits

    def on_mount(self) -> None:
        """Begin to read."""
        super().on_mount()
        self._loop = asyncio.get_running_loop()
        self.action_again()

    def on_unmount(self) -> None:
        """Have the search stop."""
        self._stopped.set()

    def show(self, view: View) -> None:
        """Nothing: what is shown is of the moment when it was read."""
        del view

    # Reading

    def action_again(self) -> None:
        """Read the buckets anew."""
        self._stopped.set()
        self._stopped = threading.Event()
        self.nodes = []
        self.query_one(Grid).show({})
        self.say("#bits", "")
        self.say("#buckets_said", "reading …")
        self.run_worker(self._read(self._stopped), name="read", exclusive=True, exit_on_error=False)

    async def _read(self, stopped: threading.Event) -> None:
        work: Callable[[], None]
        if isinstance(self._what, OfRange):
            what = self._what
            work = lambda: self._range(what, stopped)  # noqa: E731 -- two of a kind
        else:
            file = self._what.file
            work = lambda: self._search(file, stopped)  # noqa: E731
        try:
            await asyncio.to_thread(work)
        except (OSError, ValueError) as error:
            if not stopped.is_set():
                self.say("#buckets_said", str(error))
        finally:
            stopped.set()

    def _range(self, what: OfRange, stopped: threading.Event) -> None:
        rest = nodes_of(self.duet.backend.nodes(what.first, what.end))
        nodes = list(itertools.islice(rest, _MOST))
        more = next(rest, None) is not None
        paths = self._asked(nodes)
        buckets = (
            f"bucket {what.first:,}"
            if what.end == what.first + 1
            else f"buckets {what.first:,} to {what.end - 1:,}"
        )
        count = f"the first {_MOST} of more nodes" if more else plural(len(nodes), "node")
        said = f"{buckets}: {count}"
        self._hand_over(nodes, paths, said, stopped)

    def _hand_over(
        self,
        nodes: list[Node],
        paths: dict[FileId, str],
        said: str,
        stopped: threading.Event,
    ) -> None:
        """Have nodes shown, some at a time, by the thread of the screen."""
        for first in range(0, max(len(nodes), 1), _ADDED):
            adding = self._add(nodes[first : first + _ADDED], paths, said, stopped)
            added = asyncio.run_coroutine_threadsafe(adding, self._loop)
            # Not for ever: the screen may be left, and its loop with it.
            while not stopped.is_set():
                with contextlib.suppress(TimeoutError):
                    added.result(0.1)
                    break

    def _search(self, file: FileId, stopped: threading.Event) -> None:
        count, told = 0, time.monotonic()
        waiting: list[Node] = []

        def progress(done: int, buckets: int, found: list[Node]) -> None:
            nonlocal count, told
            waiting.extend(found[: max(0, _MOST - count)])
            count += len(found)
            if done < buckets and time.monotonic() - told < _TELL:
                return
            told = time.monotonic()
            new = list(waiting)
            waiting.clear()
            paths = self._asked(new)
            part = (
                f"{done:,} of {buckets:,} buckets were looked through"
                if done < buckets
                else "all of the table was looked through"
            )
            name = {**self._paths, **paths}.get(file, str(file))
            said = f"{name}: {plural(count, 'node')}; {part}"
            self._hand_over(new, paths, said, stopped)

        search(
            self.duet.backend,
            lambda node: (node.ino, node.generation) == file,
            progress,
            stopped.is_set,
        )

    def _asked(self, nodes: list[Node]) -> dict[FileId, str]:
        """Return the paths of the files of nodes, each asked of the tasks that are told of it."""
        new = {
            (share.task, node.file)
            for node in nodes
            for share in node.shares
            if share.task and node.file not in self._paths
        }
        return self.duet.backend.paths(new)

    async def _add(
        self,
        nodes: list[Node],
        paths: dict[FileId, str],
        said: str,
        stopped: threading.Event,
    ) -> None:
        if stopped.is_set():  # they are of another reading
            return
        self._paths.update(paths)
        before = len(self.nodes)
        self.nodes += nodes
        self.query_one(Grid).extend(
            {str(at): self._row(node) for at, node in enumerate(nodes, before)}
        )
        self.say("#buckets_said", said)
        self._show_bits()

    # Showing

    def _row(self, node: Node) -> tuple[Cell, ...]:
        first = node.first
        tasks = ",".join(str(share.task) for share in node.shares if share.task) or "-"
        return (
            number(first.bucket),
            Cell(f"{first.index:,}-{first.index + _PAGES - 1:,}", first.index, right=True),
            number(first.cached.bit_count()),
            number(first.dirty.bit_count()),
            Cell(tasks),
            Cell(self._path(node)),
        )

    def _path(self, node: Node) -> str:
        return self._paths.get(node.file, f"({node.file})")

    def _selected(self) -> Node | None:
        key = self.query_one(Grid).cursor_key
        return self.nodes[int(key)] if key is not None and int(key) < len(self.nodes) else None

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the bits of a node."""
        event.stop()
        self._show_bits()

    def _show_bits(self) -> None:
        node = self._selected()
        self.say("#bits", self._bits(node) if node else "")

    def _bits(self, node: Node) -> str:
        first = node.first
        masks = {task.id: task.mask for task in self.duet.view.tasks}
        names = {task.id: task.name for task in self.duet.view.tasks}
        device = f"{os.major(first.dev)}:{os.minor(first.dev)}"
        lines = [
            f"{printable(self._path(node))}",
            f"bucket {first.bucket:,}, {node.file}, device {device}, from page {first.index:,}",
            f"{'':10}{''.join(f'{page:<8}' for page in range(0, _PAGES, 8))}",
        ]
        if first.cached or first.dirty:
            lines += [f"{'cached':10}{_drawn(first.cached)}", f"{'dirty':10}{_drawn(first.dirty)}"]
        for share in node.shares:
            if not share.task:
                lines.append("no task is told anything by it")
                continue
            mask = masks.get(share.task, Mask(0))
            by_state = mask & (Mask.EXISTS | Mask.MODIFIED)
            knows = "knows" if by_state else "has not read"
            unread = ", and has news to read" if by_state and share.queued else ""
            lines.append(
                f"task {share.task}, {printable(names.get(share.task, '?'))}, {knows}{unread}:"
            )
            told = [
                f"  {name:8}{_drawn(bits)}" for name, bits in share.bits._asdict().items() if bits
            ]
            lines += told or ["  nothing"]
        return "\n".join(lines)

    # Going elsewhere

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what leads nowhere."""
        if action == "turn" and isinstance(self._what, OfFile):
            return False
        if action == "turn" and isinstance(self._what, OfRange):
            return None if parameters == (-1,) and not self._what.first else True
        return True

    def action_turn(self, way: int) -> None:
        """Go to the next buckets, or the previous ones."""
        if isinstance(self._what, OfRange):
            length = self._what.end - self._what.first
            first = max(0, self._what.first + way * length)
            self._what = OfRange(first, first + length)
            self.action_again()
            self.refresh_bindings()

    def action_file(self) -> None:
        """Find all buckets of the file at the cursor."""
        if node := self._selected():
            self.app.push_screen(BucketsScreen(OfFile(node.file), self.MODE))

    def action_task(self) -> None:
        """Go to the task that is told of the node at the cursor, with the file."""
        from duet_tui.screens.task import TaskScreen

        node = self._selected()
        wanted = {share.task for share in node.shares} if node else set()
        task = next((task for task in self.duet.view.tasks if task.id in wanted), None)
        if node is None or task is None:
            self.app.notify("no task is told of this node")
            return
        self.app.push_screen(TaskScreen(task, self.MODE, f"{node.file.ino}:{node.file.generation}"))

    def export(self) -> tuple[Any, list[str]]:
        """Return what is on the screen."""
        data = [{"path": self._paths.get(node.file), "shares": node.shares} for node in self.nodes]
        lines = ["  ".join(cell.plain for cell in self._row(node)) for node in self.nodes]
        return data, lines


def _drawn(bits: int) -> str:
    return "".join("█" if bits >> page & 1 else "·" for page in range(_PAGES))
