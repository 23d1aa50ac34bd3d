# SPDX-License-Identifier: MIT
"""``duet run send``."""

import argparse
from typing import TYPE_CHECKING

from pyduet.cli.run import framed

if TYPE_CHECKING:
    from pyduet.maintenance import Maintenance


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the task takes."""
    parser.description = (
        "Write a read-only snapshot of the btrfs subvolume PATH as a send stream, the data of what "
        "is in memory first. btrfs receive takes it."
    )
    framed.add_arguments(parser, _task)
    parser.add_argument("snapshot", metavar="SNAPSHOT", help="a read-only snapshot of PATH")
    parser.add_argument("stream", metavar="STREAM", help="the file to write")
    parser.add_argument(
        "--parent",
        metavar="PARENT",
        help="an older read-only snapshot that the receiver has: only what has changed since",
    )


def _task(options: argparse.Namespace) -> "Maintenance":
    framed.need("send", "crc32c")
    from pyduet.maintenance.tasks.send import Send

    return Send(options.snapshot, options.stream, parent=options.parent)
