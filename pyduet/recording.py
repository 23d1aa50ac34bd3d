# SPDX-License-Identifier: MIT
"""Recording a stream to a file, and replaying it: programs without the module.

The format is JSON Lines; ``docs/recording.md`` says what a line means, and
``pyduet/schema/duet.json`` is its schema.
"""

import asyncio
import json
import mmap
import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self, TextIO

from pyduet._driver import abi
from pyduet._text.jsonable import from_jsonable, to_jsonable
from pyduet.batch import Batch
from pyduet.errors import PathNotFoundError
from pyduet.events import FileId, Mask, State
from pyduet.info import DriverInfo, NodeInfo, TableInfo, TaskInfo
from pyduet.stream import MAX_ITEMS, Stream

VERSION = 1

#: Nodes that a sample holds at most: a recording is for looking at, not for millions.
NODES = 512


class RecordingError(ValueError):
    """A file is no recording; says which line, and why."""


class Source(Protocol):
    """What can be looked into: a device, or a recording of one."""

    def info(self) -> DriverInfo:
        """Return how Duet is set, and counters."""

    def hooks(self) -> dict[str, str]:
        """Return a word for each hook."""

    def tasks(self) -> list[TaskInfo]:
        """Return the registered tasks."""

    def table(self) -> TableInfo:
        """Return the shape of the table of nodes."""

    def nodes(self, first: int = 0, end: int = 0) -> Iterator[NodeInfo]:
        """Yield what the nodes of some buckets say to each task."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The state of the driver at a moment of a recording.

    Attributes:
        info: how Duet was set, and counters.
        hooks: a word for each hook.
        tasks: the registered tasks.
        table: the shape of the table; None when it was not permitted to look.
        nodes: some of its nodes, at most :data:`NODES`.

    """

    info: DriverInfo
    hooks: dict[str, str]
    tasks: list[TaskInfo]
    table: TableInfo | None
    nodes: list[NodeInfo]

    @classmethod
    def of(cls, source: Source) -> Self:
        """Look into a source once."""
        table, nodes = None, []
        try:
            table = source.table()
            nodes = [node for node, _ in zip(source.nodes(), range(NODES), strict=False)]
        except OSError:
            pass  # off, or not permitted: the rest is worth having
        return cls(source.info(), source.hooks(), source.tasks(), table, nodes)


class Recorder:
    """Writes a stream to a file, line by line, each complete when the call returns.

    Thread-safety: none; one thread writes.
    """

    def __init__(self, file: TextIO, stream: Stream) -> None:
        """Begin a recording.

        Args:
            file: where to; it stays the caller's.
            stream: whose items will be written.

        """
        self._file = file
        self._stream = stream
        self._begin = time.monotonic()
        self._known: set[FileId] = set()
        header = {
            "duet": "recording",
            "version": VERSION,
            "name": stream.name,
            "path": stream.path,
            "mask": stream.mask.names,
            "page_size": mmap.PAGESIZE,
            "kernel": os.uname().release,
            "time": time.time(),
        }
        self._write(header)

    def items(self, batch: Batch) -> None:
        """Write what a read returned, before it the paths of files that are new."""
        now = self._now()
        files = {FileId(*row[:2]) for row in batch.rows() if row[0]}
        new = sorted(files - self._known)
        if new:
            paths = self._stream.paths_of(new)
            self._known.update(new)
            rows = [[*file, paths.get(file)] for file in new]
            self._write({"t": now, "paths": rows})
        items = [
            [ino, generation, task, index, pages, State(state).names]
            for ino, generation, task, index, state, pages in batch.rows()
        ]
        self._write({"t": now, "items": items})

    def sample(self, source: Source) -> None:
        """Write the state of the driver."""
        self._write({"t": self._now(), "sample": to_jsonable(Sample.of(source))})

    def _now(self) -> float:
        return round(time.monotonic() - self._begin, 6)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()


