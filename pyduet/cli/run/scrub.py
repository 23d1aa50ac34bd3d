# SPDX-License-Identifier: MIT
"""``duet run scrub``."""

import argparse
from typing import TYPE_CHECKING

from pyduet.cli.run import framed

if TYPE_CHECKING:
    from pyduet.maintenance import Maintenance


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the task takes."""
    parser.description = (
        "Compare each file with its checksum of the last time. The first pass makes the checksums."
    )
    framed.add_arguments(parser, _task)


def _task(_options: argparse.Namespace) -> "Maintenance":
    framed.need("scrub", "xxhash")
    from pyduet.maintenance.tasks.scrub import Scrub

    return Scrub()
