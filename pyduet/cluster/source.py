# SPDX-License-Identifier: MIT
"""Where it is known from what a directory's files have in memory: from Duet, or by looking."""

import mmap
import os
import stat
import time
from collections.abc import Iterator
from typing import Protocol, Self

from pyduet._driver import abi
from pyduet.batch import Batch
from pyduet.cluster.blocks import Blocks
from pyduet.cluster.stores import Store
from pyduet.device import Device
from pyduet.events import FileId, Mask, State
from pyduet.files import cached_ranges, page_counts
from pyduet.task import Task

#: Seconds after which a file that there is news of is asked for its name and size again.
_STALE = 2.0
#: Seconds from an overflow to the next task.
_PAUSE = 1.0
#: Files of no block that are remembered as such.
_NONE = 65536

_ADDED = State.ADDED.value


class Source(Protocol):
    """Keeps up what is cached of the blocks of one directory; a context manager."""

    def step(self, timeout: float) -> None:
        """Wait for news, and add them up.

        Args:
            timeout: seconds to wait at most.

        """

    def close(self) -> None:
        """Let go of what it has."""


class DuetSource:
    """A task of Duet, which is told each change as it happens.

    After an overflow, which is news that were lost, nothing is known, and a moment later it begins
    anew: what is cached is told again. A file that is renamed has its old name until there is news
    of its pages.

    Attributes:
        overflows: how often it did.

    """

    def __init__(
        self, device: Device, directory: str | os.PathLike[str], store: Store, blocks: Blocks
    ) -> None:
        """Register the task.

        Args:
            device: Duet's; it is not closed with the source.
            directory: whose files to know of.
            store: which files are which blocks.
            blocks: what is kept up.

        Raises:
            DuetError: as of :meth:`Device.register`.

        """
        self.overflows = 0
        self._device, self._directory = device, directory
        self._store, self._blocks = store, blocks
        self._task: Task | None = self._register()
        self._again = 0.0
        self._asked: dict[FileId, float] = {}
        self._none: set[FileId] = set()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the task."""
        self.close()

    def close(self) -> None:
        """End the task; what was known of blocks stays."""
        if self._task:
            self._task.close()

    def step(self, timeout: float) -> None:
        """Wait for news, and add them up; see :meth:`Source.step`.

        Raises:
            OffError, TaskEndedError, TaskGoneError: the task ended; what is known of blocks is
                true no more.

        """
        task = self._task
        if task is None:
            left = self._again - time.monotonic()
            if left > 0:
                time.sleep(min(left, timeout))
            if time.monotonic() < self._again:
                return
            task = self._task = self._register()
        elif not task.wait(timeout):
            return
        while batch := task.read_batch():
            if not self._take(task, batch):
                self._begin_anew(task)
                return

    def _begin_anew(self, task: Task) -> None:
        """Know nothing, and register a new task later: at once there would be no room for it."""
        self.overflows += 1
        task.close()
        self._task, self._again = None, time.monotonic() + _PAUSE
        self._blocks.clear()
        self._asked.clear()
        self._none.clear()

    def _register(self) -> Task:
        return self._device.register(
            self._directory, Mask.EXISTS, name=f"duet-cluster-{os.getpid()}", ranges=True
        )

    def _take(self, task: Task, batch: Batch) -> bool:
        """Add a batch up; False where news were lost."""
        files = set()
        for ino, generation, _, index, state, pages in batch.rows():
            if state == abi.ITEM_OVERFLOW:
                return False
            file = FileId(ino, generation)
            files.add(file)
            self._blocks.change(file, index, pages or 1, cached=bool(state & _ADDED))
        self._meet(task, files)
        return True

    def _meet(self, task: Task, files: set[FileId]) -> None:
        """Find out which blocks files are, and how large, of which that is not known just now."""
        now, wanted = time.monotonic(), []
        for file in files:
            if not self._blocks.knows(file):
                self._asked.pop(file, None)
                self._none.discard(file)
            elif file not in self._none and not (
                self._blocks.named(file) and now < self._asked.get(file, now) + _STALE
            ):
                wanted.append(file)
        for file, path in task.paths_of(wanted).items():
            name = self._store.name(path)
            if name is None:
                if len(self._none) >= _NONE:
                    self._none.clear()
                self._none.add(file)
                self._blocks.met(file, None, 0)
                continue
            try:
                size = os.stat(path, follow_symlinks=False).st_size
            except OSError:
                continue  # renamed or removed in this moment: there is news of it again
            self._asked[file] = now
            self._blocks.met(file, name, _pages(size))


class MincoreSource:
    """Looks at each file of the directory from time to time: for hosts without the module.

    Each look opens every file, and what happens between two is not seen.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        store: Store,
        blocks: Blocks,
        interval: float = 10.0,
    ) -> None:
        """Take a directory; the first step looks at it.

        Args:
            directory: whose files to know of.
            store: which files are which blocks.
            blocks: what is kept up.
            interval: seconds from the end of a look to the next.

        """
        self._directory, self._store, self._blocks = os.fsdecode(directory), store, blocks
        self._interval = interval
        self._next = time.monotonic()
        self._known: set[str] = set()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is held."""

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def step(self, timeout: float) -> None:
        """Look if it is time, or wait for it; see :meth:`Source.step`.

        Raises:
            OSError: the directory itself cannot be read.

        """
        left = self._next - time.monotonic()
        if left > 0:
            time.sleep(min(left, timeout))
        if time.monotonic() < self._next:
            return
        seen = set()
        for path in self._files():
            block = self._store.name(path)
            if block is None:
                continue
            try:
                pages, ranges = _look(path, whole=not self._store.part)
            except OSError:
                continue  # removed meanwhile, or not ours to read
            seen.add(path)
            self._blocks.hold(path, block, pages, ranges)
        for path in self._known - seen:
            self._blocks.gone(path)
        self._known = seen
        self._next = time.monotonic() + self._interval

    def _files(self) -> Iterator[str]:
        os.stat(self._directory)  # os.walk() says nothing of a directory that is not there
        for directory, _, names in os.walk(self._directory):
            for name in names:
                yield os.path.join(directory, name)


def _look(path: str, *, whole: bool) -> tuple[int, list[range]]:
    """Return how many pages a file has, and which are cached; if all is one, how many is enough."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return 0, []
        counts = page_counts(fd) if whole else None
        pages = _pages(status.st_size)
        return pages, cached_ranges(fd) if counts is None else [range(counts.cached)]
    finally:
        os.close(fd)


def _pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE)
