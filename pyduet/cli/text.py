# SPDX-License-Identifier: MIT
"""How things are written: on one line, in units, in columns, as JSON."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyduet._text.jsonable import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def printable(text: str) -> str:
    """Return text that stays on one line and cannot steer the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def size(number: int) -> str:
    """Return a number of bytes in the unit that keeps it short, as ``1.5 MiB``."""
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def age(seconds: float) -> str:
    """Return a time as people say it, as ``3m12s``."""
    whole = int(seconds)
    for unit, length, below in (("d", 86400, "h"), ("h", 3600, "m"), ("m", 60, "s")):
        if whole >= length:
            part = length // {"d": 24, "h": 60, "m": 60}[unit]
            return f"{whole // length}{unit}{whole % length // part}{below}"
    return f"{whole}s"


def plural(number: int, one: str) -> str:
    """Return a number and what it counts, as ``1 task`` or ``2 tasks``."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def print_json(value: Any) -> None:
    """Print a value as one line of JSON, at once."""
    print(json.dumps(plain(value)), flush=True)


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
