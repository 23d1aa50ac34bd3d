# SPDX-License-Identifier: MIT
"""ext4: blocks of a file are exchanged with those of a fresh file, page by page, by the kernel.

The kernel copies each page under its lock (ext4_move_extents() in fs/ext4/move_extent.c): who
writes meanwhile, also through a mapping, loses nothing, and what was moved in part is a whole file
all the same.
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Sequence

import ioctl_opt

from pyduet.maintenance.defrag.donor import allocate, donor
from pyduet.maintenance.defrag.layout import Part, parts
from pyduet.maintenance.defrag.left import Left, LeftError
from pyduet.maintenance.files.inode_flags import EXTENTS, flags_of
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.work import BadFileError, Trouble

#: EXT4_IOC_MOVE_EXT and struct move_extent of fs/ext4/ext4.h.
_MOVE = struct.Struct("=IIQQQQ")
_EXCHANGE: int = ioctl_opt.IOC(ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, ord("f"), 15, _MOVE.size)
#: How often pages of a part that are in use are asked for: one after the other without any success,
#: and in all; and seconds to wait for it: at first, and longest.
_TRIES, _MOST_TRIES, _REST, _LONGEST = 24, 512, 0.001, 0.2
#: What the kernel says of a page that somebody uses, or that its journal has.
_IN_USE = (errno.EBUSY, errno.EAGAIN)


def probe(directory: int) -> None:
    """Try it, with two files that have no name.

    Args:
        directory: where they may be made.

    Raises:
        OSError: they cannot be made; with EOPNOTSUPP: this ext4 cannot exchange blocks.

    """
    with donor(directory) as one, donor(directory) as other:
        block = os.fstat(one).st_blksize
        for fd in (one, other):
            os.posix_fallocate(fd, 0, block)
        try:
            _exchange(one, other, 0, 1)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            if os.fstat(one).st_blocks * 512 > block:
                why = "it was made with bigalloc"
            elif not flags_of(one) & EXTENTS:
                why = "it was made without extents"
            else:
                why = "it journals data (data=journal), or is on memory (DAX)"
            raise OSError(
                errno.EOPNOTSUPP, f"this ext4 cannot move the blocks of its files: {why}"
            ) from error


def join(reading: Reading, fd: int, directory: int, bad: Sequence[Part]) -> None:
    """Join the pieces of parts of a file.

    Args:
        reading: the file, open for reading.
        fd: the same, open for writing.
        directory: the file's.
        bad: the parts.

    Raises:
        LeftError: there is no better place for a part of it.
        BadFileError: it is in use, or there is no room; what was moved is a gain.
        OSError: it cannot be read, or moved.

    """
    block = os.fstat(fd).st_blksize
    left: LeftError | None = None
    with donor(directory) as fresh:
        for part in bad:
            stop = -(-part.stop // block) * block
            allocate(fresh, part.start, stop)
            if sum(one.pieces for one in parts(fresh, part.start, stop)) < part.pieces:
                for _ in reading.part(part.start, part.size):
                    pass  # into memory, at the rate that is allowed
                _move(fd, fresh, part.start // block, stop // block)
                os.fsync(fd)
            else:
                left = LeftError(Left.NO_BETTER_PLACE)
            # With the old blocks, which are free from here on.
            os.ftruncate(fresh, 0)
    if left is not None:
        raise left


def _move(fd: int, fresh: int, at: int, end: int) -> None:
    """Exchange blocks; those that are in use once they are not."""
    begin, tries, in_all = at, 0, 0
    while at < end:
        done, error = _exchange_some(fd, fresh, at, end)
        at += done
        if error is None or error.errno == errno.ENODATA:
            return  # ENODATA: the file has become shorter, or has a hole there
        if error.errno not in _IN_USE:
            raise error
        tries, in_all = 0 if done else tries + 1, in_all + 1
        if tries == _TRIES or in_all == _MOST_TRIES:
            raise BadFileError(
                Trouble.IN_USE,
                f"somebody keeps its pages in use ({error.strerror}); {at - begin:,} of "
                f"{end - begin:,} blocks of a part were moved, and the file is whole",
            )
        time.sleep(min(_REST * 2**tries, _LONGEST))
        # What was written to it goes to the disk: its pages are in use by that no longer.
        os.fsync(fd)


def _exchange_some(fd: int, fresh: int, at: int, end: int) -> tuple[int, OSError | None]:
    request = bytearray(_MOVE.pack(0, fresh, at, at, end - at, 0))
    try:
        fcntl.ioctl(fd, _EXCHANGE, request)
    except OSError as error:
        return int(_MOVE.unpack(request)[5]), error
    return end - at, None


def _exchange(fd: int, fresh: int, at: int, end: int) -> None:
    _, error = _exchange_some(fd, fresh, at, end)
    if error is not None:
        raise error