class RecordedStream(Stream):
    """A stream that is recorded as it is read; its errors are the stream's."""

    def __init__(self, stream: Stream, recorder: Recorder) -> None:
        """Read ``stream`` and write it down."""
        self.name, self.path, self.mask = stream.name, stream.path, stream.mask
        self.finite = stream.finite
        self._stream = stream
        self._recorder = recorder

    @property
    def closed(self) -> bool:
        """Whether the stream was closed."""
        return self._stream.closed

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._stream.ended

    def read_batch(self, max_items: int = MAX_ITEMS) -> Batch:
        """Return what is pending now, and write it down."""
        batch = self._stream.read_batch(max_items)
        if batch:
            self._recorder.items(batch)
        return batch

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to read."""
        return self._stream.wait(timeout)

    async def wait_async(self) -> bool:
        """Wait in the running event loop until there is something to read."""
        return await self._stream.wait_async()

    def path_of(self, file: FileId, *, max_age: float = 1.0) -> str:
        """Return the path of a file."""
        return self._stream.path_of(file, max_age=max_age)

    def paths_of(self, files: Iterable[FileId]) -> dict[FileId, str]:
        """Return the paths of files."""
        return self._stream.paths_of(files)


class Recording:
    """A recording that was read from a file; frozen.

    Attributes:
        name: that the task was registered with.
        path: directory or file that was watched.
        mask: what was asked for.
        page_size: of the machine, in bytes.
        kernel: its release.
        time: of the beginning, in seconds since 1970.
        batches: seconds since the beginning, and what a read returned.
        paths: of the files.
        samples: seconds since the beginning, and the state of the driver.

    Thread-safety: all of it, it never changes.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        """Read the lines of a recording.

        Raises:
            RecordingError: they are none.

        """
        self.batches: list[tuple[float, Batch]] = []
        self.paths: dict[FileId, str] = {}
        self.samples: list[tuple[float, Sample]] = []
        number = 0
        for number, text in enumerate(lines, 1):
            try:
                line = json.loads(text)
                if number == 1:
                    self._header(line)
                else:
                    self._line(line)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                why = f"lacks {error}" if isinstance(error, KeyError) else str(error)
                raise RecordingError(f"line {number} is not of a recording: {why}") from error
        if not number:
            raise RecordingError("line 1 is not of a recording: the file is empty")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file.

        Raises:
            OSError: it cannot be read.
            RecordingError: it is no recording; the message names the file.

        """
        with open(path, encoding="utf-8") as file:
            try:
                return cls(file)
            except ValueError as error:  # a UnicodeDecodeError as well
                raise RecordingError(f"{os.fspath(path)}: {error}") from error

    @property
    def duration(self) -> float:
        """Seconds from the beginning to the last line."""
        return max([0.0, *(t for t, _ in self.batches[-1:]), *(t for t, _ in self.samples[-1:])])

    def _header(self, line: dict[str, Any]) -> None:
        if line["duet"] != "recording":
            raise ValueError("it is something else of Duet's")
        if line["version"] != VERSION:
            raise ValueError(f"version {line['version']}; this library reads {VERSION}")
        self.name = from_jsonable(str, line["name"])
        self.path = from_jsonable(str, line["path"])
        self.mask = from_jsonable(Mask, line["mask"])
        self.page_size = from_jsonable(int, line["page_size"])
        self.kernel = from_jsonable(str, line["kernel"])
        self.time = from_jsonable(float, line["time"])

    def _line(self, line: dict[str, Any]) -> None:
        when = from_jsonable(float, line["t"])
        if "items" in line:
            self.batches.append((when, Batch(b"".join(map(_packed, line["items"])))))
        elif "paths" in line:
            for ino, generation, path in line["paths"]:
                if path is not None:
                    self.paths[FileId(ino, generation)] = from_jsonable(str, path)
        elif "sample" in line:
            self.samples.append((when, from_jsonable(Sample, line["sample"])))


class ReplayedStream(Stream):
    """A recording as a stream; it ends with it.

    Thread-safety: as of a task; ``close()`` wakes who waits.
    """

    finite = False

    def __init__(self, recording: Recording, *, speed: float = 1.0) -> None:
        """Begin to replay; the clock runs from here on.

        Args:
            recording: what to replay.
            speed: 2 is twice as fast; 0 leaves out the pauses.

        """
        self.name, self.path, self.mask = recording.name, recording.path, recording.mask
        self._batches = recording.batches
        self._paths = recording.paths
        self._speed = speed
        self._next = 0
        self._begin = time.monotonic()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        """Return the stream itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End it; a second call does nothing."""
        self._closed.set()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed.is_set()

    @property
    def ended(self) -> bool:
        """Whether all of the recording was read."""
        return self._next == len(self._batches)

    def read_batch(self, max_items: int = MAX_ITEMS) -> Batch:
        """Return what is due now, at most one read of the recording."""
        if self.closed:
            raise ValueError(f"the recording of {self.path} is closed")
        if max_items < 1:
            raise ValueError(f"max_items is {max_items}; at least 1 is needed")
        if (self._due() or 0) > 0 or self.ended:
            return Batch()
        when, batch = self._batches[self._next]
        if len(batch) > max_items:
            cut = max_items * abi.ITEM.size
            # A list of our own, so that the recording stays as it is.
            self._batches = [*self._batches]
            self._batches[self._next] = when, Batch(bytes(batch.data[cut:]))
            return Batch(bytes(batch.data[:cut]))
        self._next += 1
        return batch

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until something is due; False at the end of the recording as well."""
        due = self._due()
        if due is None:
            return False
        self._closed.wait(due if timeout is None else min(due, timeout))
        return not self.closed and (self._due() or 0) <= 0

    async def wait_async(self) -> bool:
        """Wait in the running event loop until something is due."""
        while not self.closed and (due := self._due()) is not None:
            if due <= 0:
                return True
            # Nobody tells this loop that another thread closed it: look now and then.
            await asyncio.sleep(min(due, 0.1))
        return False

    def path_of(self, file: FileId, *, max_age: float = 1.0) -> str:
        """Return the path that a file had when it was recorded."""
        del max_age
        try:
            return self._paths[file]
        except KeyError:
            raise PathNotFoundError(2, f"the recording has no path of {file}") from None

    def paths_of(self, files: Iterable[FileId]) -> dict[FileId, str]:
        """Return the paths that files had."""
        return {file: self._paths[file] for file in files if file in self._paths}

    def _due(self) -> float | None:
        """Return in how many seconds the next batch is due, 0 if it is; None at the end."""
        if self.ended:
            return None
        if not self._speed:
            return 0
        when = self._begin + self._batches[self._next][0] / self._speed
        return max(0.0, when - time.monotonic())


