# SPDX-License-Identifier: MIT
"""How the command writes: words on stderr, columns and JSON on stdout.

In words there may be names that others chose, so each is one line that cannot steer the terminal.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pyduet._text.names import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

#: Between two columns.
_GAP = 2
#: What the last column, of paths, has at least before others give way, or half of the terminal. And
#: what is left of another that is longer, when the last one has not even that.
_LEAST = 30


def say(options: argparse.Namespace, words: str) -> None:
    """Say on stderr how it went, when all went well; --quiet wants none of that."""
    # What is said of the output comes after it, and not at all if it cannot be written.
    sys.stdout.flush()
    if not options.quiet:
        print(printable(words), file=sys.stderr)


def warn(words: str) -> None:
    """Say on stderr, as the command's, what did not go well."""
    print(f"duet: {printable(words)}", file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    from pyduet._text.jsonable import json_of

    print(json_of(value), flush=True)


def console() -> "Console":
    """Return the terminal on stdout; it knows NO_COLOR and TERM=dumb."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def grid(
    terminal: "Console",
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: str,
    *,
    spare: Iterable[str] = (),
    whole: bool = False,
) -> "Table":
    """Return columns that fit a terminal.

    Where it is narrow, columns are given up, and then what is too long loses its
    beginning: what tells files apart is at the end of their paths.

    Args:
        terminal: whose width it is.
        headers: one for each column; the last one is of paths.
        rows: a text for each column.
        right: a letter for each column: ``>`` is set right, ``<`` left.
        spare: headers of columns that may be given up, in that order.
        whole: break what is too long, and lose nothing.

    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    widths = [max(map(cell_len, column)) for column in zip(headers, *rows, strict=True)]
    last = len(headers) - 1
    shown = list(range(last))
    least = min(widths[last], max(_LEAST, terminal.width // 2))

    def room() -> int:
        return terminal.width - sum(widths[number] + _GAP for number in shown)

    for header in spare:
        if room() >= least:
            break
        shown.remove(headers.index(header))
    for number in shown:
        if room() < least and right[number] == "<":
            widths[number] = min(widths[number], _LEAST)
    widths[last] = max(1, room())
    shown.append(last)

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for number in shown:
        table.add_column(
            headers[number],
            justify="right" if right[number] == ">" else "left",
            no_wrap=not whole,
            overflow="fold" if whole else "crop",
            min_width=None if number == last else widths[number],
            ratio=1 if number == last else None,
        )
    for row in rows:
        cells = (row[number] if whole else _end_of(row[number], widths[number]) for number in shown)
        table.add_row(*map(Text, cells))
    return table


def _end_of(text: str, width: int) -> str:
    """Return text that takes so many columns at most: its end, after an ellipsis."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    begin, room = len(text), width - 1
    while (room := room - cell_len(text[begin - 1])) >= 0:
        begin -= 1
    # An accent belongs to the letter before it.
    while begin < len(text) and not cell_len(text[begin]):
        begin += 1
    return f"…{text[begin:]}"


def print_grid(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: str,
    *,
    spare: Iterable[str] = (),
    whole: bool = False,
) -> None:
    """Print columns: fitted to a terminal, whole to anything else; arguments as of :func:`grid`."""
    if sys.stdout.isatty():
        terminal = console()
        terminal.print(grid(terminal, headers, rows, right, spare=spare, whole=whole))
        return
    lines = [headers, *rows]
    widths = [max(len(line[number]) for line in lines) for number in range(len(headers))]
    for line in lines:
        cells = [
            f"{cell:{side}{width}}" for cell, side, width in zip(line, right, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())
