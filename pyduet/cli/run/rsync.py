# SPDX-License-Identifier: MIT
"""``duet run rsync``."""

import argparse
import functools
import os
import sys
from typing import TYPE_CHECKING

from pyduet._text.names import printable
from pyduet.cli.lazy import Parser
from pyduet.cli.run import framed
from pyduet.cli.text import say

if TYPE_CHECKING:
    from pyduet.maintenance import Maintenance


def add(parser: Parser) -> None:
    """Add what the task takes."""
    parser.description = (
        "Copy a directory with rsync -a: what is in memory first, in batches, and then all else in "
        "a run over everything. The result is that of rsync -a OPTION... PATH/ TARGET; with "
        "options of which several runs would make something else, rsync is run once, and that is "
        "said. What rsync prints is shown."
    )
    framed.add_arguments(parser, functools.partial(_task, parser))
    parser.add_argument(
        "target", metavar="TARGET", help="a directory, HOST:DIRECTORY or rsync://HOST/MODULE"
    )
    parser.add_rest("options", "rsync", help="rsync's own, all that comes after --")


def _task(parser: Parser, options: argparse.Namespace) -> "Maintenance":
    from pyduet.maintenance.tasks.rsync import Rsync

    # With --json there is nothing else on stdout.
    stdout = (sys.stderr if options.json else sys.stdout).buffer

    def pass_on(printed: bytes) -> None:
        stdout.write(printed)
        stdout.flush()

    try:
        return Rsync(
            options.target,
            options.options,
            source=options.path,
            stdout=pass_on,
            stderr=_show,
            tell=lambda words: say(options, f"duet: {words}"),
        )
    except ValueError as error:
        parser.error(str(error))


def _show(line: bytes) -> None:
    """Show a line of rsync's errors; a remote shell escapes nothing that it passes on."""
    print(printable(os.fsdecode(line).rstrip("\r\n")), file=sys.stderr)
