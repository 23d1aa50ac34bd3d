# SPDX-License-Identifier: MIT
"""The hash table of nodes: how full it is, everywhere."""

import asyncio
import threading
import time
from collections.abc import Iterable
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget
from textual.widgets import Static
from textual.worker import Worker

from duet_tui.sample import Picture, sample
from duet_tui.screens.base import DuetScreen
from duet_tui.view import View
from duet_tui.widgets.bars import columns
from duet_tui.widgets.dialogs import Ask
from duet_tui.widgets.heat import Heat
from pyduet._text.numbers import plural
from pyduet.events import FileId

#: A pass is followed by a pause of so many times as long as it took, at least some seconds.
_PAUSE, _LEAST = 50, 2.0
_CHAIN_WIDTH, _CHAIN_HEIGHT = 4, 3


class TableScreen(DuetScreen):
    """The third screen."""

    MODE = "table"
    FIRST = "#heat"
    HELP = """
    # Hash table

    Where Duet keeps what it knows: a node for each run of 64 pages of a file. The picture is the
    whole table; the line below says how much of it was read for it. Load and chains are counted by
    the driver, over all buckets.

    *Enter* opens the buckets of a cell, *g* goes to a bucket by its number, *f* finds the buckets
    of a file: nobody can compute them, so all of the table is looked through.
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "go", "Bucket"),
        Binding("f", "find", "Find file"),
        Binding("r", "again", "Reread"),
    ]

    def __init__(self) -> None:
        """Begin with nothing seen."""
        super().__init__()
        self._picture: Picture | None = None
        self._next = 0.0
        self._turn = 0
        self._seen: object = None
        self._worker: Worker[None] | None = None

    def body(self) -> Iterable[Widget]:
        """Return the widgets between the bars."""
        yield Static("", id="shape", markup=False)
        yield Heat(id="heat")
        yield Static("", id="reading", markup=False)
        yield Static("", id="cursor", markup=False)
        yield Static("", id="legend", markup=False, classes="said")
        with_chains = Horizontal(
            Static("", id="chains", markup=False), id="chains_panel", classes="panel"
        )
        with_chains.border_title = "Buckets by the number of their nodes"
        yield with_chains

    def show(self, view: View) -> None:
        """Show a look at the driver; the table is read when something changed, and it is time."""
        if not view.on:
            words = "Duet is off: there is no table" if view.info else view.problem
            self.say("#shape", words)
            self.query_one(Heat).show([])
            for name in ("#reading", "#cursor", "#legend", "#chains"):
                self.say(name, "")
            self._picture, self._seen = None, None
            return
        if not view.counters:
            self.say("#shape", "The table is shown to root alone (CAP_SYS_ADMIN)")
            return
        info = view.info
        seen = (info.nodes, info.events, self.query_one(Heat).size) if info else None
        if time.monotonic() >= self._next and seen != self._seen:
            self._seen = seen
            self._read()

    def _read(self) -> None:
        size = self.query_one(Heat).size
        if not size.area or (self._worker is not None and self._worker.is_running):
            return
        self._worker = self.run_worker(self._pass(size.area), name="sample", exit_on_error=False)

    async def _pass(self, room: int) -> None:
        stopped = threading.Event()
        try:
            picture = await asyncio.to_thread(
                sample, self.duet.backend, room, self._turn, stopped.is_set
            )
        except (OSError, ValueError) as error:
            self.say("#shape", str(error))
            self._next = time.monotonic() + _LEAST
            return
        finally:
            stopped.set()  # cancelled: the thread shall not go on for nobody
        if picture is not None:
            self._turn += 1
            self._next = time.monotonic() + max(_LEAST, _PAUSE * picture.seconds)
            self._draw(picture)

    def _draw(self, picture: Picture) -> None:
        self._picture = picture
        table = picture.table
        load = table.nodes / max(1, table.buckets)
        self.say(
            "#shape",
            f"{plural(table.nodes, 'node')} in {plural(table.buckets, 'bucket')}: "
            f"load {load:.3g}, longest chain {table.longest}",
        )
        heat = self.query_one(Heat)
        heat.show(picture.cells, 1 / picture.read)
        if picture.whole:
            self.say("#legend", f"{heat.legend(1 / picture.per_cell)}  nodes a cell")
        else:
            self.say("#legend", f"{heat.legend(1)}  nodes a bucket")
        self._say_reading()
        self.say("#chains", _chains(table.chains))

    def _say_reading(self) -> None:
        picture = self._picture
        if picture is None:
            return
        clock = time.strftime("%H:%M:%S", time.localtime(self.duet.backend.now()))
        if picture.whole:
            read = "all of them were read"
        else:
            read = f"{picture.read:,} of them {plural_were(picture.read)} read, others next time"
        heat = self.query_one(Heat)
        first = heat.cursor * picture.per_cell
        last = min(first + picture.per_cell, picture.table.buckets) - 1
        at = picture.cells[heat.cursor] if heat.cursor < len(picture.cells) else 0
        self.say("#reading", f"{clock}  a cell is {plural(picture.per_cell, 'bucket')}, {read}")
        holds = (
            plural(round(at * (last + 1 - first)), "node")
            if picture.whole
            else f"{at:.2f} nodes a bucket"
        )
        self.say("#cursor", f"at the cursor: buckets {first:,} to {last:,}, {holds}")

    def on_heat_resized(self) -> None:
        """Read as many cells as there is room for now."""
        self._next = 0.0
        self.show(self.duet.view)

    def on_heat_moved(self) -> None:
        """Say where the cursor is."""
        self._say_reading()

    def on_heat_opened(self, event: Heat.Opened) -> None:
        """Open the buckets of a cell."""
        if self._picture is not None:
            first = event.cell * self._picture.per_cell
            self._open(first, min(first + self._picture.per_cell, self._picture.table.buckets))

    def _open(self, first: int, end: int) -> None:
        from duet_tui.screens.buckets import BucketsScreen, OfRange

        self.app.push_screen(BucketsScreen(OfRange(first, end), self.MODE))

    def action_again(self) -> None:
        """Read the table now."""
        self._next, self._seen = 0.0, None
        self.show(self.duet.view)

    def action_go(self) -> None:
        """Ask for a bucket and open it."""

        def go(answer: str | None) -> None:
            if answer is None:
                return
            text = answer.strip().replace(",", "")
            buckets = self._picture.table.buckets if self._picture else 1 << 44
            if not text.isdecimal() or int(text) >= buckets:
                self.duet.complain(f"{answer!r} is no bucket; those are 0 to {buckets - 1:,}")
            else:
                self._open(int(text), int(text) + 1)

        self.app.push_screen(Ask("Go to a bucket", "Its number:"), go)

    def action_find(self) -> None:
        """Ask for a file and look for its buckets."""

        def found(answer: str | None) -> None:
            if answer and answer.strip():
                from duet_tui.screens.buckets import BucketsScreen, OfFile

                def show(file: FileId) -> None:
                    self.app.push_screen(BucketsScreen(OfFile(file), self.MODE))

                self.duet.quietly(lambda: self.duet.backend.file_of(answer), show)

        self.app.push_screen(
            Ask("Find the buckets of a file", "Its path, or INODE:GENERATION:"), found
        )

    def export(self) -> tuple[Any, list[str]]:
        """Return what is on the screen."""
        names = ("#shape", "#reading", "#cursor", "#legend", "#chains")
        lines = [
            line
            for name in names
            for line in str(self.query_one(name, Static).content).splitlines()
        ]
        return self._picture, lines


def _chains(chains: Iterable[int]) -> str:
    """Return the histogram; its columns are as high as the logarithm of what they stand for."""
    numbers = list(chains)
    heights = [float(count.bit_length()) for count in numbers]
    lines = []
    for line in columns(heights, max(heights, default=0.0), len(numbers), _CHAIN_HEIGHT):
        lines.append("".join(f"{char * (_CHAIN_WIDTH - 1)} " for char in line))
    counts = "".join(f"{short(count):^{_CHAIN_WIDTH}}" for count in numbers)
    heads = [*map(str, range(len(numbers) - 1)), f"{len(numbers) - 1}+"]
    return "\n".join([*lines, counts, "".join(f"{head:^{_CHAIN_WIDTH}}" for head in heads)])


def plural_were(number: int) -> str:
    """Return the verb for some."""
    return "was" if number == 1 else "were"


def short(number: int) -> str:
    """Return a number in four characters at most, as ``131k``."""
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number}{unit}"
        number //= 1000
    return f"{number}G"


SCREEN = TableScreen
