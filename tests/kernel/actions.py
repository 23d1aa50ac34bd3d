# SPDX-License-Identifier: MIT
"""What programs do to a file, one call each: no more happens than the name says."""

import ctypes
import fcntl
import mmap
import os
import struct
from pathlib import Path

from truth import PAGE

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
#: Of linux/falloc.h.
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_ZERO_RANGE = 8, 16
#: Of linux/fs.h: share a range of another file's blocks.
FICLONERANGE = 0x4020940D
#: Of linux/fcntl.h and linux/fs.h.
AT_FDCWD, AT_EMPTY_PATH, AT_SYMLINK_FOLLOW, RENAME_EXCHANGE = -100, 0x1000, 0x400, 2


def write_at(path: Path, page: int, pages: int = 1) -> None:
    """Write whole pages in the middle of a file, without a sync."""
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"w" * PAGE * pages, page * PAGE)
    os.close(fd)


def sync_file(path: Path) -> None:
    """Write a file's dirty pages back."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def sync_range(fd: int, page: int = 0, pages: int = 0) -> None:
    """Have a file written back from a page on, and not waited for: SYNC_FILE_RANGE_WRITE."""
    if LIBC.sync_file_range(fd, page * PAGE, pages * PAGE, 2):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def evict(path: Path) -> None:
    """Drop a file's clean pages from the page cache."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def read_page(path: Path, page: int) -> None:
    """Read one page; no readahead."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(fd, PAGE, page * PAGE)
    os.close(fd)


def read_ahead(path: Path) -> None:
    """Have a file brought into the cache, and use none of it."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    os.close(fd)


def map_write(path: Path, page: int, *, flush: bool = False) -> None:
    """Write one byte through a mapping; flush with msync."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view[page * PAGE] = 77
        if flush:
            view.flush()


def allocate(path: Path, mode: int, offset: int, length: int) -> None:
    """Call fallocate, in bytes."""
    with path.open("r+b") as file:
        if LIBC.fallocate(file.fileno(), mode, offset, length):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)


def punch(path: Path, offset: int, length: int) -> None:
    """Make a hole in a file, in bytes."""
    allocate(path, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)


def copy_range(source: Path, target: Path, pages: int, at: int = 0) -> None:
    """Copy pages from one file to another inside the kernel."""
    with source.open("rb") as origin, target.open("r+b") as file:
        os.copy_file_range(origin.fileno(), file.fileno(), pages * PAGE, 0, at * PAGE)


def reflink(source: Path, target: Path, pages: int, at: int = 0, *, origin: int = 0) -> None:
    """Let a file share blocks with another; what was cached there is stale."""
    with source.open("rb") as lender, target.open("r+b") as file:
        request = struct.pack("=qQQQ", lender.fileno(), origin * PAGE, pages * PAGE, at * PAGE)
        fcntl.ioctl(file, FICLONERANGE, request)


def direct_read(path: Path, page: int, pages: int) -> None:
    """Read past the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with mmap.mmap(-1, pages * PAGE) as buffer:
        os.preadv(fd, [buffer], page * PAGE)
    os.close(fd)


def direct_write(path: Path, page: int, pages: int) -> None:
    """Write past the page cache; what is cached there has to go."""
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, pages * PAGE) as buffer:
        os.pwritev(fd, [buffer], page * PAGE)
    os.close(fd)


def exchange(one: Path, other: Path) -> None:
    """Let two names change places."""
    names = os.fsencode(one), os.fsencode(other)
    if LIBC.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one)


def link_open_file(fd: int, name: Path) -> None:
    """Give a file that is open, and may have no name, a name."""
    target = os.fsencode(name)
    if LIBC.linkat(fd, b"", AT_FDCWD, target, AT_EMPTY_PATH):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
