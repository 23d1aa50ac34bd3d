# SPDX-License-Identifier: MIT
"""A file that a task writes from its beginning to its end, without filling the page cache."""

import os

from pyduet.maintenance.frame.work import TargetError

#: Bytes after which what was written goes to the disk, and out of memory.
_BEHIND = 8 << 20


class Output:
    """A file that is written; every error is a :class:`TargetError`.

    Thread-safety: none.
    """

    def __init__(self, path: str, keep: int | None = None) -> None:
        """Open it.

        Args:
            path: the file; made if it is not there.
            keep: bytes that were written by an earlier run, to go on after
                them; None to begin a new one.

        """
        self.path = path
        self.offset = self._flushed = 0
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o600)
            there = os.fstat(self._fd).st_size
        except OSError as error:
            raise self._failed(error) from error
        if keep is not None and there < keep:
            os.close(self._fd)
            raise TargetError(
                0,
                f"it has {there} bytes, and the ledger knows of {keep}; it is not what the run "
                "that was broken off wrote: begin anew with --anew",
                path,
            )
        self.cut(keep or 0)

    def write(self, data: bytes) -> int:
        """Write at the end."""
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, self.offset)
                self.offset += written
                view = view[written:]
            if self.offset - self._flushed >= _BEHIND:
                self.sync()
        except OSError as error:
            raise self._failed(error) from error
        return len(data)

    def pad(self, multiple: int) -> None:
        """Write zeros up to a multiple of so many bytes."""
        self.write(bytes(-self.offset % multiple))

    def cut(self, offset: int) -> None:
        """Take back what was written from an offset on."""
        try:
            os.ftruncate(self._fd, offset)
        except OSError as error:
            raise self._failed(error) from error
        self.offset = offset
        self._flushed = min(self._flushed, offset)

    def sync(self) -> None:
        """Have all on the disk, and drop it from memory."""
        try:
            os.fdatasync(self._fd)
            os.posix_fadvise(
                self._fd, self._flushed, self.offset - self._flushed, os.POSIX_FADV_DONTNEED
            )
        except OSError as error:
            raise self._failed(error) from error
        self._flushed = self.offset

    def close(self) -> None:
        """Have all on the disk, and close."""
        self.sync()
        os.close(self._fd)

    def _failed(self, error: OSError) -> TargetError:
        return TargetError(error.errno, error.strerror, self.path)
