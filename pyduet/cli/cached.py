# SPDX-License-Identifier: MIT
"""``duet cached``: what is cached now, file by file."""

import argparse
import mmap
from collections.abc import Iterable, Iterator
from typing import Any

from pyduet._text.names import printable
from pyduet._text.numbers import plural, size
from pyduet.cli import arguments
from pyduet.cli.text import print_grid, print_json, say
from pyduet.snapshot import PageRange, Residency, residency


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Tell what is cached now of the files below a directory, or of a file, those "
        "with most pages first. Files with nothing in the cache are not listed."
    )
    parser.add_argument("path", metavar="PATH", help="the directory or file")
    parser.add_argument("--ranges", action="store_true", help="tell which pages; * are dirty")
    parser.add_argument(
        "--rows", type=arguments.count, metavar="N", help="only the N files with most pages"
    )
    parser.add_argument("--json", action="store_true", help="print a line of JSON for each file")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    found = _counted(residency(options.path, device=options.device))
    if options.json and options.rows is None:
        for one in found:
            print_json(_object(one))
        return
    files = sorted(found, key=lambda one: (-one.cached, one.path or ""))
    shown = files[: options.rows]
    if options.json:
        for one in shown:
            print_json(_object(one))
        return
    print_grid(
        ("pages", "size", "dirty", "file"),
        [_row(one, ranges=options.ranges) for one in shown],
        ">>><",
        spare=("dirty", "size"),
        whole=options.ranges,
    )
    pages = sum(one.cached for one in files)
    dirty = sum(one.dirty for one in files)
    say(
        options,
        f"{plural(pages, 'page')} ({size(pages * mmap.PAGESIZE)}) of {plural(len(files), 'file')} "
        f"cached, {dirty:,} dirty",
    )


def _counted(files: Iterable[Residency]) -> Iterator[Residency]:
    """Yield the files, and show how many there were, where somebody is looking."""
    from rich.console import Console
    from rich.status import Status

    words = Console(stderr=True)
    if not words.is_terminal:
        yield from files
        return
    with Status("asking what is cached", console=words) as status:
        for number, one in enumerate(files, 1):
            if not number % 1000:
                status.update(f"{number:,} files")
            yield one


def _object(one: Residency) -> dict[str, Any]:
    return {
        "path": one.path,
        "ino": one.file.ino,
        "generation": one.file.generation,
        "cached": one.cached,
        "dirty": one.dirty,
        "ranges": [[part.index, part.pages, part.dirty] for part in one.ranges],
    }


def _row(one: Residency, *, ranges: bool) -> list[str]:
    name = f"({one.file})" if one.path is None else printable(one.path)
    if ranges:
        name += f"  [{' '.join(map(_range, one.ranges))}]"
    return [f"{one.cached:,}", size(one.cached * mmap.PAGESIZE), f"{one.dirty:,}", name]


def _range(part: PageRange) -> str:
    last = part.index + part.pages - 1
    pages = f"{part.index}" if part.pages == 1 else f"{part.index}-{last}"
    return pages + ("*" if part.dirty else "")
