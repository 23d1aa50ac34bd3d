# SPDX-License-Identifier: MIT
"""Memory whose pages come when a test says so: who reads it, or fills it, takes so long."""

import ctypes
import fcntl
import mmap
import os
import struct
from typing import Self

import ioctl_opt

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.pwrite.restype = ctypes.c_ssize_t
_LIBC.pwrite.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
# linux/userfaultfd.h
_SYS_USERFAULTFD, _SYS_GETDENTS64 = 323, 217  # x86_64
_READ_WRITE = ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE
_API, _FEATURES = ioctl_opt.IOC(_READ_WRITE, 0xAA, 0x3F, 24), 0
_REGISTER, _MISSING = ioctl_opt.IOC(_READ_WRITE, 0xAA, 0x00, 32), 1
_COPY = ioctl_opt.IOC(_READ_WRITE, 0xAA, 0x03, 40)
_MESSAGE = struct.Struct("=B7xQQ8x")


class SlowMemory:
    """Some pages of memory that are not there before they are given; for root."""

    def __init__(self, pages: int) -> None:
        """Make them."""
        self._length = pages * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, self._length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._address = _address(self._memory)
        self._fd = _LIBC.syscall(_SYS_USERFAULTFD, os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "userfaultfd(2) failed")
        fcntl.ioctl(self._fd, _API, bytearray(struct.pack("=QQQ", 0xAA, _FEATURES, 0)))
        request = struct.pack("=QQQQ", self._address, self._length, _MISSING, 0)
        fcntl.ioctl(self._fd, _REGISTER, bytearray(request))

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let whoever still waits for a page have zeros."""
        os.close(self._fd)

    def write_to(self, fd: int) -> int:
        """Write all of it to the beginning of a file, in one write(2), which waits for it."""
        return int(_LIBC.pwrite(fd, self._address, self._length, 0))

    def list_of(self, fd: int) -> int:
        """Have it filled with the list of a directory, in one getdents64(2), which waits for it."""
        address = ctypes.c_void_p(self._address)
        return int(_LIBC.syscall(_SYS_GETDENTS64, fd, address, self._length))

    def wanted(self) -> int:
        """Wait until somebody wants a page, and return its number."""
        return int((_MESSAGE.unpack(os.read(self._fd, 32))[2] - self._address) // mmap.PAGESIZE)

    def give(self, page: int, content: bytes) -> None:
        """Let a page be there."""
        with mmap.mmap(-1, mmap.PAGESIZE) as source:
            source[:] = content
            target = self._address + page * mmap.PAGESIZE
            request = struct.pack("=QQQQq", target, _address(source), mmap.PAGESIZE, 0, 0)
            fcntl.ioctl(self._fd, _COPY, bytearray(request))


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
