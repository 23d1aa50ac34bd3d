# SPDX-License-Identifier: MIT
"""How far a maintenance task is: a bar in a terminal, else a line now and then, or JSON."""

import argparse
import contextlib
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from pyduet._text.names import printable
from pyduet._text.numbers import size
from pyduet.cli.text import print_json

if TYPE_CHECKING:
    from pyduet.maintenance import Progress
    from pyduet.maintenance.archive.restore import Restored
    from pyduet.maintenance.f2fs.cleaner import Cleaning

_Progress: TypeAlias = "Progress | Cleaning | Restored"
_Tell: TypeAlias = Callable[[_Progress], object]

#: Seconds between two objects, and between two lines of words.
_OBJECTS, _LINES = 1.0, 10.0
#: What is listed in the result alone, since it may be long: before that it is only counted.
_LISTS = ("problems", "left_out", "victims")


@contextlib.contextmanager
def shown(
    options: argparse.Namespace, kind: str, root: str, *, bar: bool = True
) -> Iterator[_Tell]:
    """Show the progress that the function is told which this gives.

    Args:
        options: with --json objects on stdout, in place of words on stderr;
            with --quiet no words.
        kind: of the task.
        root: what it works on.
        bar: whether there may be a bar in a terminal.

    """
    if options.json:
        yield _now_and_then(0.0, _OBJECTS, _object)
        return
    if options.quiet:
        yield lambda _: None
        return
    if not bar or not sys.stderr.isatty():
        print(f"{kind}: begun on {printable(root)}", file=sys.stderr)
        yield _now_and_then(time.monotonic() + _LINES, _LINES, functools.partial(_line, kind))
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
        number = bars.add_task(kind, total=None, saved="")

        def tell(progress: _Progress) -> None:
            bars.update(
                number,
                description=f"{kind}: {progress.step}",
                total=progress.bytes or None,
                completed=progress.bytes_done,
                saved=f"{size(_saved(progress))} saved" if _saved(progress) else "",
            )

        yield tell


def _now_and_then(begin: float, seconds: float, tell: _Tell) -> _Tell:
    """Return the function of that kind that tells from a time on, and no more often than that."""
    due = begin

    def told(progress: _Progress) -> None:
        nonlocal due
        if (now := time.monotonic()) >= due:
            due = now + seconds
            tell(progress)

    return told


def _object(progress: _Progress) -> None:
    lists: dict[str, Any] = {
        one.name: [] for one in dataclasses.fields(progress) if one.name in _LISTS
    }
    print_json(dataclasses.replace(progress, **lists))


def _line(kind: str, progress: _Progress) -> None:
    share = f"{progress.bytes_done / progress.bytes:.0%}, " if progress.bytes else ""
    saved = f", {size(_saved(progress))} from memory" if hasattr(progress, "bytes_cached") else ""
    print(
        f"{kind}: {progress.step}: {share}{size(progress.bytes_done)} of "
        f"{size(progress.bytes)}{saved}",
        file=sys.stderr,
    )


def _saved(progress: _Progress) -> int:
    """Return the bytes that were in memory; a restore counts none."""
    return getattr(progress, "bytes_cached", 0)
