# SPDX-License-Identifier: MIT
"""A file that is being processed: its data in pieces, and whether it stood still."""

import contextlib
import os
from collections.abc import Callable, Iterator

from pyduet.files import data_ranges
from pyduet.maintenance.files.direct import Direct
from pyduet.maintenance.files.settled import recheck
from pyduet.maintenance.files.statx import Status, status_of
from pyduet.maintenance.work import Stamp, UnstableError, Work, stamp_of

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
        cached: bytes of its data that were in memory before anything was read of
            it, as far as the caller is told: who may not write it, is told of more.
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
        cached: int = 0,
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
            cached: bytes of its data that are in memory.
            behind: is told now and then which bytes of a large file were read,
                from where and up to where.

        """
        self.work = work
        self.fd = fd
        self.status: Status = status_of(fd) if status is None else status
        self.stamp: Stamp = stamp_of(self.status)
        self.settled = settled
        self.cached = cached
        self.read: int | None = None
        self._spend = spend
        self._share = share
        self._behind = behind
        self._is_short = False
        self._direct: Direct | None = None

    @contextlib.contextmanager
    def past_cache(self) -> Iterator[Direct | None]:
        """Have what is read until the context ends come from the device, not from memory.

        Gives what counts the bytes that did; None where the file system cannot do
        that, and nothing is read past the memory.
        """
        try:
            direct = Direct(self.fd)
        except OSError:
            yield None
            return
        with direct:
            self._direct = direct
            try:
                yield direct
            finally:
                self._direct = None
                self.read = (self.read or 0) + direct.read

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
        direct = self._direct
        spend = self._spend_share if direct is None else self._spend
        read = os.pread if direct is None else direct.pread
        for piece in pieces_of(self.fd, offset, length, spend, read):
            offset += len(piece)
            length -= len(piece)
            yield piece
            if offset - behind >= _BEHIND and direct is None:
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
    fd: int,
    offset: int,
    length: int,
    spend: Callable[[int], object] = lambda _: None,
    read: Callable[[int, int, int], bytes] = os.pread,
) -> Iterator[bytes]:
    """Yield a part of an open file in order: the one loop that reads.

    Each piece but the last has :data:`PIECE` bytes.

    Args:
        fd: of the file.
        offset: where the part begins, in bytes.
        length: of the part, in bytes; less comes when the file ends before.
        spend: is told how many bytes are about to be read, and may wait.
        read: how to read: as :func:`os.pread`.

    Raises:
        OSError: it cannot be read.

    """
    end = offset + length
    while offset < end:
        wanted = min(PIECE, end - offset)
        spend(wanted)
        piece = read(fd, wanted, offset)
        if len(piece) < wanted:
            # A signal, or a bad page that follows, may cut a read short: what is left is asked for.
            rest = read(fd, wanted - len(piece), offset + len(piece))
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
