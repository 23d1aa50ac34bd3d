# SPDX-License-Identifier: MIT
"""``duet status``, ``start``, ``stop``, ``set``, ``list`` and ``end``."""

import argparse
import sys
from typing import Any

from pyduet._text.jsonable import to_jsonable
from pyduet._text.names import printable, user_name
from pyduet._text.numbers import age, plural, size
from pyduet.admin.privilege import is_admin
from pyduet.cli import arguments
from pyduet.cli.text import print_grid, print_json
from pyduet.device import Device
from pyduet.info import DriverInfo, DropCounts, TaskInfo

#: What INFO tells only with CAP_SYS_ADMIN (docs/interface.md).
_COUNTERS = ("bytes", "files", "nodes", "events", "drops")


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands to the parser."""
    status = commands.add_parser("status", help="whether Duet is on, for whom, and what it takes")
    status.add_argument("--json", action="store_true", help="print an object")
    status.set_defaults(run=_status)

    start = commands.add_parser("start", help="switch Duet on (root)")
    start.add_argument(
        "-n",
        "--max-tasks",
        type=arguments.tasks,
        default=0,
        metavar="N",
        help="tasks at a time, up to 255; it sizes every node (default: 8)",
    )
    start.set_defaults(run=_start)

    stop = commands.add_parser("stop", help="switch Duet off, which ends every task (root)")
    stop.set_defaults(run=_stop)

    setting = commands.add_parser(
        "set",
        help="set limits (root)",
        description="Set limits, all of them or none. SIZE is in bytes, or as 64M; 0 is the "
        "driver's default.",
    )
    setting.add_argument(
        "--max-tasks", type=arguments.tasks, metavar="N", help="tasks at a time; while Duet is off"
    )
    setting.add_argument(
        "--limit", type=arguments.size, metavar="SIZE", help="memory of all tasks together"
    )
    setting.add_argument(
        "--task-limit",
        type=arguments.size,
        metavar="SIZE",
        help="memory of what a task has not read yet; for tasks from now on",
    )
    setting.set_defaults(run=_set, usage_error=setting.error)

    tasks = commands.add_parser(
        "list", help="the registered tasks; without CAP_SYS_ADMIN one's own"
    )
    tasks.add_argument("--json", action="store_true", help="print an array of objects")
    tasks.set_defaults(run=_list)

    end = commands.add_parser(
        "end",
        help="end a task; another process's: root",
        description="End a task without switching Duet off. Its process goes on, and is told.",
    )
    end.add_argument("task", type=arguments.tasks, metavar="ID", help="as list tells it")
    end.add_argument("--pid", type=arguments.count, default=0, help="only if it is this process's")
    end.set_defaults(run=_end)


def _status(options: argparse.Namespace) -> None:
    with Device(options.device) as device:
        info, hooks = device.info(), device.hooks()
    admin = is_admin()
    if options.json:
        hidden: dict[str, Any] = {} if admin else dict.fromkeys(_COUNTERS)
        print_json({**to_jsonable(info), **hidden, "hooks": hooks, "version": module_version()})
        return
    for name, value in _status_lines(info, hooks, admin=admin):
        print(f"{name:9}{value}")


def module_version() -> str | None:
    """Return the version that the loaded module says it has; None when it says none."""
    try:
        with open("/sys/module/duet/version", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


def _status_lines(info: DriverInfo, hooks: dict[str, str], *, admin: bool) -> list[tuple[str, str]]:
    words: dict[str, list[str]] = {}
    for name, word in hooks.items():
        words.setdefault(word, []).append(name)

    def told(text: str) -> str:
        return text if admin else "(only root is told)"

    return [
        ("duet", "on" if info.on else "off"),
        ("tasks", f"{info.tasks} of {info.max_tasks}"),
        ("memory", f"{told(size(info.bytes))}; at most {size(info.limit)}"),
        ("unread", f"at most {size(info.task_limit)} a task"),
        ("files", told(f"{info.files:,}") + f"; {info.file_bytes} bytes each"),
        (
            "nodes",
            told(f"{info.nodes:,}") + f"; {info.node_bytes} bytes for {info.node_pages} pages each",
        ),
        ("hooks", "; ".join(f"{word}: {', '.join(names)}" for word, names in words.items())),
        ("events", told(_counts(info.events))),
        ("dropped", told(_counts(info.drops))),
    ]


def _counts(counts: tuple[int, ...]) -> str:
    names: tuple[str, ...] = getattr(counts, "_fields", ())
    return ", ".join(
        f"{name.replace('_', ' ')} {number:,}" for name, number in zip(names, counts, strict=True)
    )


def _start(options: argparse.Namespace) -> None:
    with Device(options.device) as device:
        device.start(options.max_tasks)
        info = device.info()
    print(
        f"Duet is on, for {plural(info.max_tasks, 'task')}: "
        f"{info.node_bytes} bytes for {info.node_pages} cached pages of a file",
        file=sys.stderr,
    )


def _stop(options: argparse.Namespace) -> None:
    with Device(options.device) as device:
        tasks = device.info().tasks
        device.stop()
    ended = f"; {plural(tasks, 'task')} ended" if tasks else ""
    print(f"Duet is off{ended}", file=sys.stderr)


def _set(options: argparse.Namespace) -> None:
    limits = {name: getattr(options, name) for name in ("max_tasks", "limit", "task_limit")}
    if all(value is None for value in limits.values()):
        options.usage_error("nothing to set: give --max-tasks, --limit or --task-limit")
    with Device(options.device) as device:
        device.set_limits(**limits)
        info = device.info()
    print(
        f"{plural(info.max_tasks, 'task')} at a time, {size(info.limit)} for all of them, "
        f"{size(info.task_limit)} unread for each",
        file=sys.stderr,
    )


def _list(options: argparse.Namespace) -> None:
    with Device(options.device) as device:
        tasks = device.tasks()
    if options.json:
        print_json(tasks)
        return
    headers = ("id", "age", "owner", "mask", "pending", "done", "told", "dropped", "name", "path")
    print_grid(headers, [_row(task) for task in tasks], "><<<>>>><<")


def _end(options: argparse.Namespace) -> None:
    with Device(options.device) as device:
        device.end(options.task, pid=options.pid)
    print(f"task {options.task} has ended", file=sys.stderr)


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
