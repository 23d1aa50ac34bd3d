# SPDX-License-Identifier: MIT
"""A file that is being processed: its data in pieces, and whether it stood still."""

import os
from collections.abc import Callable, Iterator

from pyduet.files import data_ranges
from pyduet.maintenance.files.settled import recheck
from pyduet.maintenance.files.statx import Status, status_of
from pyduet.maintenance.frame.work import Stamp, UnstableError, Work, stamp_of

#: Bytes of a piece.
PIECE = 1 << 20
#: Bytes after which the frame may drop what is behind.
_BEHIND = 16 << 20
_ZEROS = bytes(PIECE)


class Reading:
    """An open file, for a task to read; the frame opens and closes it.

    Attributes:
        work: what it is.
        fd: its descriptor, open for reading.
        status: of the descriptor, when it was opened.
        stamp: of the file when it was opened, which may be younger than that
            of ``work``.
        settled: whether the stamp can be believed: that whoever wrote the file
            since would have changed it. See :func:`settled.settle`.
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
        *,
        status: Status | None = None,
        settled: bool = True,
        behind: Callable[[int, int], object] = lambda _begin, _end: None,
    ) -> None:
        """Take an open file; the frame calls this.

        Args:
            work: what it is.
            fd: its descriptor; stays the caller's.
            spend: is told how many bytes are about to be read from the device,
                and may wait.
            share: of the file's data that is not cached.
            status: of the descriptor; None asks for it.
            settled: whether that can be believed.
            behind: is told now and then which bytes of a large file were read,
                from where and up to where.

        """
        self.work = work
        self.fd = fd
        self.status: Status = status_of(fd) if status is None else status
        self.stamp: Stamp = stamp_of(self.status)
        self.settled = settled
        self.read: int | None = None
        self._spend = spend
        self._share = share
        self._behind = behind
        self._is_short = False

    def spend(self, number: int) -> None:
        """Wait until so many bytes may be read from the device; what reads here does it itself."""
        self._spend(number)

    def pieces(self) -> Iterator[bytes]:
        """Yield the file's content in order, as much as it had when it was opened.

        Of a hole its zeros come, and nothing is read. Less comes when the file
        has become shorter meanwhile: see :meth:`check`.

        Raises:
            OSError: it cannot be read.

        """
        at = 0
        for data in data_ranges(self.fd, 0, self.stamp.size):
            yield from _zeros(data.start - at)
            at = data.start
            for piece in self.part(data.start, len(data)):
                at += len(piece)
                yield piece
            if at < data.stop:
                return
        yield from _zeros(self.stamp.size - at)

    def data(self, align: int = 1) -> Iterator[tuple[int, bytes]]:
        """Yield what is no hole: offsets, and the bytes there, in order.

        Args:
            align: each piece begins at a multiple of so many bytes, and ends at
                one or with the file; what of a hole is between comes as zeros.

        Raises:
            OSError: it cannot be read.

        """
        size = self.stamp.size
        end = 0
        for data in data_ranges(self.fd, 0, size):
            begin = max(end, data.start // align * align)
            end = min(size, -(-data.stop // align) * align)
            offset = begin
            for piece in self.part(begin, max(0, end - begin)):
                yield offset, piece
                offset += len(piece)

    def part(self, offset: int, length: int) -> Iterator[bytes]:
        """Yield a part of the file's content in order; less comes when the file ends before.

        Args:
            offset: where the part begins, in bytes.
            length: of the part, in bytes.

        Raises:
            OSError: it cannot be read.

        """
        behind = offset
        for piece in pieces_of(self.fd, offset, length, self._spend_share):
            offset += len(piece)
            length -= len(piece)
            yield piece
            if offset - behind >= _BEHIND:
                self._behind(behind, offset)
                behind = offset
        self._is_short |= length > 0

    def check(self) -> None:
        """Ensure that the file is as it was when it was opened: after all was read.

        Raises:
            UnstableError: it has changed meanwhile.

        """
        if self._is_short:
            raise UnstableError
        self.settled &= recheck(self.fd, self.status)

    def _spend_share(self, number: int) -> None:
        self._spend(int(number * self._share))


def pieces_of(
    fd: int, offset: int, length: int, spend: Callable[[int], object] = lambda _: None
) -> Iterator[bytes]:
    """Yield a part of an open file in order: the one loop that reads.

    Each piece but the last has :data:`PIECE` bytes.

    Args:
        fd: of the file.
        offset: where the part begins, in bytes.
        length: of the part, in bytes; less comes when the file ends before.
        spend: is told how many bytes are about to be read, and may wait.

    Raises:
        OSError: it cannot be read.

    """
    end = offset + length
    while offset < end:
        wanted = min(PIECE, end - offset)
        spend(wanted)
        piece = os.pread(fd, wanted, offset)
        if len(piece) < wanted:
            # A signal, or a bad page that follows, may cut a read short: what is left is asked for.
            rest = os.pread(fd, wanted - len(piece), offset + len(piece))
            if not rest:
                if piece:
                    yield piece
                return
            piece += rest
        offset += len(piece)
        yield piece


def _zeros(number: int) -> Iterator[bytes]:
    while number > 0:
        yield _ZEROS[:number] if number < PIECE else _ZEROS
        number -= PIECE
