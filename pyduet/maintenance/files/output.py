# SPDX-License-Identifier: MIT
"""A file that a task writes from its beginning to its end, without filling the page cache.

It is written beside the place where it is to be, and renamed when it is whole and on the disk: what
was there before stays until then.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import Any

from pyduet.maintenance.work import TargetError

#: Bytes after which what was written goes to the disk, and out of memory.
_BEHIND = 8 << 20
#: Bytes at the end of what was written by which it is known again.
_TAIL = 64 << 10
_MODE = 0o600


def names_of(path: str) -> tuple[str, str]:
    """Return where a file is to be, links followed, and where it is until it is whole."""
    path = os.path.realpath(path)
    return path, path + ".partial"


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

    def __init__(self, path: str, beginning: bytes, before: Any = None) -> None:
        """Open it.

        Args:
            path: where it is to be; links are followed.
            beginning: what every file of its kind begins with: a half one of
                those that is in the way is of a run that was given up.
            before: what :attr:`written` was in the run that is to be gone on
                with; None to begin a new file.

        Raises:
            OtherOutputError: an earlier run wrote another file, or it is not there,
                or no more as it was left.
            TargetError: it cannot be written.

        """
        self.path, self.partial = names_of(path)
        self.offset = self._flushed = 0
        self._fd = -1
        try:
            with self._told():
                _need_file_or_nothing(self.path)
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
                "path": self.path,
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
            there = os.stat(self.partial, follow_symlinks=False)
            if not os.path.samestat(there, os.fstat(self._fd)):
                raise TargetError(0, "somebody has put another file in its place", self.partial)
            os.rename(self.partial, self.path)
            _sync_directory(self.path)

    def discard(self) -> None:
        """Remove what was written, and close."""
        with self._told():
            os.unlink(self.partial)
        self.close()

    def _begin(self, beginning: bytes) -> None:
        """Make a new file, in the place of a half one that nobody goes on with."""
        with contextlib.suppress(FileNotFoundError):
            fd = self._open(self.partial)
            try:
                there = os.pread(fd, len(beginning), 0)
                if there and not beginning.startswith(there):
                    raise TargetError(
                        0, "it is in the way, and not of duet: move it elsewhere", self.partial
                    )
                os.unlink(self.partial)
            finally:
                os.close(fd)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._fd = os.open(self.partial, flags, _MODE)
        _lock(self._fd, self.partial)
        _sync_directory(self.partial)

    def _go_on(self, before: Any) -> None:
        if before["path"] != self.path:
            half = before["path"] + ".partial"
            left = f"; {half} is left over, remove it" if os.path.exists(half) else ""
            raise OtherOutputError(
                0, f"the run that was broken off was writing {before['path']}{left}", self.path
            )
        try:
            self._fd = self._open(self.partial)
        except FileNotFoundError:
            # All was done but to say so in the ledger; or it is another disk.
            with contextlib.suppress(FileNotFoundError):
                self._fd = self._open(self.path)
        if self._fd < 0 or not self._is_what_was_written(before):
            what = "is not there" if self._fd < 0 else "is another file, or was changed since"
            raise OtherOutputError(
                0, f"what the run that was broken off wrote there {what}", self.partial
            )
        if not os.path.exists(self.partial):
            os.rename(self.path, self.partial)
        self.cut(before["offset"])

    def _is_what_was_written(self, before: Any) -> bool:
        status = os.fstat(self._fd)
        if status.st_ino != before["ino"] or status.st_size < before["offset"]:
            return False
        return self._digest(before["offset"]) == str(before["digest"])

    def _open(self, path: str) -> int:
        """Open a file for this process alone."""
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            _lock(fd, path)
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
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise TargetError(0, "it is in the way, and no regular file", path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TargetError(0, "another run is writing it: wait for its end", path) from error


def _need_file_or_nothing(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise TargetError(0, "it is there, and no regular file: name another", path)


def _sync_directory(path: str) -> None:
    """Have a file's name on the disk."""
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
