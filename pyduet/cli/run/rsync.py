# SPDX-License-Identifier: MIT
"""``duet run rsync``."""

import argparse
from typing import TYPE_CHECKING

from pyduet.cli.lazy import Parser
from pyduet.cli.run import framed

if TYPE_CHECKING:
    from pyduet.maintenance import Maintenance


def add(parser: Parser) -> None:
    """Add what the task takes."""
    parser.description = (
        "Drive rsync -a: files in batches, then a plain run that settles all else. Its own options "
        "come after --."
    )
    framed.add_arguments(parser, _task)
    parser.add_argument("target", metavar="TARGET", help="as rsync has it")
    parser.add_rest("options", "rsync", help="rsync's own, all that comes after --")


def _task(options: argparse.Namespace) -> "Maintenance":
    from pyduet.maintenance.tasks.rsync import Rsync

    return Rsync(options.target, options.options)
