# SPDX-License-Identifier: MIT
"""``duet run btrfs-scrub``."""

import argparse
from typing import TYPE_CHECKING

from pyduet.cli.run import framed

if TYPE_CHECKING:
    from pyduet.maintenance import Maintenance


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the task takes."""
    parser.description = "Verify each block of the files, in all its copies, and the metadata."
    parser.add_argument(
        "--repair", action="store_true", help="mend what is bad where there is a good copy"
    )
    framed.add_arguments(parser, _task)


def _task(options: argparse.Namespace) -> "Maintenance":
    for package in ("btrfs", "crc32c"):
        framed.need("btrfs-scrub", package)
    from pyduet.maintenance.tasks.btrfs_scrub import BtrfsScrub

    return BtrfsScrub(repair=options.repair)
