# SPDX-License-Identifier: MIT
"""A recording, as the screens see it: the driver as it was, and nothing to act on."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from typing import NoReturn

from duet_tui.backend import Backend, parse_uuid
from duet_tui.view import CachedFile, View
from pyduet.admin.diagnosis import Finding
from pyduet.events import FileId, Item, Mask, State
from pyduet.info import EventCounts, NodeInfo, TableInfo, TaskInfo
from pyduet.recording import Recording, ReplayedDevice, ReplayedStream, Sample
from pyduet.stream import Stream

_REFUSAL = "this is a recording"


class Replay(Backend):
    """A recording that runs from now on."""

    live = False

    def __init__(self, path: str, *, speed: float = 1.0) -> None:
        """Read it.

        Args:
            path: of the recording.
            speed: 2 is twice as fast; 0 shows its end.

        Raises:
            OSError: it cannot be read.
            RecordingError: it is no recording, or holds no state of the driver.

        """
        self.recording = Recording.load(path)
        self.title = f"recording {os.path.basename(path)}"
        self._device = ReplayedDevice(self.recording, speed=speed)
        self._speed = speed
        self._begin = time.monotonic()

    def now(self) -> float:
        """Return the time in the recording; it goes on after its end."""
        if not self._speed:
            return self.recording.time + self.recording.duration
        return self.recording.time + (time.monotonic() - self._begin) * self._speed

    def look(self) -> View:
        """Return the last sample."""
        return self._view(self.now(), self._device.now())

    def past(self) -> list[View]:
        """Return the samples before now."""
        begin, now = self.recording.time, self.now()
        return [
            self._view(begin + when, sample)
            for when, sample in self.recording.samples
            if begin + when < now
        ]

    def _view(self, when: float, sample: Sample) -> View:
        return View(
            time=when,
            loaded=True,
            refusal=_REFUSAL,
            counters=sample.table is not None,
            kernel=self.recording.kernel,
            info=sample.info,
            hooks=sample.hooks,
            tasks=tuple(sample.tasks),
        )

    def findings(self) -> list[Finding]:
        """Return nothing: there is no module to miss."""
        return []

    def table(self) -> TableInfo:
        """Return the shape of the table of nodes."""
        return self._device.table()

    def nodes(self, first: int = 0, end: int = 0) -> Iterator[NodeInfo]:
        """Yield the nodes that were recorded."""
        return self._device.nodes(first, end)

    def paths(self, files: Iterable[tuple[int, FileId]]) -> dict[FileId, str]:
        """Return the paths that the recorded task was told, whichever task is asked."""
        known = self.recording.paths
        return {file: known[file] for _, file in files if file in known}

    def cached(self, task: TaskInfo, number: int) -> list[CachedFile]:
        """Return the most cached files, as far as nodes were recorded."""
        sums: dict[FileId, tuple[int, int]] = {}
        for node in self._device.nodes():
            if node.task == task.id:
                file = FileId(node.ino, node.generation)
                cached, dirty = sums.get(file, (0, 0))
                sums[file] = cached + node.cached.bit_count(), dirty + node.dirty.bit_count()
        most = sorted(sums.items(), key=lambda one: one[1], reverse=True)[:number]
        paths = self.paths((task.id, file) for file, _ in most)
        return [
            CachedFile(file, paths.get(file), *counts, None) for file, counts in most if counts[0]
        ]

    def pending(self, task_id: int) -> Iterator[Item]:
        """Yield what the recorded nodes say was not read."""
        task = next((one for one in self._device.tasks() if one.id == task_id), None)
        for node in self._device.nodes():
            if task and node.task == task_id and node.queued:
                file = FileId(node.ino, node.generation)
                yield from items_of(file, node.index, _news(node, task.mask))

    def marked(self, task_id: int) -> Iterator[FileId]:
        """Refuse: a recording does not hold the marks."""
        raise ValueError(f"a recording does not hold which files task {task_id} has marked")

    def file_of(self, text: str) -> FileId:
        """Return the file that a path, as it was told, or a uuid means."""
        if file := parse_uuid(text):
            return file
        for known, path in self.recording.paths.items():
            if path == text.strip():
                return known
        raise ValueError(f"the recording does not know {text}")

    def watch(self, path: str, mask: Mask) -> contextlib.AbstractContextManager[Stream]:
        """Return the recorded stream from its beginning, whatever is asked for."""
        del path, mask
        return ReplayedStream(self.recording, speed=self._speed)

    def start(self, max_tasks: int) -> None:
        """Refuse."""
        _refuse(max_tasks)

    def stop(self) -> None:
        """Refuse."""
        _refuse()

    def set_limits(
        self,
        *,
        limit: int | None = None,
        task_limit: int | None = None,
        max_tasks: int | None = None,
    ) -> None:
        """Refuse."""
        _refuse(limit, task_limit, max_tasks)

    def is_done(self, task_id: int, file: FileId) -> bool:
        """Refuse."""
        _refuse(task_id, file)

    def mark(self, task_id: int, file: FileId, *, done: bool) -> None:
        """Refuse."""
        _refuse(task_id, file, done)

    def rescan(self, task_id: int) -> None:
        """Refuse."""
        _refuse(task_id)

    def end(self, task: TaskInfo) -> None:
        """Refuse."""
        _refuse(task)


def _refuse(*_: object) -> NoReturn:
    raise ValueError(f"nothing can be changed: {_REFUSAL}")


def _news(node: NodeInfo, mask: Mask) -> dict[State, int]:
    """Return the pages of a node, as bits, that each state would be told of."""
    told = node.bits
    news = (
        EventCounts(*told) if not mask & (Mask.EXISTS | Mask.MODIFIED) else EventCounts(0, 0, 0, 0)
    )
    if mask & Mask.EXISTS:
        news = news._replace(added=node.cached & ~told.added, removed=told.added & ~node.cached)
    if mask & Mask.MODIFIED:
        news = news._replace(dirtied=node.dirty & ~told.dirtied, flushed=told.dirtied & ~node.dirty)
    return dict(zip((State.ADDED, State.REMOVED, State.DIRTY, State.FLUSHED), news, strict=True))


def items_of(file: FileId, index: int, news: dict[State, int]) -> Iterator[Item]:
    """Yield the news of a node's 64 pages as ranges of pages that are told the same."""
    first, last = 0, State(0)
    for page in range(65):
        state = State(0)
        for bit, pages in news.items():
            if page < 64 and pages >> page & 1:
                state |= bit
        if state != last:
            if last:
                yield Item(file, index + first, page - first, last)
            first, last = page, state
