# SPDX-License-Identifier: MIT
"""What btrfs says of a subvolume."""

import ctypes
import errno
import fcntl
import os
from typing import NamedTuple

import ioctl_opt

#: BTRFS_SUBVOL_RDONLY and BTRFS_FIRST_FREE_OBJECTID of linux/btrfs.h and btrfs_tree.h.
_READ_ONLY = 1 << 1
_ROOT_INODE = 256


class _FsInfo(ctypes.Structure):
    """struct btrfs_ioctl_fs_info_args of linux/btrfs.h, as far as it matters."""

    _fields_ = (
        ("max_id", ctypes.c_uint64),
        ("num_devices", ctypes.c_uint64),
        ("fsid", ctypes.c_uint8 * 16),
        ("_rest", ctypes.c_uint8 * 992),
    )


class _SubvolInfo(ctypes.Structure):
    """struct btrfs_ioctl_get_subvol_info_args of linux/btrfs.h, as far as it matters."""

    _fields_ = (
        ("treeid", ctypes.c_uint64),
        ("name", ctypes.c_uint8 * 256),
        ("parent_id", ctypes.c_uint64),
        ("dirid", ctypes.c_uint64),
        ("generation", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("uuid", ctypes.c_uint8 * 16),
        ("parent_uuid", ctypes.c_uint8 * 16),
        ("received_uuid", ctypes.c_uint8 * 16),
        ("_rest", ctypes.c_uint8 * 160),
    )


_FS_INFO: int = ioctl_opt.IOR(0x94, 31, _FsInfo)
_GETFLAGS: int = ioctl_opt.IOR(0x94, 25, ctypes.c_uint64)
_SUBVOL_INFO: int = ioctl_opt.IOR(0x94, 60, _SubvolInfo)


class Subvolume(NamedTuple):
    """A subvolume, or a snapshot, which is one, too."""

    #: Of the file system.
    fsid: bytes
    uuid: bytes
    #: Of the subvolume that it is a snapshot of; zeros for none.
    parent_uuid: bytes
    #: Of the subvolume that it was received from; zeros for none.
    received_uuid: bytes
    read_only: bool

    @property
    def name_in_streams(self) -> bytes:
        """The UUID that send streams know it by."""
        return self.received_uuid if any(self.received_uuid) else self.uuid


def subvolume(fd: int, path: str) -> Subvolume:
    """Return what btrfs says of a subvolume.

    Args:
        fd: of its directory.
        path: of that, for messages.

    Raises:
        OSError: it is none.

    """
    nothing = OSError(errno.EINVAL, "it is no btrfs subvolume", path)
    if os.fstat(fd).st_ino != _ROOT_INODE:
        raise nothing
    file_system, flags, info = _FsInfo(), ctypes.c_uint64(), _SubvolInfo()
    try:
        fcntl.ioctl(fd, _FS_INFO, file_system)
        fcntl.ioctl(fd, _GETFLAGS, flags)
        fcntl.ioctl(fd, _SUBVOL_INFO, info)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise OSError(error.errno, error.strerror, path) from error
        raise nothing from None
    return Subvolume(
        bytes(file_system.fsid),
        bytes(info.uuid),
        bytes(info.parent_uuid),
        bytes(info.received_uuid),
        bool(flags.value & _READ_ONLY),
    )
