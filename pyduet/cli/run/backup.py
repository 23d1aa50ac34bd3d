# SPDX-License-Identifier: MIT
"""``duet run backup``."""

import argparse
from typing import TYPE_CHECKING

from pyduet.cli.run import framed

if TYPE_CHECKING:
    from pyduet.maintenance import Maintenance


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the task takes."""
    parser.description = (
        "Write the files to a pax archive. tar --extract --xattrs restores it; an incremental one "
        "after those before it, with --incremental, which removes what is gone."
    )
    framed.add_arguments(parser, _task)
    parser.add_argument("archive", metavar="ARCHIVE", help="the file to write")
    parser.add_argument(
        "--incremental", action="store_true", help="only what has changed since the last archive"
    )


def _task(options: argparse.Namespace) -> "Maintenance":
    from pyduet.maintenance.tasks.backup import Backup

    return Backup(options.archive, incremental=options.incremental)
