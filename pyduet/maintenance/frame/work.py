# SPDX-License-Identifier: MIT
"""A piece of work, a file, and what became of it."""

import enum
import mmap
from dataclasses import dataclass
from typing import NamedTuple


class Stamp(NamedTuple):
    """What tells that a file's content is another: of ``stat(2)``, times in nanoseconds."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Work:
    """A regular file that is to be processed.

    Attributes:
        path: relative to the task's directory.
        stamp: of the file when it was found.
        generation: of its inode: with the inode number what Duet calls it by.
        physical: byte on the device where its first extent begins; None when
            it has none, or it is not known yet.

    """

    path: str
    stamp: Stamp
    generation: int
    physical: int | None

    @property
    def size(self) -> int:
        """Bytes of the file when it was found."""
        return self.stamp.size

    @property
    def pages(self) -> int:
        """Pages of the page cache that all of it takes."""
        return -(-self.stamp.size // mmap.PAGESIZE)

    @property
    def identity(self) -> tuple[int, int]:
        """Inode number and generation."""
        return self.stamp.ino, self.generation


class Trouble(enum.StrEnum):
    """Why a file is not as it should be, or was not processed."""

    #: It was there, and is not any more.
    VANISHED = "vanished"
    #: Not permitted.
    REFUSED = "refused"
    #: It could not be read, or what was to be done with it failed.
    FAILED = "failed"
    #: It changed whenever it was processed.
    UNSTABLE = "unstable"
    #: Its content is another, and nobody wrote it.
    CORRUPT = "corrupt"


class Problem(NamedTuple):
    """A file that is named at the end, because something is wrong with it."""

    path: str
    trouble: Trouble
    words: str


class UnstableError(Exception):
    """Raised by :meth:`Maintenance.process`: the file changed meanwhile; it is tried again."""


class BadFileError(Exception):
    """Raised by :meth:`Maintenance.process`: something is wrong with the file; it is named."""

    def __init__(self, trouble: Trouble, words: str) -> None:
        """Say what is wrong with it."""
        super().__init__(words)
        self.trouble = trouble
        self.words = words


class TargetError(OSError):
    """What a task writes to cannot be written: the run ends, and can be gone on with."""
