# SPDX-License-Identifier: MIT
"""The driver of this machine, as the screens see it.

The device is opened for each look, and closed again: an open one would keep
the module from being unloaded.
"""

import contextlib
import heapq
import mmap
import os
import time
from collections.abc import Iterable, Iterator

from duet_tui import readable
from duet_tui.backend import Backend, parse_uuid
from duet_tui.view import CachedFile, View
from pyduet.admin.diagnosis import Finding, diagnose
from pyduet.admin.privilege import is_admin
from pyduet.device import Device
from pyduet.errors import DuetError, NotLoadedError, PermissionDeniedError
from pyduet.events import FileId, Item, Mask
from pyduet.files import identity_of
from pyduet.info import DriverInfo, NodeInfo, TableInfo, TaskInfo
from pyduet.snapshot import residency
from pyduet.stream import Stream

_NOT_ROOT = "needs root (CAP_SYS_ADMIN)"


class Live(Backend):
    """The driver behind a device node."""

    live = True

    def __init__(self, device: str) -> None:
        """Look at nothing yet.

        Args:
            device: the device node; it need not exist.

        """
        self.title = device
        self._device = device
        self._admin = is_admin()
        self._kernel = os.uname().release

    def look(self) -> View:
        """Return what is known now; what cannot be asked of the device is read from sysfs."""
        try:
            with Device(self._device) as device:
                info, tasks, hooks = device.info(), device.tasks(), device.hooks()
        except PermissionDeniedError as error:
            with contextlib.suppress(OSError, ValueError):
                hooks, tasks = readable.hooks(), readable.tasks()
                return self._view(readable.info(), tasks, hooks, str(error))
            return self._nothing(loaded=True, problem=str(error))
        except NotLoadedError as error:
            return self._nothing(loaded=readable.is_loaded(), problem=str(error))
        except OSError as error:  # it is being unloaded just now, or is another's device
            return self._nothing(loaded=readable.is_loaded(), problem=str(error))
        return self._view(info, tasks, hooks, "")

    def _view(
        self, info: DriverInfo, tasks: list[TaskInfo], hooks: dict[str, str], problem: str
    ) -> View:
        return View(
            time=time.time(),
            loaded=True,
            problem=problem,
            refusal="" if self._admin else _NOT_ROOT,
            counters=self._admin,
            kernel=self._kernel,
            version=readable.version(),
            info=info,
            hooks=hooks,
            tasks=tuple(tasks),
            commands={pid: readable.command(pid) for pid in {task.pid for task in tasks}},
        )

    def _nothing(self, *, loaded: bool, problem: str) -> View:
        refusal = problem if loaded else "the module is not loaded"
        return View(time.time(), loaded, problem, refusal, kernel=self._kernel)

    def findings(self) -> list[Finding]:
        """Return the doctor's findings."""
        return diagnose(self._device)

    def table(self) -> TableInfo:
        """Return the shape of the table of nodes."""
        with Device(self._device) as device:
            return device.table()

    def nodes(self, first: int = 0, end: int = 0) -> Iterator[NodeInfo]:
        """Yield the nodes of some buckets."""
        with Device(self._device) as device:
            yield from device.nodes(first, end)

    def paths(self, files: Iterable[tuple[int, FileId]]) -> dict[FileId, str]:
        """Return the paths of files, each asked of its task."""
        by_task: dict[int, list[FileId]] = {}
        for task_id, file in files:
            by_task.setdefault(task_id, []).append(file)
        found: dict[FileId, str] = {}
        with Device(self._device) as device:
            for task_id, some in by_task.items():
                with contextlib.suppress(DuetError):  # the task ended: its files have no paths
                    found.update(device.task(task_id).paths_of(some))
        return found

    def cached(self, task: TaskInfo, number: int) -> list[CachedFile]:
        """Return the most cached files; it takes a short-lived task."""
        found = residency(task.path, device=self._device)
        most = heapq.nlargest(number, found, key=lambda one: one.cached)
        return [
            CachedFile(one.file, one.path, one.cached, one.dirty, _pages(one.path)) for one in most
        ]

    def pending(self, task_id: int) -> Iterator[Item]:
        """Yield what a task would read now."""
        with Device(self._device) as device:
            yield from device.task(task_id).pending()

    def marked(self, task_id: int) -> Iterator[FileId]:
        """Yield the files that a task has marked done."""
        with Device(self._device) as device:
            yield from device.task(task_id).marked()

    def file_of(self, text: str) -> FileId:
        """Return the file that a path or a uuid means."""
        return parse_uuid(text) or identity_of(text.strip())

    @contextlib.contextmanager
    def watch(self, path: str, mask: Mask) -> Iterator[Stream]:
        """Register a task, which ends with the ``with`` statement."""
        with Device(self._device) as device:
            task = device.register(path, mask, name=f"duet tui {os.getpid()}", ranges=True)
        with task:
            yield task

    def start(self, max_tasks: int) -> None:
        """Switch Duet on."""
        with Device(self._device) as device:
            device.start(max_tasks)

    def stop(self) -> None:
        """Switch Duet off."""
        with Device(self._device) as device:
            device.stop()

    def set_limits(
        self,
        *,
        limit: int | None = None,
        task_limit: int | None = None,
        max_tasks: int | None = None,
    ) -> None:
        """Set limits."""
        with Device(self._device) as device:
            device.set_limits(limit=limit, task_limit=task_limit, max_tasks=max_tasks)

    def is_done(self, task_id: int, file: FileId) -> bool:
        """Return whether a file is done, or of no interest to a task."""
        with Device(self._device) as device:
            return device.task(task_id).is_done(file)

    def mark(self, task_id: int, file: FileId, *, done: bool) -> None:
        """Set a task's done mark of a file, or take it away."""
        with Device(self._device) as device:
            task = device.task(task_id)
            (task.mark_done if done else task.unmark)(file)

    def rescan(self, task_id: int) -> None:
        """Have a task told anew what is cached."""
        with Device(self._device) as device:
            device.task(task_id).rescan()

    def end(self, task: TaskInfo) -> None:
        """End a task, if it is still that process's."""
        with Device(self._device) as device:
            device.end(task.id, pid=task.pid)


def _pages(path: str | None) -> int | None:
    if path is None:
        return None
    try:
        return -(-os.stat(path).st_size // mmap.PAGESIZE)
    except OSError:
        return None
