# SPDX-License-Identifier: MIT
"""A file that is being processed: its data in pieces, and whether it stood still."""

import os
from collections.abc import Callable, Iterator

from pyduet.maintenance.frame.inventory import stamp_of
from pyduet.maintenance.frame.work import Stamp, UnstableError, Work

#: Bytes of a piece.
PIECE = 1 << 20
#: Bytes after which the frame may drop what is behind.
_BEHIND = 16 << 20


class Reading:
    """An open file, for a task to read; the frame opens and closes it.

    Attributes:
        work: what it is.
        fd: its descriptor, open for reading.
        stamp: of the file when it was opened, which may be younger than that
            of ``work``.
        read: bytes that were read from the device, if the task says so: else
            what was not cached.

    Thread-safety: none.
    """

    def __init__(
        self,
        work: Work,
        fd: int,
        spend: Callable[[int], object],
        share: float = 1.0,
        behind: Callable[[int, int], object] = lambda _begin, _end: None,
    ) -> None:
        """Take an open file; the frame calls this.

        Args:
            work: what it is.
            fd: its descriptor; stays the caller's.
            spend: is told how many bytes are about to be read from the device,
                and may wait.
            share: of the file that is not cached.
            behind: is told now and then which bytes of a large file were read,
                from where and up to where.

        """
        self.work = work
        self.fd = fd
        self.status = os.fstat(fd)
        self.stamp: Stamp = stamp_of(self.status)
        self.read: int | None = None
        self._spend = spend
        self._share = share
        self._behind = behind
        self._left = 0

    def spend(self, number: int) -> None:
        """Wait until so many bytes may be read from the device; :meth:`pieces` does it itself."""
        self._spend(number)

    def pieces(self) -> Iterator[bytes]:
        """Yield the file's data in order, as much as it had when it was opened.

        Less comes when it has become shorter meanwhile: see :meth:`check`.

        Raises:
            OSError: it cannot be read.

        """
        self._left = self.stamp.size
        for piece in self.part(0, self.stamp.size):
            self._left -= len(piece)
            yield piece

    def part(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield a part of the file's data in order; less comes when the file ends before.

        Args:
            offset: where the part begins, in bytes.
            length: of the part, in bytes.

        Raises:
            OSError: it cannot be read.

        """
        begin, end = offset, offset + length
        while offset < end:
            wanted = min(PIECE, end - offset)
            self._spend(int(wanted * self._share))
            piece = os.pread(self.fd, wanted, offset)
            if not piece:
                return
            offset += len(piece)
            yield piece
            if offset - begin >= _BEHIND:
                self._behind(begin, offset)
                begin = offset

    def check(self) -> None:
        """Ensure that the file is as it was when it was opened: after all was read.

        Raises:
            UnstableError: it has changed meanwhile.

        """
        if self._left or stamp_of(os.fstat(self.fd)) != self.stamp:
            raise UnstableError
