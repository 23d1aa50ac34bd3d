# SPDX-License-Identifier: MIT
"""``duet top``: the most cached and the most changing files, refreshed."""

import argparse
import itertools
import mmap
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyduet._text.names import printable
from pyduet._text.numbers import plural, size
from pyduet.cli import arguments, source
from pyduet.cli.text import console, grid, print_grid, print_json
from pyduet.cli.watch import STATES, file_object
from pyduet.events import FileId
from pyduet.stream import Stream
from pyduet.tally import FileCount, Tally

if TYPE_CHECKING:
    from rich.console import RenderableType

_CACHED = ("cached", "dirty", "most cached")
_CHANGING = ("added", "removed", "dirtied", "flushed", "most changing")

#: Columns that a narrow terminal does without, first to last.
_SPARE = ("dirty",)
_SPARE_CHANGING = ("flushed", "dirtied", "removed")


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Show which files below a directory have most pages in the cache, and of which "
        "most has changed since the last refresh, until Ctrl-C. Into a pipe: once."
    )
    source.add_arguments(parser)
    parser.add_argument(
        "--interval",
        type=arguments.seconds,
        default=2.0,
        metavar="S",
        help="seconds between refreshes (default: %(default)g)",
    )
    parser.add_argument("--count", type=arguments.count, metavar="N", help="end after N refreshes")
    parser.add_argument(
        "--rows", type=arguments.count, metavar="N", help="files a list (default: what fits, or 10)"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON each time")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    with source.opened(options, STATES) as stream:
        if sys.stdout.isatty() and not options.json:
            _live(stream, options)
            return
        count = options.count or (None if options.json else 1)
        for tally, seconds in itertools.islice(_refreshes(stream, options.interval), count):
            rows = options.rows or 10
            if options.json:
                print_json(_object(stream, tally, seconds, rows))
            else:
                _print(stream, tally, rows)


def _refreshes(stream: Stream, interval: float) -> Iterator[tuple[Tally, float]]:
    """Yield the tally after each interval, and how long that was.

    What is cached to begin with is no change.
    """
    tally = Tally(stream.mask)
    if not stream.ended:
        for batch in stream.batches(timeout=0):
            tally.apply(batch)
    tally.begin_anew()
    while True:
        begin = time.monotonic()
        for batch in source.batches_for(stream, interval):
            tally.apply(batch)
        yield tally, time.monotonic() - begin
        if stream.ended:
            return
        tally.begin_anew()


def _object(stream: Stream, tally: Tally, seconds: float, rows: int) -> dict[str, Any]:
    return {
        "time": round(time.time(), 6),
        "seconds": round(seconds, 6),
        "files": len(tally.files),
        "cached": tally.total.cached,
        "dirty": tally.total.dirty,
        "most_cached": [file_object(stream, *one) for one in tally.most_cached(rows)],
        "most_changing": [file_object(stream, *one) for one in tally.most_changing(rows)],
    }


def _cached(stream: Stream, file: FileId, one: FileCount) -> list[str]:
    return [f"{one.cached:,}", f"{one.dirty:,}", source.name_of(stream, file)]


def _changing(stream: Stream, file: FileId, one: FileCount) -> list[str]:
    numbers = (one.added, one.removed, one.dirtied, one.flushed)
    return [*(f"{number:,}" for number in numbers), source.name_of(stream, file)]


def _summary(stream: Stream, tally: Tally) -> str:
    total = tally.total
    lost = f"; {plural(tally.overflows, 'overflow')}: not exact" if tally.overflows else ""
    return (
        f"{printable(stream.path)}: {plural(total.cached, 'page')} "
        f"({size(total.cached * mmap.PAGESIZE)}) of {plural(len(tally.files), 'file')} cached, "
        f"{total.dirty:,} dirty{lost}"
    )


def _print(stream: Stream, tally: Tally, rows: int) -> None:
    print(_summary(stream, tally))
    print()
    print_grid(
        _CACHED, [_cached(stream, *one) for one in tally.most_cached(rows)], ">><", spare=_SPARE
    )
    print()
    changing = [_changing(stream, *one) for one in tally.most_changing(rows)]
    print_grid(_CHANGING, changing, ">>>><", spare=_SPARE_CHANGING)


def _live(stream: Stream, options: argparse.Namespace) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    terminal = console()

    def picture(tally: Tally) -> "RenderableType":
        rows = options.rows or max(2, (terminal.height - 6) // 2)
        cached = [_cached(stream, *one) for one in tally.most_cached(rows)]
        changing = [_changing(stream, *one) for one in tally.most_changing(rows)]
        return Group(
            Text(_summary(stream, tally)),
            Text(),
            grid(terminal, _CACHED, cached, ">><", spare=_SPARE),
            Text(),
            grid(terminal, _CHANGING, changing, ">>>><", spare=_SPARE_CHANGING),
        )

    with Live(picture(Tally(stream.mask)), console=terminal, auto_refresh=False) as live:
        refreshes = _refreshes(stream, options.interval)
        for tally, _ in itertools.islice(refreshes, options.count):
            live.update(picture(tally), refresh=True)
