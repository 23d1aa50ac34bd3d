# SPDX-License-Identifier: MIT
"""What names a file to Duet, asked of its file system: inode number and generation."""

import ctypes
import errno
import fcntl
import os
import stat

import ioctl_opt

from pyduet.errors import Operation, error_for

#: FS_IOC_GETVERSION of linux/fs.h. Its number says long, and file systems write an int.
_GETVERSION: int = ioctl_opt.IOR(ord("v"), 1, ctypes.c_long)


def generation_of(fd: int) -> int:
    """Return the inode generation of an open file.

    Raises:
        OSError: its file system tells none.

    """
    generation = ctypes.c_uint64()
    fcntl.ioctl(fd, _GETVERSION, generation)
    return generation.value & 0xFFFFFFFF


def identity_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the inode number and the inode generation of a regular file.

    Opens the file, reads nothing of it, and follows symbolic links. The
    generation tells a reused inode number from the old one.

    Args:
        path: the file.

    Raises:
        PathNotFoundError, NotDirectoryError: of ``path``.
        PermissionDeniedError: the caller may not read the file.
        UnsupportedFilesystemError: its file system tells no generation.
        ValueError: it is no regular file, which has no pages that Duet tells of.

    """
    subject = os.fsdecode(path)
    try:
        # Looked at first: to open a device or a pipe may do something.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError(f"{subject} is not a regular file; Duet tells of no others")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            return os.fstat(fd).st_ino, generation_of(fd)
        finally:
            os.close(fd)
    except OSError as error:
        # What a file system that does not know the call says: any of these.
        number = error.errno or 0
        unknown = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
        number = errno.ENOTTY if number in unknown else number
        raise error_for(number, Operation.IDENTIFY, subject) from error
