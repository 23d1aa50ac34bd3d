# SPDX-License-Identifier: MIT
"""A file whose pages stay in the page cache while a test looks at them."""

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_LIBC.mlock.argtypes = _LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Read a whole file into memory, and keep it there, by mlock(2).

    A kernel may let go of any other page at any time, and not only for want of
    memory: DAMON pages out what nobody touched for a while.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if at == _FAILED:
            raise OSError(ctypes.get_errno(), "mmap", str(path))
        try:
            if _LIBC.mlock(at, size):
                raise OSError(ctypes.get_errno(), "mlock", str(path))
            yield
        finally:
            _LIBC.munmap(at, size)
