# SPDX-License-Identifier: MIT
"""Duet: be told which pages of which files the page cache holds, and what happens to them.

Example::

    from pyduet import Device, Mask

    with Device() as device, device.register("/home", Mask.EXISTS | Mask.MODIFIED) as task:
        for item in task.events(timeout=10):
            print(task.path_of(item.file), item.index, item.pages, item.state)
"""

from pyduet._driver.handle import NumberedTask
from pyduet.batch import Batch
from pyduet.device import DEFAULT_DEVICE, Device
from pyduet.errors import (
    AlreadyError,
    DuetError,
    IncompleteError,
    InUseError,
    NotDirectoryError,
    NotLoadedError,
    OffError,
    PathNotFoundError,
    PermissionDeniedError,
    TaskGoneError,
    TooManyTasksError,
    UnsupportedFilesystemError,
)
from pyduet.events import FileId, Item, Mask, State
from pyduet.identity import identity_of
from pyduet.info import DropCounts, EventCounts, Info, NodeInfo, Table, TaskInfo
from pyduet.mincore import cached_pages
from pyduet.snapshot import PageRange, Residency, residency
from pyduet.stream import Stream
from pyduet.task import Task
from pyduet.tracker import Tracker

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_DEVICE",
    "AlreadyError",
    "Batch",
    "Device",
    "DropCounts",
    "DuetError",
    "EventCounts",
    "FileId",
    "InUseError",
    "IncompleteError",
    "Info",
    "Item",
    "Mask",
    "NodeInfo",
    "NotDirectoryError",
    "NotLoadedError",
    "NumberedTask",
    "OffError",
    "PageRange",
    "PathNotFoundError",
    "PermissionDeniedError",
    "Residency",
    "State",
    "Stream",
    "Table",
    "Task",
    "TaskGoneError",
    "TaskInfo",
    "TooManyTasksError",
    "Tracker",
    "UnsupportedFilesystemError",
    "__version__",
    "cached_pages",
    "identity_of",
    "residency",
]
