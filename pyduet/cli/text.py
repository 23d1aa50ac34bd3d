# SPDX-License-Identifier: MIT
"""How things are written: on one line, in units, in columns, as JSON."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyduet._text.jsonable import to_jsonable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_json(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    print(json.dumps(to_jsonable(value)), flush=True)


def console() -> "Console":
    """Return the terminal on stdout; it knows NO_COLOR and TERM=dumb."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def grid(headers: Sequence[str], rows: Sequence[Sequence[str]], right: str) -> "Table":
    """Return columns for a terminal; the last one gives way where it is narrow.

    Args:
        headers: one for each column.
        rows: a text for each column.
        right: a letter for each column: ``>`` is set right, ``<`` left.

    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, (header, side) in enumerate(zip(headers, right, strict=True)):
        last = number == len(headers) - 1
        table.add_column(
            header,
            justify="right" if side == ">" else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if last else None,
            min_width=None
            if last
            else max(len(cell) for cell in [header, *(r[number] for r in rows)]),
        )
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def print_grid(headers: Sequence[str], rows: Sequence[Sequence[str]], right: str) -> None:
    """Print columns: fitted to a terminal, whole to anything else; arguments as of :func:`grid`."""
    if sys.stdout.isatty():
        console().print(grid(headers, rows, right))
        return
    lines = [headers, *rows]
    widths = [max(len(line[number]) for line in lines) for number in range(len(headers))]
    for line in lines:
        cells = [
            f"{cell:{side}{width}}" for cell, side, width in zip(line, right, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())
