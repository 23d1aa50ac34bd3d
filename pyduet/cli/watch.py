# SPDX-License-Identifier: MIT
"""``duet watch``: what happens to the pages below a directory, or of a file, as it happens."""

import argparse
import itertools
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from pyduet._text.names import printable
from pyduet._text.numbers import plural
from pyduet.cli import arguments, source
from pyduet.cli.text import console, grid, print_grid, print_json
from pyduet.events import FileId, Item, Mask, State
from pyduet.stream import Stream
from pyduet.tally import FileCount, Tally

if TYPE_CHECKING:
    from rich.console import RenderableType

EVENTS = Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED
STATES = Mask.EXISTS | Mask.MODIFIED

#: Seconds between two pictures of a live table.
_FRAME = 0.25


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Tell what happens to the cached pages below a directory, or of a file. In a "
        "terminal a live table, else a line for each item, until --count, --timeout or Ctrl-C."
    )
    source.add_arguments(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--state",
        dest="mask",
        action="store_const",
        const=STATES,
        default=STATES,
        help="what is cached and dirty, and how that changes (default)",
    )
    what.add_argument(
        "--events",
        dest="mask",
        action="store_const",
        const=EVENTS,
        help="each page that was added, removed, dirtied, flushed",
    )
    what.add_argument(
        "--mask",
        type=arguments.mask,
        metavar="NAMES",
        help="comma-separated: added, removed, dirty, flushed, exists, modified",
    )
    parser.add_argument("--by-file", action="store_true", help="add up for each file")
    parser.add_argument("--lines", action="store_true", help="print lines in a terminal, too")
    parser.add_argument(
        "--json", action="store_true", help="print JSON: a line for each item, or file"
    )
    parser.add_argument("--count", type=arguments.count, metavar="N", help="stop after N items")
    parser.add_argument(
        "--timeout", type=arguments.seconds, metavar="S", help="stop after S seconds without any"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    with source.opened(options, options.mask) as stream:
        if sys.stdout.isatty() and not options.json and not options.lines:
            _live(stream, options)
        elif options.by_file:
            _sums(stream, options)
        else:
            _lines(stream, options)


def _lines(stream: Stream, options: argparse.Namespace) -> None:
    for item in itertools.islice(stream.events(options.timeout), options.count):
        if options.json:
            print_json(_object(stream, item))
        else:
            print(*_cells(stream, item, widths=True), sep="  ", flush=True)


def _object(stream: Stream, item: Item) -> dict[str, Any]:
    return {
        "time": round(time.time(), 6),
        "path": source.path_of(stream, item.file),
        "ino": item.file.ino,
        "generation": item.file.generation,
        "index": item.index,
        "pages": item.pages,
        "state": item.state,
    }


def _cells(stream: Stream, item: Item, *, widths: bool) -> list[str]:
    if item.state & State.OVERFLOW:
        pages = "?"
    else:
        pages = f"{item.index}" if item.pages == 1 else f"{item.index}-{item.end - 1}"
    cells = [time.strftime("%H:%M:%S"), str(item.state), pages, source.name_of(stream, item.file)]
    if widths:
        cells[1:3] = [f"{cells[1]:16}", f"{cells[2]:>13}"]
    return cells


#: Columns that a narrow terminal does without, first to last.
_SPARE = ("flushed", "dirtied", "dirty", "removed", "added")
_FILE_HEADERS = ("cached", "dirty", "added", "removed", "dirtied", "flushed", "file")


def file_object(stream: Stream, file: FileId, one: FileCount) -> dict[str, Any]:
    """Return what is known of a file, for JSON: ``by_file`` of the schema."""
    return {
        "path": source.path_of(stream, file),
        "ino": file.ino,
        "generation": file.generation,
        "cached": one.cached if stream.mask & Mask.EXISTS else None,
        "dirty": one.dirty if stream.mask & Mask.MODIFIED else None,
        "added": one.added,
        "removed": one.removed,
        "dirtied": one.dirtied,
        "flushed": one.flushed,
    }


def _file_cells(stream: Stream, file: FileId, one: FileCount) -> list[str]:
    return [
        f"{one.cached:,}" if stream.mask & Mask.EXISTS else "-",
        f"{one.dirty:,}" if stream.mask & Mask.MODIFIED else "-",
        f"{one.added:,}",
        f"{one.removed:,}",
        f"{one.dirtied:,}",
        f"{one.flushed:,}",
        source.name_of(stream, file),
    ]


def _sums(stream: Stream, options: argparse.Namespace) -> None:
    """Add up until the end, or Ctrl-C, and print then."""
    tally = Tally(stream.mask)
    interrupted = None
    try:
        for batch in stream.batches(options.timeout):
            tally.apply(batch)
            if options.count is not None and tally.items >= options.count:
                break
    except KeyboardInterrupt as error:
        interrupted = error
    found = tally.most_changing(len(tally.files))
    if options.json:
        for file, one in found:
            print_json(file_object(stream, file, one))
    else:
        print_grid(
            _FILE_HEADERS, [_file_cells(stream, *one) for one in found], ">>>>>><", spare=_SPARE
        )
    if interrupted:
        raise interrupted


def _live(stream: Stream, options: argparse.Namespace) -> None:
    from rich.live import Live

    terminal = console()
    tally = Tally(stream.mask)
    recent: deque[list[str]] = deque(maxlen=500)
    begin = last = time.monotonic()

    def picture() -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        room = max(3, terminal.height - 4)
        if options.by_file:
            rows = [_file_cells(stream, *one) for one in tally.most_changing(room)]
            table = grid(terminal, _FILE_HEADERS, rows, ">>>>>><", spare=_SPARE)
        else:
            table = grid(
                terminal,
                ("time", "state", "pages", "file"),
                list(recent)[-room:],
                "<<><",
                spare=("time", "pages"),
            )
        return Group(table, Text(_summary(stream, tally, time.monotonic() - begin)))

    def enough() -> bool:
        if options.count is not None and tally.items >= options.count:
            return True
        quiet = time.monotonic() - last
        return stream.ended or (options.timeout is not None and quiet >= options.timeout)

    with Live(picture(), console=terminal, auto_refresh=False) as live:
        while not enough():
            for batch in source.batches_for(stream, _FRAME):
                last = time.monotonic()
                tally.apply(batch)
                if not options.by_file:
                    recent.extend(_cells(stream, item, widths=False) for item in batch)
            live.update(picture(), refresh=True)


def _summary(stream: Stream, tally: Tally, seconds: float) -> str:
    total = tally.total
    words = [
        f"{printable(stream.path)}: {seconds:.0f} s, {plural(len(tally.files), 'file')}",
        f"added {total.added:,}, removed {total.removed:,}",
        f"dirtied {total.dirtied:,}, flushed {total.flushed:,} pages",
    ]
    if stream.mask & Mask.EXISTS:
        words.append(f"{total.cached:,} cached")
    if tally.overflows:
        words.append(f"{plural(tally.overflows, 'overflow')}: not all was told")
    return ", ".join(words)
