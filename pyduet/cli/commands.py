# SPDX-License-Identifier: GPL-2.0-only
"""What each command of ``duet`` does: data to stdout, words to stderr."""

import argparse
import itertools
import json
import sys
import time

from pyduet.device import Device
from pyduet.errors import PathNotFoundError, PermissionDeniedError
from pyduet.events import FileId, Item, Mask, State
from pyduet.task import Task


def status(options: argparse.Namespace) -> None:
    """Print whether Duet is on and how many tasks are registered."""
    with Device(options.device) as device:
        on = device.is_on()
        count = device.info().tasks if on else 0
    if options.json:
        print(json.dumps({"on": on, "tasks": count}))
    else:
        print(f"on, {count} {'task' if count == 1 else 'tasks'}" if on else "off")


def start(options: argparse.Namespace) -> None:
    """Switch Duet on."""
    with Device(options.device) as device:
        device.start(options.max_tasks)
    print("Duet is on", file=sys.stderr)


def stop(options: argparse.Namespace) -> None:
    """Switch Duet off."""
    with Device(options.device) as device:
        device.stop()
    print("Duet is off", file=sys.stderr)


def list_tasks(options: argparse.Namespace) -> None:
    """Print the registered tasks, one a line."""
    with Device(options.device) as device:
        tasks = device.tasks()
    if options.json:
        rows = [
            {"id": t.id, "fd": t.fd, "name": t.name, "mask": _names(t.mask), "path": t.path}
            for t in tasks
        ]
        print(json.dumps(rows))
        return
    for task in tasks:
        print(
            f"{task.id:3}  {','.join(_names(task.mask)):16}  "
            f"{_printable(task.name):24}  {_printable(task.path)}"
        )


def watch(options: argparse.Namespace) -> None:
    """Print items as they come, until the count, the timeout, or Ctrl-C."""
    with (
        Device(options.device) as device,
        device.register(options.path, options.mask, name="duet watch") as task,
    ):
        for item in itertools.islice(task.events(options.timeout), options.count):
            print(_line(task, item, as_json=options.json), flush=True)


def _line(task: Task, item: Item, *, as_json: bool) -> str:
    path = _path(task, item.file)
    if as_json:
        return json.dumps(
            {
                "time": round(time.time(), 6),
                "path": path,
                "ino": item.file.ino,
                "generation": item.file.generation,
                "index": item.index,
                "pages": item.pages,
                "state": item.state.names,
            }
        )
    if item.state & State.OVERFLOW:
        pages = "?"
    else:
        pages = f"{item.index}" if item.pages == 1 else f"{item.index}-{item.end - 1}"
    clock = time.strftime("%H:%M:%S")
    where = f"({item.file})" if path is None else _printable(path)
    return f"{clock}  {','.join(item.state.names):16}  {pages:>13}  {where}"


def _path(task: Task, file: FileId) -> str | None:
    try:
        return task.path_of(file)
    except (PathNotFoundError, PermissionDeniedError):
        return None


def _names(mask: Mask) -> list[str]:
    return [str(bit.name).lower() for bit in Mask if bit in mask]


def _printable(text: str) -> str:
    """Return text that stays on one line and cannot steer the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
