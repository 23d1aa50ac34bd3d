# SPDX-License-Identifier: MIT
"""``duet stop``: switches Duet off."""

import argparse

from pyduet._text.numbers import plural
from pyduet.cli.text import say
from pyduet.device import Device


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    with Device(options.device) as device:
        tasks = device.info().tasks
        device.stop()
    ended = f"; {plural(tasks, 'task')} ended" if tasks else ""
    say(options, f"Duet is off{ended}")
