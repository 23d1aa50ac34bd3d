# SPDX-License-Identifier: MIT
"""What the screens look at and act on: the driver, or a recording of it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

from duet_tui.view import CachedFile, View
from pyduet.admin.diagnosis import Finding
from pyduet.events import FileId, Item, Mask
from pyduet.info import NodeInfo, TableInfo, TaskInfo
from pyduet.stream import Stream


class Backend(ABC):
    """Where it all comes from.

    Every call but :meth:`look` and :meth:`now` raises :class:`OSError` or
    :class:`ValueError`, whose text is for the user, and may take a while: it is
    for a thread. Any number of threads may call.
    """

    #: Whether it is the driver, which can be acted on.
    live: bool
    #: What is looked at, for people.
    title: str

    def now(self) -> float:
        """Return the time there, in seconds since 1970."""
        return time.time()

    @abstractmethod
    def look(self) -> View:
        """Return what is known now."""

    def past(self) -> list[View]:
        """Return what was known before now, as far as that was kept."""
        return []

    @abstractmethod
    def findings(self) -> list[Finding]:
        """Return what keeps Duet from working here."""

    # Looking in

    @abstractmethod
    def table(self) -> TableInfo:
        """Return the shape of the table of nodes."""

    @abstractmethod
    def nodes(self, first: int = 0, end: int = 0) -> Iterator[NodeInfo]:
        """Yield the nodes of the buckets from ``first`` on and before ``end``, 0 for all."""

    @abstractmethod
    def paths(self, files: Iterable[tuple[int, FileId]]) -> dict[FileId, str]:
        """Return the paths of files, each asked of a task; what cannot be told is left out."""

    @abstractmethod
    def cached(self, task: TaskInfo, number: int) -> list[CachedFile]:
        """Return the files of a task with most cached pages, the first with most."""

    @abstractmethod
    def pending(self, task_id: int) -> Iterator[Item]:
        """Yield what a task would read now, and leave it pending."""

    @abstractmethod
    def marked(self, task_id: int) -> Iterator[FileId]:
        """Yield the files that a task has marked done."""

    @abstractmethod
    def file_of(self, text: str) -> FileId:
        """Return the file that a path, or ``INO:GENERATION``, means."""

    @abstractmethod
    def watch(self, path: str, mask: Mask) -> AbstractContextManager[Stream]:
        """Return a stream of what happens below a path, for a ``with`` statement."""

    # Acting

    @abstractmethod
    def start(self, max_tasks: int) -> None:
        """Switch Duet on."""

    @abstractmethod
    def stop(self) -> None:
        """Switch Duet off."""

    @abstractmethod
    def set_limits(
        self,
        *,
        limit: int | None = None,
        task_limit: int | None = None,
        max_tasks: int | None = None,
    ) -> None:
        """Set limits; see ``Device.set_limits``."""

    @abstractmethod
    def is_done(self, task_id: int, file: FileId) -> bool:
        """Return whether a file is done, or of no interest to a task."""

    @abstractmethod
    def mark(self, task_id: int, file: FileId, *, done: bool) -> None:
        """Set a task's done mark of a file, or take it away."""

    @abstractmethod
    def rescan(self, task_id: int) -> None:
        """Have a task told anew what is cached."""

    @abstractmethod
    def end(self, task: TaskInfo) -> None:
        """End a task; its process goes on, and is told."""


def parse_uuid(text: str) -> FileId | None:
    """Return the file that ``INO:GENERATION`` means, None if the text is no such thing."""
    ino, colon, generation = text.strip().partition(":")
    if not (colon and ino.isdecimal() and generation.isdecimal()):
        return None
    file = FileId(int(ino), int(generation))
    return file if file.ino < 1 << 64 and file.generation < 1 << 32 else None