class ReplayedDevice:
    """The driver as a recording saw it: at each moment the last sample."""

    def __init__(self, recording: Recording, *, speed: float = 1.0) -> None:
        """Begin to replay; the clock runs from here on.

        Args:
            recording: what to replay.
            speed: 2 is twice as fast; 0 shows the last sample.

        Raises:
            RecordingError: it has no samples.

        """
        if not recording.samples:
            raise RecordingError("the recording holds no state of the driver: record it as root")
        self._samples = recording.samples
        self._speed = speed
        self._begin = time.monotonic()

    def now(self) -> Sample:
        """Return the sample of this moment."""
        if not self._speed:
            return self._samples[-1][1]
        past = (time.monotonic() - self._begin) * self._speed
        return next(
            (one for when, one in reversed(self._samples) if when <= past), self._samples[0][1]
        )

    def info(self) -> DriverInfo:
        """Return how Duet was set, and counters."""
        return self.now().info

    def hooks(self) -> dict[str, str]:
        """Return a word for each hook."""
        return self.now().hooks

    def tasks(self) -> list[TaskInfo]:
        """Return the registered tasks."""
        return self.now().tasks

    def table(self) -> TableInfo:
        """Return the shape of the table of nodes; raises RecordingError where there is none."""
        table = self.now().table
        if table is None:
            raise RecordingError("the recording holds no table: record it as root")
        return table

    def nodes(self, first: int = 0, end: int = 0) -> Iterator[NodeInfo]:
        """Yield what the recorded nodes of some buckets said to each task."""
        for node in self.now().nodes:
            if node.bucket >= first and (not end or node.bucket < end):
                yield node


def _packed(item: list[Any]) -> bytes:
    ino, generation, task, index, pages, names = item
    try:
        return abi.ITEM.pack(ino, generation, task, index, from_jsonable(State, names), pages)
    except Exception as error:  # struct.error is no ValueError
        raise ValueError(f"{item} is no item: {error}") from error
