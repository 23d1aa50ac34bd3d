# SPDX-License-Identifier: MIT
"""What statx(2) tells of a file: more than :func:`os.stat`, and of a mount point that it is one."""

import ctypes
import errno
import os
import stat
import struct
from typing import NamedTuple

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.statx.argtypes = [
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p,
]  # fmt: skip

# struct statx of linux/stat.h, up to stx_mnt_id; 256 bytes in all.
_STATX = struct.Struct("=IIQ IIIHxx QQQQ qIxxxx qIxxxx qIxxxx qIxxxx IIII Q")
_SIZE = 256
_AT_EMPTY_PATH, _AT_NO_AUTOMOUNT, _AT_SYMLINK_NOFOLLOW = 0x1000, 0x800, 0x100
_AT_STATX_FORCE_SYNC, _AT_STATX_DONT_SYNC = 0x2000, 0x4000
# STATX_BASIC_STATS, STATX_BTIME, STATX_MNT_ID.
_BTIME = 0x800
_WANTED = 0x7FF | _BTIME | 0x1000
# STATX_ATTR_AUTOMOUNT, STATX_ATTR_MOUNT_ROOT.
_MOUNT = 0x1000 | 0x2000


class Identity(NamedTuple):
    """What tells one file from another, as long as the file system lives.

    Attributes:
        device: of its file system, as ``st_dev``.
        ino: number of its inode.
        born_ns: when the inode was made; 0 where that is not told.
        kind: of file, as :func:`stat.S_IFMT` returns it.

    """

    device: int
    ino: int
    born_ns: int
    kind: int


class Status(NamedTuple):
    """A file's status. The names are those of :class:`os.stat_result`; times are nanoseconds.

    Attributes:
        st_birthtime_ns: when the inode was made: with its number it names a
            file as long as the file system lives. 0 where that is not told.
        mount_id: of the mount that it was reached on.
        is_mount: whether something is mounted there: a file system, or a part
            of one (a bind mount); or would be if somebody went there.

    """

    st_mode: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_dev: int
    st_ino: int
    st_size: int
    st_blocks: int
    st_blksize: int
    st_rdev: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int
    st_birthtime_ns: int
    mount_id: int
    is_mount: bool

    @property
    def identity(self) -> Identity:
        """What tells the file from others."""
        return Identity(self.st_dev, self.st_ino, self.st_birthtime_ns, stat.S_IFMT(self.st_mode))


def status_of(fd: int, *, force: bool = False) -> Status:
    """Return the status of an open file; the descriptor may be an O_PATH one.

    Args:
        fd: of the file.
        force: have a network file system ask its server, whatever it remembers.

    Raises:
        OSError: as of statx(2).

    """
    return _statx(fd, b"", _AT_EMPTY_PATH | (_AT_STATX_FORCE_SYNC if force else 0))


def status_at(directory: int, name: str, *, sync: bool = True) -> Status:
    """Return the status of a name in an open directory; a link's own, and mounts nothing.

    Args:
        directory: a descriptor.
        name: in it.
        sync: whether a network file system is asked; else it answers with what it
            knows, at once.

    Raises:
        OSError: as of statx(2).

    """
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | (0 if sync else _AT_STATX_DONT_SYNC)
    return _statx(directory, os.fsencode(name), flags)


def is_mount_at(directory: int, name: str) -> bool:
    """Return whether something is mounted on a name in an open directory; nobody is asked for it.

    That can be seen also where the file system says nothing at all: one of FUSE
    to another user than its own.

    Raises:
        OSError: as of statx(2).

    """
    flags = _AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT | _AT_STATX_DONT_SYNC
    return _statx(directory, os.fsencode(name), flags, 0).is_mount


def mount_of(fd: int) -> int:
    """Return the id of the mount that an open file was reached on; nobody is asked for it.

    Raises:
        OSError: as of statx(2).

    """
    return _statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, 0).mount_id


def _statx(directory: int, name: bytes, flags: int, wanted: int = _WANTED) -> Status:
    buffer = ctypes.create_string_buffer(_SIZE)
    while _LIBC.statx(directory, name, flags, wanted, buffer):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number), os.fsdecode(name) or None)
    (
        mask, blksize, attributes,
        nlink, uid, gid, mode,
        ino, size, blocks, _,
        atime, atime_ns, birth, birth_ns, ctime, ctime_ns, mtime, mtime_ns,
        rdev_major, rdev_minor, dev_major, dev_minor,
        mount_id,
    ) = _STATX.unpack_from(buffer)  # fmt: skip
    return Status(
        mode, nlink, uid, gid,
        os.makedev(dev_major, dev_minor), ino, size, blocks, blksize,
        os.makedev(rdev_major, rdev_minor),
        atime * 10**9 + atime_ns, mtime * 10**9 + mtime_ns, ctime * 10**9 + ctime_ns,
        birth * 10**9 + birth_ns if mask & _BTIME else 0,
        mount_id, bool(attributes & _MOUNT),
    )  # fmt: skip
