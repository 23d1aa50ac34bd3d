# SPDX-License-Identifier: MIT
"""btrfs: joins extents itself, by writing them anew (BTRFS_IOC_DEFRAG_RANGE).

It locks what it writes anew: who writes meanwhile loses nothing.
"""

import errno
import fcntl
import os
import struct
from collections.abc import Sequence

import ioctl_opt

from pyduet.maintenance.defrag.donor import room
from pyduet.maintenance.defrag.layout import GOOD, Part, parts
from pyduet.maintenance.defrag.left import Left, LeftError
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.work import BadFileError, Trouble

#: BTRFS_IOC_DEFRAG_RANGE and struct btrfs_ioctl_defrag_range_args of linux/btrfs.h.
_RANGE = struct.Struct("=QQQII4I")
_DEFRAG: int = ioctl_opt.IOC(ioctl_opt.IOC_WRITE, 0x94, 16, _RANGE.size)
_START_IO = 2
#: BTRFS_IOC_SYNC: what was freed can be allocated again after it.
_SYNC: int = ioctl_opt.IO(0x94, 8)


def join(reading: Reading, fd: int, directory: int, bad: Sequence[Part]) -> None:
    """Join the pieces of parts of a file; as that of ext4.

    Args:
        reading: the file, open for reading.
        fd: the same; that it is open for reading is enough.
        directory: the file's; not used.
        bad: the parts.

    Raises:
        LeftError: there is no better place for it.
        BadFileError: btrfs was interrupted, or there is no room; what was joined is a gain.
        OSError: it cannot be read, or written anew.

    """
    del directory
    gained = False
    for part in bad:
        _ensure_room(fd, part.size)
        for _ in reading.part(part.start, part.size):
            pass  # into memory, at the rate that is allowed
        try:
            request = _RANGE.pack(part.start, part.size, _START_IO, GOOD, 0, 0, 0, 0, 0)
            fcntl.ioctl(fd, _DEFRAG, request)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
            raise BadFileError(Trouble.IN_USE, "btrfs broke it off; the file is whole") from error
        os.fsync(fd)
        now = sum(one.pieces for one in parts(fd, part.start, part.stop))
        gained = gained or now < part.pieces
    if not gained:
        raise LeftError(Left.NO_BETTER_PLACE)


def _ensure_room(fd: int, size: int) -> None:
    try:
        room(fd, size)
    except BadFileError:
        # What was written anew before keeps its old room until now.
        fcntl.ioctl(fd, _SYNC)
        room(fd, size)
