# SPDX-License-Identifier: MIT
"""A piece of work, a file, and what became of it."""

import enum
import errno
import mmap
import stat
from dataclasses import dataclass
from typing import NamedTuple, Self

from pyduet.events import FileId
from pyduet.maintenance.files.statx import Identity, Status

#: Bytes that a file may have without a block of its own, in its inode or a tree of the file system.
_SMALL = 64 << 10


class Stamp(NamedTuple):
    """What tells that a file's content is another: of ``stat(2)``, times in nanoseconds."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int


def stamp_of(status: Status) -> Stamp:
    """Return the stamp of a file's status."""
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Work:
    """A regular file that is to be processed.

    Attributes:
        path: relative to the task's directory.
        stamp: of the file when it was found.
        device: of its file system, as ``st_dev``.
        born_ns: when its inode was made; 0 where that is not told.
        generation: of its inode: with the inode number what Duet calls it by.
        physical: byte on the device where its first extent begins; None when
            it has none, or it is not known yet.
        data: bytes that it takes on the device, at most: its size without its
            holes.

    """

    path: str
    stamp: Stamp
    device: int
    born_ns: int
    generation: int
    physical: int | None
    data: int

    @classmethod
    def of(cls, path: str, status: Status, generation: int, physical: int | None) -> Self:
        """Return the work that a file is, by its status."""
        # A small file may lie in its inode, and take no block.
        taken = max(status.st_blocks * 512, _SMALL)
        return cls(
            path,
            stamp_of(status),
            status.st_dev,
            status.st_birthtime_ns,
            generation,
            physical,
            min(status.st_size, taken),
        )

    @property
    def size(self) -> int:
        """Bytes of the file when it was found."""
        return self.stamp.size

    @property
    def pages(self) -> int:
        """Pages of the page cache that its data take."""
        return -(-self.data // mmap.PAGESIZE)

    @property
    def inode(self) -> Identity:
        """What tells it from other files, for :class:`Tree`."""
        return Identity(self.device, self.stamp.ino, self.born_ns, stat.S_IFREG)

    @property
    def identity(self) -> FileId:
        """What Duet calls it."""
        return FileId(self.stamp.ino, self.generation)


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
    #: Somebody who uses it does not let go of it.
    IN_USE = "in-use"
    #: There is not enough room on its file system.
    NO_ROOM = "no-room"
    #: Its content is not what it should be.
    CORRUPT = "corrupt"
    #: Its content is another, though its size and time of modification are not: nobody can say
    #: which is right.
    DIFFERENT = "different"
    #: The file system says that it is damaged, or the device cannot read it.
    DAMAGED = "damaged"


class Problem(NamedTuple):
    """A file that is named at the end, because something is wrong with it."""

    path: str
    trouble: Trouble
    words: str


#: How many problems are named one by one, at most; all of them are counted.
NAMED = 10_000


class LeftOut(NamedTuple):
    """Something that is no part of the work: said, and no problem.

    Attributes:
        path: relative to the task's directory.
        kind: ``mount-point``, ``subvolume``, ``socket``, or what else a task
            leaves out.

    """

    path: str
    kind: str


_TROUBLES = {
    errno.ENOENT: Trouble.VANISHED,
    errno.ENOTDIR: Trouble.VANISHED,
    errno.ESTALE: Trouble.VANISHED,
    # Of Tree: somebody has a lease on it, or keeps renaming what leads to it.
    errno.EAGAIN: Trouble.UNSTABLE,
    errno.EACCES: Trouble.REFUSED,
    errno.EPERM: Trouble.REFUSED,
    errno.EIO: Trouble.DAMAGED,
    errno.EUCLEAN: Trouble.DAMAGED,
    errno.EBADMSG: Trouble.DAMAGED,
}


class ReplacedError(OSError):
    """There is something else by now where a file was found, or it is mounted over."""

    def __init__(self, path: str, words: str = "it was replaced by something else") -> None:
        """Say what became of it."""
        super().__init__(errno.ESTALE, words, path)


def problem_of(path: str, error: OSError) -> Problem:
    """Return what an error says of a file.

    Raises:
        TargetError: the error is one, which is of no file, but of all that are left.

    """
    if isinstance(error, TargetError):
        raise error
    if isinstance(error, ReplacedError):
        return Problem(path, Trouble.UNSTABLE, str(error.strerror))
    trouble = _TROUBLES.get(error.errno or 0, Trouble.FAILED)
    return Problem(path, trouble, error.strerror or str(error))


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
