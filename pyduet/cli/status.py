# SPDX-License-Identifier: MIT
"""``duet status``: whether Duet is on, for whom, and what it takes."""

import argparse
from typing import Any

from pyduet._text.jsonable import to_jsonable
from pyduet._text.numbers import size
from pyduet.admin.privilege import is_admin
from pyduet.cli.text import print_json, warn
from pyduet.device import Device
from pyduet.errors import DuetError
from pyduet.info import DriverInfo

#: What INFO tells only with CAP_SYS_ADMIN (docs/interface.md).
_COUNTERS = ("bytes", "files", "nodes", "events", "drops")


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--json", action="store_true", help="print an object")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    hooks: dict[str, str] | None = None
    with Device(options.device) as device:
        info = device.info()
        try:
            hooks = device.hooks()
        except DuetError as error:  # there is a device, but no sysfs
            warn(f"nothing is told of the hooks: {error}")
    admin = is_admin()
    if options.json:
        hidden: dict[str, Any] = {} if admin else dict.fromkeys(_COUNTERS)
        print_json({**to_jsonable(info), **hidden, "hooks": hooks, "version": module_version()})
        return
    for name, value in _lines(info, hooks or {}, admin=admin):
        print(f"{name:9}{value}")


def module_version() -> str | None:
    """Return the version that the loaded module says it has; None when it says none."""
    try:
        with open("/sys/module/duet/version", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None


def _lines(info: DriverInfo, hooks: dict[str, str], *, admin: bool) -> list[tuple[str, str]]:
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
