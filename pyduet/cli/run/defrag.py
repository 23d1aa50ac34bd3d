# SPDX-License-Identifier: MIT
"""``duet run defrag``."""

import argparse
from typing import TYPE_CHECKING

from pyduet.cli.run import framed

if TYPE_CHECKING:
    from pyduet.maintenance import Maintenance


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the task takes."""
    parser.description = "Join the extents of the files that have too many."
    framed.add_arguments(parser, _task)


def _task(_options: argparse.Namespace) -> "Maintenance":
    from pyduet.maintenance.tasks.defrag import Defrag

    return Defrag()
