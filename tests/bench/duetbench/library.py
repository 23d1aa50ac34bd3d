# SPDX-License-Identifier: MIT
"""In the guest: what it takes to read a task in Python."""

import gc
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from . import guest
from .guest import MOUNT, Sample, Settings
from .scenarios import BIG

if TYPE_CHECKING:
    # Not on the host, which may have none.
    from pyduet import Task

_MIB = 64
_PAGES = (_MIB << 20) // 4096
_ROUNDS = 2
# What Task.read() reads at a time.
_READ_BYTES = 128 << 10


class _Content(NamedTuple):
    """What there is to read: the workload that caches it, and how the task is told of it."""

    name: str
    load: str
    pages: int
    ranges: bool


_CONTENTS = (
    _Content("runs", "readall", _PAGES, ranges=True),
    _Content("a page an item, in order", "readall", _PAGES, ranges=False),
    _Content("single pages", "odd", _PAGES // 2, ranges=False),
)


def _objects(task: "Task") -> int:
    pages = 0
    while items := task.read():
        for item in items:
            pages += item.pages
    return pages


def _rows(task: "Task") -> int:
    pages = 0
    while batch := task.read_batch():
        for _ino, _generation, _task, _index, _state, number in batch.rows():
            pages += number or 1
    return pages


def _array(task: "Task") -> int:
    pages = 0
    while batch := task.read_batch():
        pages += int(batch.array()["pages"].sum())
    return pages


def _bare(task: "Task") -> None:
    fd = task.fileno()
    try:
        while os.read(fd, _READ_BYTES):
            pass
    except BlockingIOError:
        pass


_WAYS: dict[str, Callable[["Task"], int | None]] = {
    "Task.read(), objects": _objects,
    "Batch.rows()": _rows,
    "Batch.array(), NumPy's sum": _array,
    "os.read() alone": _bare,
}


def library(_settings: Settings) -> None:
    """What reading costs, the kernel's part included: items as objects, rows, and an array."""
    from pyduet import Device, Mask

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    section = f"library: reading in Python {version}, EXISTS and MODIFIED"
    guest.load("create", BIG, str(_MIB << 20))
    with guest.duet(), Device() as device:
        # The first round is for nothing: whatever Python loads and allocates but once.
        for number in range(1 + _ROUNDS):
            guest.say(f"library, round {number} of {_ROUNDS}")
            for content in _CONTENTS:
                for way, drain in _WAYS.items():
                    guest.load("cool")
                    with device.register(
                        f"{MOUNT}/watched", Mask.EXISTS | Mask.MODIFIED, ranges=content.ranges
                    ) as task:
                        guest.load(content.load, BIG)
                        value = _per_page(content, drain, task)
                    if number:
                        _emit(section, f"{content.name}: {way}", value)


def _per_page(content: _Content, drain: Callable[["Task"], int | None], task: "Task") -> float:
    """Drain a task; nanoseconds for each page."""
    gc.collect()
    start = time.monotonic_ns()
    pages = drain(task)
    took = time.monotonic_ns() - start
    if pages not in (None, content.pages) or task.wait(0):
        raise SystemExit(
            f"bench: {content.name}: {drain.__name__} told of {pages} of {content.pages} pages, "
            f"and left {len(task.read_batch())} items or more"
        )
    return took / content.pages


def _emit(section: str, state: str, value: float) -> None:
    guest.say(f"library, {state}: {value:.1f}")
    guest.emit(Sample(section, state, "per page", value))
    rate = "pages per second, at an instruction a nanosecond"
    guest.emit(Sample(section, state, rate, 1e9 / value))
