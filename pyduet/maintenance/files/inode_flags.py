# SPDX-License-Identifier: MIT
"""The flags of an inode: what ``lsattr`` shows, and what XFS calls extended flags."""

import errno
import fcntl
import struct
import sys
from typing import NamedTuple

import ioctl_opt

#: FS_IOC_GETFLAGS and FS_IOC_SETFLAGS of linux/fs.h. Their numbers say long, and file systems take
#: and write an int.
_GET: int = ioctl_opt.IOC(ioctl_opt.IOC_READ, ord("f"), 1, 8)
_SET: int = ioctl_opt.IOC(ioctl_opt.IOC_WRITE, ord("f"), 2, 8)
#: FS_*_FL of linux/fs.h, as far as they matter.
COMPRESSED = 0x4
IMMUTABLE = 0x10
APPEND = 0x20
ENCRYPTED = 0x800
JOURNALED = 0x4000
EXTENTS = 0x80000
VERITY = 0x100000
NOCOW = 0x800000

#: FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR and struct fsxattr of linux/fs.h.
_EXTENDED = struct.Struct("=5I8x")
_GET_EXTENDED: int = ioctl_opt.IOC(ioctl_opt.IOC_READ, ord("X"), 31, _EXTENDED.size)
_SET_EXTENDED: int = ioctl_opt.IOC(ioctl_opt.IOC_WRITE, ord("X"), 32, _EXTENDED.size)
#: FS_XFLAG_*.
REALTIME = 0x1
EXTENT_SIZE = 0x800
NO_DEFRAG = 0x2000

#: What says that a file system has no such flags.
_ABSENT = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL)


class Extended(NamedTuple):
    """The extended flags (FS_XFLAG_*), and what comes with them: struct fsxattr."""

    flags: int
    #: Bytes that are allocated at least at a time; 0 for no such hint.
    extent_size: int
    extents: int
    project: int
    cow_extent_size: int


def flags_of(fd: int) -> int:
    """Return the flags of an open file; 0 where its file system has none.

    Raises:
        OSError: it cannot be asked.

    """
    try:
        answer = fcntl.ioctl(fd, _GET, bytes(8))
    except OSError as error:
        if error.errno in _ABSENT:
            return 0
        raise
    return int.from_bytes(answer[:4], sys.byteorder)


def set_flags(fd: int, flags: int) -> None:
    """Set the flags of an open file: all of them.

    Raises:
        OSError: one of them cannot be set, or not by this user.

    """
    fcntl.ioctl(fd, _SET, flags.to_bytes(4, sys.byteorder) + bytes(4))


def extended_of(fd: int) -> Extended:
    """Return the extended flags of an open file; none where its file system has none.

    Raises:
        OSError: it cannot be asked.

    """
    try:
        return Extended(*_EXTENDED.unpack(fcntl.ioctl(fd, _GET_EXTENDED, bytes(_EXTENDED.size))))
    except OSError as error:
        if error.errno in _ABSENT:
            return Extended(0, 0, 0, 0, 0)
        raise


def set_extended(fd: int, extended: Extended) -> None:
    """Set the extended flags of an open file, its project, and its hints.

    Raises:
        OSError: that is not possible, or not permitted.

    """
    fcntl.ioctl(fd, _SET_EXTENDED, _EXTENDED.pack(*extended))
