# SPDX-License-Identifier: MIT
"""``duet run scrub``."""

import argparse
from typing import TYPE_CHECKING

from pyduet.cli import arguments
from pyduet.cli.run import framed

if TYPE_CHECKING:
    from pyduet.maintenance import Maintenance


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the task takes."""
    parser.description = (
        "Compare each file with its checksum of the last time. The first pass makes the checksums. "
        "What is in memory is verified there, and counted as such."
    )
    parser.add_argument(
        "--from-disk", action="store_true", help="read from the disk what is in memory, too"
    )
    parser.add_argument(
        "--memory-passes", type=arguments.count, default=10, metavar="N",
        help="read a file from the disk that was in memory, at least in part, in so many passes "
        "in a row (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--verdicts", metavar="FILE",
        help="write what is found of each file to FILE, a line of JSON each: how much of it came "
        "from the disk, and how much from memory",
    )  # fmt: skip
    framed.add_arguments(parser, _task)


def _task(options: argparse.Namespace) -> "Maintenance":
    framed.need("scrub", "xxhash")
    from pyduet.maintenance.tasks.scrub import Scrub

    return Scrub(
        from_disk=options.from_disk, passes=options.memory_passes, verdicts=options.verdicts
    )
