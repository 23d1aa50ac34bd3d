# SPDX-License-Identifier: MIT
"""``duet end``: ends a task."""

import argparse

from pyduet.cli import arguments
from pyduet.cli.text import say
from pyduet.device import Device


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = "End a task without switching Duet off. Its process goes on, and is told."
    parser.add_argument("task", type=arguments.tasks, metavar="ID", help="as list tells it")
    parser.add_argument(
        "--pid", type=arguments.count, default=0, help="only if it is this process's"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    with Device(options.device) as device:
        device.end(options.task, pid=options.pid)
    say(options, f"task {options.task} has ended")
