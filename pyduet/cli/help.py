# SPDX-License-Identifier: MIT
"""``duet help``: the help of a command."""

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = "Print the help of a command, as its --help does; of none: of all."
    parser.add_argument(
        "words", nargs="*", metavar="COMMAND", help="the command, and the task of run"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from pyduet.cli import main

    return main([*options.words, "--help"])
