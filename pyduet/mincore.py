# SPDX-License-Identifier: MIT
"""The kernel's own snapshot of what is cached of a file, to compare with."""

import ctypes
import mmap
import os
import re

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
