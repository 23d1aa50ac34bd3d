# SPDX-License-Identifier: MIT
"""``duet list``: the registered tasks."""

import argparse

from pyduet._text.names import printable, user_name
from pyduet._text.numbers import age, size
from pyduet.cli.text import print_grid, print_json
from pyduet.device import Device
from pyduet.info import DropCounts, TaskInfo

#: Columns that a narrow terminal does without, first to last.
_SPARE = ("dropped", "told", "done", "age", "mask", "pending", "owner")


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--json", action="store_true", help="print an array of objects")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    with Device(options.device) as device:
        tasks = device.tasks()
    if options.json:
        print_json(tasks)
        return
    headers = ("id", "age", "owner", "mask", "pending", "done", "told", "dropped", "name", "path")
    print_grid(headers, [_row(task) for task in tasks], "><<<>>>><<", spare=_SPARE)


def _row(task: TaskInfo) -> list[str]:
    return [
        str(task.id),
        age(task.age),
        f"{printable(user_name(task.uid))}:{task.pid}",
        ",".join(task.mask.names),
        size(task.pending),
        f"{task.done:,}",
        f"{task.delivered:,}",
        f"{sum(DropCounts(*task.drops)):,}",
        printable(task.name),
        printable(task.path) + (" (gone)" if task.gone else ""),
    ]
