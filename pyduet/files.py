# SPDX-License-Identifier: MIT
"""What can be asked of a file itself, without Duet: what is cached of it, and what names it."""

import ctypes
import errno
import fcntl
import mmap
import os
import re
import stat

import ioctl_opt

from pyduet.errors import Operation, error_for
from pyduet.events import FileId

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


def identity_of(path: str | os.PathLike[str]) -> FileId:
    """Return what names a regular file to Duet: its inode number and generation.

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
            return FileId(os.fstat(fd).st_ino, generation_of(fd))
        finally:
            os.close(fd)
    except OSError as error:
        # What a file system that does not know the call says: any of these.
        number = error.errno or 0
        unknown = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
        number = errno.ENOTTY if number in unknown else number
        raise error_for(number, Operation.IDENTIFY, subject) from error


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]

_MAP_FAILED = ctypes.c_void_p(-1).value
#: Mapped at a time, so that a file of any size needs little memory.
_WINDOW = 1 << 30
_LOWEST_BIT = bytes(byte & 1 for byte in range(256))


def cached_pages(path: str | os.PathLike[str]) -> set[int]:
    """Return the indexes of the pages of a file that are in the page cache.

    Opens and maps the file but reads nothing of it, so what is cached stays as
    it is. Only its owner, who may write it, and root are told the truth:
    anybody else sees every page as cached (mincore(2)).

    Args:
        path: the file.

    Raises:
        OSError: the file cannot be opened or mapped.

    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return {page for pages in cached_ranges(fd) for page in pages}
    finally:
        os.close(fd)


def cached_ranges(fd: int) -> list[range]:
    """Return which pages of an open file are in the page cache, as ranges of their indexes.

    As :func:`cached_pages` otherwise.

    Args:
        fd: of the file, open for reading.

    Raises:
        OSError: the file cannot be mapped.

    """
    found: list[range] = []
    size = os.fstat(fd).st_size
    for offset in range(0, size, _WINDOW):
        first = offset // mmap.PAGESIZE
        # The other bits of a byte mean nothing.
        vector = _vector(fd, offset, min(_WINDOW, size - offset)).translate(_LOWEST_BIT)
        for match in re.finditer(b"\1+", vector):
            pages = range(first + match.start(), first + match.end())
            if found and found[-1].stop == pages.start:
                found[-1] = range(found[-1].start, pages.stop)
            else:
                found.append(pages)
    return found


def _vector(fd: int, offset: int, length: int) -> bytes:
    """Return mincore's answer for a part of an open file, one byte a page."""
    address = _LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
    if address == _MAP_FAILED:
        raise _last_error()
    try:
        vector = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
        if _LIBC.mincore(address, length, vector):
            raise _last_error()
        return vector.raw
    finally:
        _LIBC.munmap(address, length)


def _last_error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
