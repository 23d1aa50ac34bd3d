# SPDX-License-Identifier: MIT
"""``duet debug``: a shell for those who develop Duet, or programs that use it."""

import argparse
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyduet.cli.shell.shell import Shell


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Look into Duet and its tasks: a shell with history and completion on a "
        "terminal, line by line from a script. help lists its commands."
    )
    parser.epilog = (
        "A script stops at the first error, with the exit code that it has elsewhere. "
        "Tasks that are registered here end with the shell."
    )
    lines = parser.add_mutually_exclusive_group()
    lines.add_argument("file", nargs="?", metavar="FILE", help="a script; default: standard input")
    lines.add_argument(
        "-c", action="append", dest="lines", metavar="LINE", help="a line; may be repeated"
    )
    parser.add_argument(
        "--keep-going",
        action="store_true",
        help="do not stop a script at an error; the exit code is that of the first",
    )
    parser.add_argument("--json", action="store_true", help="answer with a line of JSON each")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int | None:
    """Talk on a terminal, or execute a script."""
    from pyduet.cli.shell.shell import Shell

    with Shell(options.device, as_json=options.json, quiet=options.quiet) as shell:
        if options.lines:
            places = (f"-c {number}" for number in range(1, len(options.lines) + 1))
            return _script(shell, zip(places, options.lines, strict=True), options.keep_going)
        if options.file in (None, "-") and os.isatty(0) and os.isatty(1):
            from pyduet.cli.shell.prompt import talk

            talk(shell)
            return None
        return _script(shell, _read(options.file), options.keep_going)


def _read(file: str | None) -> Iterator[tuple[str, str]]:
    """Yield the lines of a script, as they come, each with where it is."""
    source: str | int = 0 if file in (None, "-") else str(file)
    what = "line" if source == 0 else f"{file}, line"
    # A path in it may have any bytes.
    with open(source, errors="surrogateescape", closefd=source != 0) as script:
        for number, line in enumerate(script, 1):
            yield f"{what} {number}", line


def _script(shell: "Shell", lines: Iterable[tuple[str, str]], keep_going: bool) -> int:
    from pyduet.cli.exits import Exit, exit_of
    from pyduet.cli.shell.grammar import Leave
    from pyduet.cli.shell.lines import UsageError
    from pyduet.cli.text import warn

    first: int = 0
    for place, line in lines:
        try:
            shell.execute(line)
        except Leave:
            break
        except (OSError, ValueError) as error:
            warn(f"{place}: {error}")
            first = first or (Exit.USAGE if isinstance(error, UsageError) else exit_of(error))
            if not keep_going:
                break
    return first
