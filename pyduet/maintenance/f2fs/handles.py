# SPDX-License-Identifier: MIT
"""Files of an f2fs by their inode numbers: f2fs cleans by those, and of many no name is known."""

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable, Iterator

from pyduet.maintenance.files import page_cache

# struct file_handle of open_by_handle_at(2), with f2fs's own, of FILEID_INO32_GEN.
_HANDLE = struct.Struct("=IiII")
_FILEID_INO32_GEN = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def opened(root: int, ino: int, generation: int) -> Iterator[int | None]:
    """Open a regular file of a mounted f2fs for reading; None when it is there no more.

    By its handle (open_by_handle_at(2)).

    Args:
        root: descriptor of anything on the file system.
        ino: inode number.
        generation: of the inode; 0 for any, as f2fs_nfs_get_inode() of fs/f2fs/super.c has it.

    """
    held = _held(root, _HANDLE.pack(8, _FILEID_INO32_GEN, ino, generation), ino)
    if held is None:
        yield None
        return
    try:
        # What is no regular file is not opened at all: to open a device may do something.
        if not stat.S_ISREG(os.fstat(held).st_mode):
            yield None
            return
        flags = os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(f"/proc/self/fd/{held}", flags)
    finally:
        os.close(held)
    try:
        yield fd
    finally:
        os.close(fd)


def _held(root: int, handle: bytes, ino: int) -> int | None:
    """Return an O_PATH descriptor; None when there is nothing of the handle any more."""
    fd = int(_LIBC.open_by_handle_at(root, handle, os.O_PATH | os.O_CLOEXEC))
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    if number in (errno.ESTALE, errno.ENOENT):
        return None
    raise OSError(number, f"{os.strerror(number)}: opening inode {ino} by its handle")


def drop(root: int, ino: int, pages: Iterable[int]) -> None:
    """Have the kernel drop pages of a regular file of a mounted f2fs; dirty ones stay."""
    with opened(root, ino, 0) as fd:
        if fd is not None:
            page_cache.drop(fd, _runs(pages))


def _runs(numbers: Iterable[int]) -> list[range]:
    """Return numbers as ranges of consecutive ones."""
    runs: list[range] = []
    for number in sorted(numbers):
        if runs and runs[-1].stop == number:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs
