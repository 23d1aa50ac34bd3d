# SPDX-License-Identifier: MIT
"""Duet: be told which pages of which files the page cache holds, and what happens to them.

Example::

    from pyduet import Device, Mask

    with Device() as device, device.register("/home", Mask.EXISTS | Mask.MODIFIED) as task:
        for item in task.events(timeout=10):
            print(task.path_of(item.file), item.index, item.pages, item.state)
"""

from pyduet._driver.handle import TaskHandle
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
    TaskEndedError,
    TaskGoneError,
    TooManyTasksError,
    UnsupportedFilesystemError,
)
from pyduet.events import FileId, Item, Mask, State
from pyduet.files import (
    PageCounts,
    cached_pages,
    cached_ranges,
    data_ranges,
    generation_of,
    identity_of,
    page_counts,
)
from pyduet.info import DriverInfo, DropCounts, EventCounts, NodeInfo, TableInfo, TaskInfo
from pyduet.snapshot import PageRange, Residency, residency
from pyduet.stream import Stream
from pyduet.tally import FileCount, Tally
from pyduet.task import Task

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_DEVICE",
    "AlreadyError",
    "Batch",
    "Device",
    "DriverInfo",
    "DropCounts",
    "DuetError",
    "EventCounts",
    "FileCount",
    "FileId",
    "InUseError",
    "IncompleteError",
    "Item",
    "Mask",
    "NodeInfo",
    "NotDirectoryError",
    "NotLoadedError",
    "OffError",
    "PageCounts",
    "PageRange",
    "PathNotFoundError",
    "PermissionDeniedError",
    "Residency",
    "State",
    "Stream",
    "TableInfo",
    "Tally",
    "Task",
    "TaskEndedError",
    "TaskGoneError",
    "TaskHandle",
    "TaskInfo",
    "TooManyTasksError",
    "UnsupportedFilesystemError",
    "__version__",
    "cached_pages",
    "cached_ranges",
    "data_ranges",
    "generation_of",
    "identity_of",
    "page_counts",
    "residency",
]
