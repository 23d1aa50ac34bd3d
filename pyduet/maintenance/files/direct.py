# SPDX-License-Identifier: MIT
"""Reading a file from its device, past the page cache (``O_DIRECT``), and knowing that it was."""

import errno
import mmap
import os
import threading
from typing import Self

#: Bytes that offsets, lengths and memory are multiples of: of any device's blocks.
_ALIGN = 64 << 10
#: What proc(5) says this thread has read from devices.
_OWN_READS = "/proc/thread-self/io"


class Direct:
    """An open file, read past the page cache; a context manager that closes it.

    A file system may take ``O_DIRECT`` and read from memory all the same: btrfs
    what is compressed or small, ext4 what it encrypts or journals. So what counts
    as read from the device is what the kernel has counted as such for this thread.

    Attributes:
        read: bytes that came from the device, as far as the kernel tells.

    Thread-safety: none.
    """

    def __init__(self, fd: int) -> None:
        """Open it once more: the very same file.

        Args:
            fd: of a regular file; stays the caller's.

        Raises:
            OSError: the file system does not take ``O_DIRECT``.

        """
        self.read = 0
        flags = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC
        own = f"/proc/self/fd/{fd}"
        try:
            self._fd = os.open(own, flags | os.O_NOATIME)
        except PermissionError:
            self._fd = os.open(own, flags)
        try:
            self._counters = os.open(_OWN_READS, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._counters = -1  # a kernel that counts nothing
        self._thread = threading.get_ident()
        self._buffer = mmap.mmap(-1, _ALIGN)

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._fd)
        if self._counters >= 0:
            os.close(self._counters)
        self._buffer.close()

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Read as :func:`os.pread` does.

        Args:
            fd: of the same file, to be read in the ordinary way where this one is not.
            length: bytes to read.
            offset: of the first.

        """
        begin = offset // _ALIGN * _ALIGN
        end = -(-(offset + length) // _ALIGN) * _ALIGN
        if len(self._buffer) < end - begin:
            self._buffer.close()
            self._buffer = mmap.mmap(-1, end - begin)
            # Pages that are not there yet make btrfs read from memory.
            self._buffer.write(bytes(end - begin))
        before = self._from_devices()
        try:
            with memoryview(self._buffer) as view, view[: end - begin] as part:
                number = os.preadv(self._fd, [part], begin)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return os.pread(fd, length, offset)  # it does not take this after all
        data = self._buffer[offset - begin : min(number, offset - begin + length)]
        self.read += min(self._from_devices() - before, len(data))
        return data

    def _from_devices(self) -> int:
        """Return the bytes that this thread has read from devices so far; 0 if that is not told."""
        if self._counters < 0 or threading.get_ident() != self._thread:
            return 0
        for line in os.pread(self._counters, 1024, 0).splitlines():
            name, _, value = line.partition(b":")
            if name == b"read_bytes":
                return int(value)
        return 0
