# SPDX-License-Identifier: MIT
"""``duet start``: switches Duet on."""

import argparse

from pyduet._text.numbers import plural
from pyduet.cli import arguments
from pyduet.cli.text import say
from pyduet.device import Device


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "-n",
        "--max-tasks",
        type=arguments.tasks,
        default=0,
        metavar="N",
        help="tasks at a time, up to 255; it sizes every node (default: 8)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    with Device(options.device) as device:
        device.start(options.max_tasks)
        info = device.info()
    say(
        options,
        f"Duet is on, for {plural(info.max_tasks, 'task')}: "
        f"{info.node_bytes} bytes for {info.node_pages} cached pages of a file",
    )
