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
        ("_rest", ctypes.c_uint8 * 176),
    )


_FS_INFO: int = ioctl_opt.IOR(0x94, 31, _FsInfo)
_GETFLAGS: int = ioctl_opt.IOR(0x94, 25, ctypes.c_uint64)
_SUBVOL_INFO: int = ioctl_opt.IOR(0x94, 60, _SubvolInfo)


class Subvolume(NamedTuple):
    """A subvolume, or a snapshot, which is one, too."""

    path: str
    #: Of the file system.
    fsid: bytes
    uuid: bytes
    #: Of the subvolume that it is a snapshot of; zeros for none.
    parent_uuid: bytes
    read_only: bool


def subvolume(path: str) -> Subvolume:
    """Return what btrfs says of the subvolume at a path.

    Raises:
        OSError: there is none.

    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_ino != _ROOT_INODE:
            raise OSError(errno.EINVAL, "it is no btrfs subvolume", path)
        file_system, flags, info = _FsInfo(), ctypes.c_uint64(), _SubvolInfo()
        try:
            fcntl.ioctl(fd, _FS_INFO, file_system)
            fcntl.ioctl(fd, _GETFLAGS, flags)
            fcntl.ioctl(fd, _SUBVOL_INFO, info)
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
            raise OSError(errno.EINVAL, "it is no btrfs subvolume", path) from None
    finally:
        os.close(fd)
    return Subvolume(
        path,
        bytes(file_system.fsid),
        bytes(info.uuid),
        bytes(info.parent_uuid),
        bool(flags.value & _READ_ONLY),
    )
