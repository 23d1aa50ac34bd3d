# SPDX-License-Identifier: MIT
"""``duet set``: sets limits."""

import argparse

from pyduet._text.numbers import plural, size
from pyduet.cli import arguments
from pyduet.cli.text import say
from pyduet.device import Device


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Set limits, all of them or none. SIZE is in bytes, or as 64M; 0 is the driver's default."
    )
    parser.add_argument(
        "--max-tasks", type=arguments.tasks, metavar="N", help="tasks at a time; while Duet is off"
    )
    parser.add_argument(
        "--limit", type=arguments.size, metavar="SIZE", help="memory of all tasks together"
    )
    parser.add_argument(
        "--task-limit",
        type=arguments.size,
        metavar="SIZE",
        help="memory of what a task has not read yet; for tasks from now on",
    )
    parser.set_defaults(run=_run, usage_error=parser.error)


def _run(options: argparse.Namespace) -> None:
    limits = {name: getattr(options, name) for name in ("max_tasks", "limit", "task_limit")}
    if all(value is None for value in limits.values()):
        options.usage_error("nothing to set: give --max-tasks, --limit or --task-limit")
    with Device(options.device) as device:
        device.set_limits(**limits)
        info = device.info()
    say(
        options,
        f"{plural(info.max_tasks, 'task')} at a time, {size(info.limit)} for all of them, "
        f"{size(info.task_limit)} unread for each",
    )
