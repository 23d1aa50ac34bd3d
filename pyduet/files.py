# SPDX-License-Identifier: MIT
"""What can be asked of a file itself, without Duet: what is cached of it, and what names it."""

import ctypes
import errno
import fcntl
import mmap
import os
import re
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

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
#: cachestat of asm-generic/unistd.h, since Linux 6.5: the same on all architectures.
#: struct cachestat_range and struct cachestat of linux/mman.h.
_SYS_CACHESTAT = 451
_RANGE, _COUNTS = struct.Struct("=QQ"), struct.Struct("=5Q")

#: Bytes that are mapped at a time, so that a file of any size needs little memory.
_WINDOW = 1 << 30
#: Pages of a part of a file below which it costs less to look than to ask whether it is worth it;
#: and a part of which one page of so many is cached is looked at, however large.
_FEW, _SPARSE = 512, 16
#: Bytes of a file's holes that are looked through where nothing tells that none of them is cached:
#: about a second.
_MOST_BLIND = 64 << 30
_LOWEST_BIT = bytes(byte & 1 for byte in range(256))


class PageCounts(NamedTuple):
    """How many pages of a part of a file the page cache holds."""

    #: That are there, whether up to date or not.
    cached: int
    #: Those of them that are dirty.
    dirty: int
    #: Those of them that are being written to the disk.
    writing: int


def page_counts(fd: int, offset: int = 0, length: int = 0) -> PageCounts | None:
    """Return how many pages of a part of an open file are cached, by cachestat(2).

    Costs by what is cached, not by the length.

    Args:
        fd: of the file.
        offset: where the part begins, in bytes.
        length: its bytes; 0 is to the end.

    Returns:
        None where the kernel does not tell: before Linux 6.5, or not this
        caller, who has to be the file's owner, or root, or to be able to write it.

    """
    found = ctypes.create_string_buffer(_COUNTS.size)
    if _LIBC.syscall(_SYS_CACHESTAT, fd, _RANGE.pack(offset, length), found, 0):
        return None
    return PageCounts(*_COUNTS.unpack(found.raw)[:3])


def data_ranges(fd: int, begin: int, end: int) -> Iterator[range]:
    """Yield where an open file has data between two bytes: all of it but its holes (lseek(2)).

    What is dirty in memory counts as data.
    """
    while begin < end:
        try:
            start = os.lseek(fd, begin, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole follows
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            start, stop = begin, end
        if start >= end:
            return
        yield range(start, min(stop, end))
        begin = stop


def cached_pages(path: str | os.PathLike[str]) -> set[int]:
    """Return the indexes of the pages of a file that are in the page cache.

    Opens and maps the file but reads nothing of it, so what is cached stays as
    it is. Only its owner, who may write it, and root are told the truth: to
    anybody else pages may seem cached that are not (mincore(2)).

    What it costs depends on what is cached and not on the size of the file,
    where the kernel has cachestat(2), since Linux 6.5. Where it has not, what
    is cached over the holes of a file of more than 64 GiB is not told.

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
    for part in _parts(fd, os.fstat(fd).st_size):
        first = part.start // mmap.PAGESIZE
        # The other bits of a byte mean nothing.
        vector = _vector(fd, part.start, len(part)).translate(_LOWEST_BIT)
        for match in re.finditer(b"\1+", vector):
            pages = range(first + match.start(), first + match.end())
            if found and found[-1].stop == pages.start:
                found[-1] = range(found[-1].start, pages.stop)
            else:
                found.append(pages)
    return found


def _parts(fd: int, size: int) -> Iterator[range]:
    """Yield the bytes of a file that are worth a look, in order, whole pages of at most a window.

    What is cached of a file can lie anywhere, in its holes as well, which are
    as good as endless. So where the kernel tells how much is cached, parts of
    which nothing is are left out.
    """
    if page_counts(fd) is None:
        yield from _blind_parts(fd, size)
        return
    left = [range(size)] if size else []
    while left:
        part = left.pop()
        counts = page_counts(fd, part.start, len(part))
        pages = -(-len(part) // mmap.PAGESIZE)
        cached = pages if counts is None else counts.cached
        if not cached:
            continue
        if pages <= _FEW or cached * _SPARSE >= pages:
            yield from _windows(part)
        else:
            middle = part.start + pages // 2 * mmap.PAGESIZE
            left += [range(middle, part.stop), range(part.start, middle)]


def _blind_parts(fd: int, size: int) -> Iterator[range]:
    """Yield the same where the kernel does not tell: all of the file, or if it is long its data."""
    if size <= _MOST_BLIND:
        yield from _windows(range(size))
        return
    end = 0
    for data in data_ranges(fd, 0, size):
        begin = max(end, data.start // mmap.PAGESIZE * mmap.PAGESIZE)
        end = min(size, -(-data.stop // mmap.PAGESIZE) * mmap.PAGESIZE)
        yield from _windows(range(begin, end))


def _windows(part: range) -> Iterator[range]:
    for offset in range(part.start, part.stop, _WINDOW):
        yield range(offset, min(offset + _WINDOW, part.stop))


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
