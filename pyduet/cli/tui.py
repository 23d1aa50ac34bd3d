# SPDX-License-Identifier: MIT
"""``duet tui``: the administrator's screen, where it is installed."""

import argparse
import importlib.util
import os


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Show whether Duet is on, who uses it, what it costs and what it tells, on a "
        "screen of its own; what may be changed can be changed there. F1 helps."
    )
    parser.epilog = "It opens without the module as well, and says what is missing."
    parser.add_argument(
        "--replay",
        metavar="FILE",
        help="look at a recording (of watch --record), not at the driver",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the screen until it is left."""
    if not (os.isatty(0) and os.isatty(1)):
        raise ValueError("tui needs a terminal; scripts have status, list, watch and the others")
    for package in ("textual", "pyudev", "duet_tui"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"tui needs {package}, which is not installed; install pyduet[tui] with pip, or "
                "the Debian package duet-tui"
            )
    import duet_tui

    return duet_tui.main(options.device, options.replay)
