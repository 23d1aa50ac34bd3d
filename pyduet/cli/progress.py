# SPDX-License-Identifier: MIT
"""How far a maintenance task is: a bar in a terminal, else a line now and then, or JSON."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from pyduet._text.numbers import size
from pyduet.cli.text import print_json

#: Seconds between two objects, and between two lines of words.
_OBJECTS, _LINES = 1.0, 10.0


class Progress(Protocol):
    """What there is to show of how far a task is; in JSON all that it has is printed."""

    step: str

    @property
    def bytes(self) -> int:
        """Of the work that was found."""

    @property
    def bytes_done(self) -> int:
        """Of it that was processed."""

    @property
    def bytes_cached(self) -> int:
        """That were in memory before: reads saved."""


@contextlib.contextmanager
def shown(kind: str, *, json: bool) -> Iterator[Callable[[Progress], None]]:
    """Show the progress that the function is told which this gives.

    Args:
        kind: of the task.
        json: print objects on stdout, in place of words on stderr.

    """
    if json or not sys.stderr.isatty():
        yield _Lines(kind, json=json)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Speed(ProgressColumn):
        """In binary units, as all sizes here are; rich's own column has decimal ones only."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            words = "?" if speed is None else f"{size(int(speed))}/s"
            return Text(words, style="progress.data.speed")

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[saved]}"),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        bar = bars.add_task(kind, total=None, saved="")

        def tell(progress: Progress) -> None:
            bars.update(
                bar,
                description=f"{kind}: {progress.step}",
                total=progress.bytes or None,
                completed=progress.bytes_done,
                saved=f"{size(progress.bytes_cached)} saved" if progress.bytes_cached else "",
            )

        yield tell


class _Lines:
    """Says how far a task is, when there is something to say and not too often."""

    def __init__(self, kind: str, *, json: bool) -> None:
        self._kind = kind
        self._json = json
        self._last = time.monotonic() - (_OBJECTS if json else 0)

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < (_OBJECTS if self._json else _LINES):
            return
        self._last = now
        if self._json:
            print_json(progress)
            return
        share = f"{progress.bytes_done / progress.bytes:.0%}, " if progress.bytes else ""
        print(
            f"{self._kind}: {progress.step}: {share}{size(progress.bytes_done)} of "
            f"{size(progress.bytes)}, {size(progress.bytes_cached)} from memory",
            file=sys.stderr,
        )
