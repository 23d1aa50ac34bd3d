# SPDX-License-Identifier: MIT
"""What everybody may read in sysfs and /proc: for who may not open the device."""

import contextlib
import os
import time

from pyduet._driver import sysfs
from pyduet.events import Mask
from pyduet.info import DriverInfo, DropCounts, EventCounts, TaskInfo

#: What a file says that only root may read.
HIDDEN = "(only root is told)"


def is_loaded() -> bool:
    """Return whether the module is loaded."""
    return os.path.isdir(sysfs.DIRECTORY) or os.path.isdir("/sys/module/duet")


def version() -> str:
    """Return the version that the loaded module says it has; empty when it says none."""
    with contextlib.suppress(OSError), open("/sys/module/duet/version", encoding="utf-8") as file:
        return file.read().strip()
    return ""


def command(pid: int) -> str:
    """Return the name of a process; empty when there is none."""
    path = f"/proc/{pid}/comm"
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read().rstrip("\n")
    return ""


def hooks() -> dict[str, str]:
    """Return a word for each hook; raises OSError without the module."""
    return sysfs.hooks()


def info() -> DriverInfo:
    """Return the settings, and 0 for what is not said; raises OSError without the module."""
    return DriverInfo(
        abi_version=0,
        on=_number("enabled") == 1,
        max_tasks=_number("max_tasks"),
        tasks=_number("tasks"),
        node_pages=0,
        node_bytes=0,
        file_bytes=0,
        hooks_found=Mask(0),
        hooks_alive=Mask(0),
        limit=_number("limit_bytes"),
        task_limit=_number("task_limit_bytes"),
        bytes=0,
        files=0,
        nodes=0,
        events=EventCounts(0, 0, 0, 0),
        drops=DropCounts(0, 0, 0),
    )


def tasks() -> list[TaskInfo]:
    """Return what is told of the tasks; raises OSError without the module."""
    names = os.listdir(sysfs.DIRECTORY)
    found = []
    for number in sorted(int(name[4:]) for name in names if name[4:].isdecimal()):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found.append(_task(number))
    return found


def _task(number: int) -> TaskInfo:
    directory = f"task{number}"
    made = os.stat(os.path.join(sysfs.DIRECTORY, directory)).st_ctime
    return TaskInfo(
        id=number,
        fd=-1,
        name=HIDDEN,
        mask=Mask(int(sysfs.read(f"{directory}/mask"), 0) & sum(Mask)),
        path=HIDDEN,
        ranges=False,
        no_scan=False,
        snapshot=False,
        pid=_number(f"{directory}/pid"),
        uid=_number(f"{directory}/uid"),
        dev=0,
        gone=False,
        age=max(0.0, time.time() - made),
        limit=_number(f"{directory}/limit_bytes"),
        pending=0,
        files=0,
        done=_number(f"{directory}/done"),
        delivered=_number(f"{directory}/delivered"),
        drops=DropCounts(0, 0, 0),
        overflows=_number(f"{directory}/overflows"),
    )


def _number(name: str) -> int:
    return int(sysfs.read(name), 0)
