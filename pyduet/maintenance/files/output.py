# SPDX-License-Identifier: MIT
"""A file that a task writes from its beginning to its end, without filling the page cache.

It is written beside the place where it is to be, and renamed when it is whole and on the disk: what
was there before stays until then. Others may make names there, too (/tmp): what they put in the way
is not followed, not written to, and not taken for what an earlier run wrote.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from typing import Any

from pyduet._place import NO_FILE, Place
from pyduet._text.names import path_of, text_of
from pyduet.maintenance.work import TargetError

#: Bytes after which what was written goes to the disk, and out of memory.
_BEHIND = 8 << 20
#: Bytes at the end of what was written by which it is known again.
_TAIL = 64 << 10
_PARTIAL = ".partial"


def names_of(path: str) -> tuple[str, str]:
    """Return where a file is to be, links followed, and where it is until it is whole.

    Raises:
        TargetError: it cannot be there; as of :class:`Output`.

    """
    with _place(path) as place:
        return place.path, place.path + _PARTIAL


def _place(path: str) -> Place:
    try:
        return Place(path)
    except OSError as error:
        raise TargetError(error.errno, error.strerror, error.filename) from error


class OtherOutputError(TargetError):
    """What an earlier run wrote is not there, and nothing is that could be gone on with."""


class Output:
    """A file that is written; every error is a :class:`TargetError`.

    Attributes:
        path: where it is to be.
        partial: where it is until it is whole.
        offset: bytes that were written.

    Thread-safety: none.
    """

    def __init__(
        self, path: str, beginning: bytes, before: Any = None, *, read_only: bool = False
    ) -> None:
        """Open it.

        Args:
            path: where it is to be; links are followed, but those of other users.
            beginning: what every file of its kind begins with: a half one of
                those that is in the way is of a run that was given up.
            before: what :attr:`written` was in the run that is to be gone on
                with; None to begin a new file.
            read_only: change nothing, and lock nothing: only find out what would
                be written, and read what was.

        Raises:
            OtherOutputError: an earlier run wrote another file, or it is not there,
                or no more as it was left.
            TargetError: it cannot be written.

        """
        self._place = _place(path)
        self.path, self.partial = self._place.path, self._place.path + _PARTIAL
        self._half = self._place.name + _PARTIAL
        self.offset = self._flushed = 0
        self._fd = -1
        self._read_only = read_only
        try:
            with self._told():
                self._need_file_or_nothing()
                if before is None:
                    self._begin(beginning)
                else:
                    self._go_on(before)
        except BaseException:
            self.close()
            raise

    @property
    def written(self) -> Any:
        """What a later run knows it by again, as JSON can say it; after :meth:`sync`.

        The inode number and the content, but not the device's number: a disk
        that was unplugged, or its machine restarted, may have another one.
        """
        with self._told():
            return {
                "path": text_of(self.path),
                "ino": os.fstat(self._fd).st_ino,
                "offset": self.offset,
                "digest": self._digest(self.offset),
            }

    def write(self, data: bytes) -> int:
        """Write at the end."""
        view = memoryview(data)
        with self._told():
            while view:
                written = os.pwrite(self._fd, view, self.offset)
                self.offset += written
                view = view[written:]
        if self.offset - self._flushed >= _BEHIND:
            self.sync()
        return len(data)

    def pad(self, multiple: int) -> None:
        """Write zeros up to a multiple of so many bytes."""
        self.write(bytes(-self.offset % multiple))

    def cut(self, offset: int) -> None:
        """Take back what was written from an offset on."""
        with self._told():
            os.ftruncate(self._fd, offset)
        self.offset = offset
        self._flushed = min(self._flushed, offset)

    def sync(self) -> None:
        """Have all on the disk, and drop it from memory."""
        with self._told():
            os.fdatasync(self._fd)
            # Its end stays: it is what it is known by.
            end = max(self._flushed, self.offset - _TAIL)
            os.posix_fadvise(self._fd, self._flushed, end - self._flushed, os.POSIX_FADV_DONTNEED)
        self._flushed = end

    def fileno(self) -> int:
        """Return its descriptor, open for reading as well."""
        return self._fd

    def finish(self) -> None:
        """Have all on the disk, and in its place."""
        self.sync()
        with self._told():
            os.fsync(self._fd)
            there = self._place.status(self._half)
            if not os.path.samestat(there, os.fstat(self._fd)):
                raise TargetError(0, "somebody has put another file in its place", self.partial)
            self._place.rename(self._half, self._place.name)
            self._place.sync()

    def _need_file_or_nothing(self) -> None:
        if self._place.is_in_the_way():
            raise TargetError(0, NO_FILE, self.path)

    def _begin(self, beginning: bytes) -> None:
        """Make a new file, in the place of a half one that nobody goes on with."""
        with contextlib.suppress(FileNotFoundError):
            fd = self._open(self._half)
            try:
                if not self._place.is_ours(os.fstat(fd)):
                    raise TargetError(
                        0,
                        "it is in the way, and another user's, or has another name: have it "
                        "removed, or name another place",
                        self.partial,
                    )
                there = os.pread(fd, len(beginning), 0)
                if there and not beginning.startswith(there):
                    raise TargetError(
                        0, "it is in the way, and not of duet: move it elsewhere", self.partial
                    )
                if not self._read_only:
                    self._place.remove(self._half)
            finally:
                os.close(fd)
        if self._read_only:
            return
        self._fd = self._place.make(self._half)
        _lock(self._fd, self.partial)
        self._place.sync()

    def _go_on(self, before: Any) -> None:
        path = path_of(before["path"])
        if path != self.path:
            half = path + _PARTIAL
            left = f"; {half} is left over, remove it" if os.path.exists(half) else ""
            raise OtherOutputError(
                0, f"the run that was broken off was writing {path}{left}", self.path
            )
        is_half = True
        try:
            self._fd = self._open(self._half)
        except FileNotFoundError:
            # All was done but to say so in the ledger; or it is another disk.
            is_half = False
            with contextlib.suppress(FileNotFoundError):
                self._fd = self._open(self._place.name)
        if self._fd < 0 or not self._is_what_was_written(before):
            what = "is not there" if self._fd < 0 else "is another file, or was changed since"
            raise OtherOutputError(
                0, f"what the run that was broken off wrote there {what}", self.partial
            )
        if self._read_only:
            self.offset = before["offset"]
            return
        if not is_half:
            self._place.rename(self._place.name, self._half)
        self.cut(before["offset"])

    def _is_what_was_written(self, before: Any) -> bool:
        status = os.fstat(self._fd)
        # An inode number is given anew, and content may be known: whose it is nobody else can say,
        # and who else can open it would read all that is yet to come.
        if not self._place.is_ours(status, alone=True):
            return False
        if status.st_ino != before["ino"] or status.st_size < before["offset"]:
            return False
        return self._digest(before["offset"]) == str(before["digest"])

    def _open(self, name: str) -> int:
        """Open a file, for this process alone if it is to be written."""
        fd = self._place.open(name, os.O_RDONLY if self._read_only else os.O_RDWR)
        try:
            if not self._read_only:
                _lock(fd, self._place.path_of(name))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _digest(self, offset: int) -> str:
        """Return the digest of what comes before an offset."""
        start = max(0, offset - _TAIL)
        tail = os.pread(self._fd, offset - start, start)
        return hashlib.blake2b(tail, digest_size=16).hexdigest()

    def close(self) -> None:
        """Let go of the file; a second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._place.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say that the run cannot go on."""
        try:
            yield
        except TargetError:
            raise
        except OSError as error:
            raise TargetError(error.errno, error.strerror, self.partial) from error


def _lock(fd: int, path: str) -> None:
    """Have a file for this process alone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TargetError(0, "another run is writing it: wait for its end", path) from error
