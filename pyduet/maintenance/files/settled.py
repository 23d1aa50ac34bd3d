# SPDX-License-Identifier: MIT
"""Whether a file's times can be believed: that who writes it from now on changes them.

Who remembers a file's size and times takes it, while they stay, for one that nobody has written
since. There are four ways to write a file that leave them as they are:

- *Through a shared mapping, to a page that is dirty.* The kernel sets the times when a page becomes
  writable, and it stays so until it is written back: 30 seconds and more. So the file is written
  back first, which write-protects its pages: sync_file_range(2), which of a clean file takes a
  microsecond, and neither commits a journal nor flushes the disk as fdatasync(2) would.
- *Within the same tick.* The kernel's clock of files stands still for up to 10 ms, on some file
  systems for a second or two. So times are not believed before they are older than that.
- *By a write(2) that still goes on.* The times are set when it begins, and its data may come for
  seconds after that. So what holds the inode's lock is waited for: lseek(2) for data takes it on
  ext4, btrfs and f2fs; on XFS each read does.
- *Through a mapping, by a page fault that still goes on*, which has set the times and waits for the
  disk. It leaves a dirty page, so when a file was read it is asked for those (cachestat(2), where
  the kernel has it and tells).

Two kinds of writers nobody sees: those that write past the page cache (O_DIRECT) and do not wait,
when the disk takes longer than a tick, and those through mappings of a tmpfs, which never writes
back.
"""

import contextlib
import ctypes
import errno
import os
import time
from typing import NamedTuple

from pyduet.files import page_counts
from pyduet.maintenance.files.statx import Status, status_of
from pyduet.maintenance.work import UnstableError, stamp_of

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
#: SYNC_FILE_RANGE_WRITE_AND_WAIT of linux/fs.h: all three flags, with which the kernel (from 5.2
#: on) leaves no page out.
_WRITE_AND_WAIT = 7
#: OVERLAYFS_SUPER_MAGIC of linux/magic.h, and the bytes of struct statfs, whose first member it is.
_OVERLAY, _STATFS = 0x794C7630, 120

#: Nanoseconds after which a change has another time than the one before: the kernel's clock of
#: files moves on with each timer interrupt, every 10 ms at the longest.
TICK = 100_000_000
#: The same on a file system that keeps whole seconds (ext4 with small inodes), or even ones (FAT).
_SECONDS = 2_100_000_000


class Settled(NamedTuple):
    """A file as it was when it was looked at.

    Attributes:
        status: of it.
        wait: seconds after which it is to be looked at again before its times can be
            believed; 0 when they can.
        error: why what of it is in memory could not be written to the disk, if so.

    """

    status: Status
    wait: float
    error: OSError | None

    @property
    def is_settled(self) -> bool:
        """Whether from now on no write leaves size and times as they are."""
        return not self.wait and self.error is None


def settle(fd: int) -> Settled:
    """Look at an open file so that its times can be believed, before it is read.

    Waits for the disk, if what was written to the file is not there yet, but for
    no clock: what has to wait is told how long. Whoever has many young files does
    all of them after one such wait.

    Args:
        fd: of a regular file, open for reading.

    Raises:
        OSError: the file's status cannot be asked.

    """
    # A mapping that is written to after this moment, or a write that begins after it, makes the
    # times younger than it.
    begin = time.time_ns()
    error = _write_back(fd)
    with contextlib.suppress(OSError):  # ENXIO: no data; EINVAL: no such question
        os.lseek(fd, 0, os.SEEK_DATA)
    status = status_of(fd)
    return Settled(status, wait_of(status, begin), error)


def recheck(fd: int, before: Status) -> bool:
    """Look at a file after it was read.

    Args:
        fd: of the file.
        before: what :func:`settle` told.

    Returns:
        Whether its times can be believed: it has no dirty pages, as far as the
        kernel tells.

    Raises:
        UnstableError: it was changed meanwhile.
        OSError: the file's status cannot be asked.

    """
    is_clean = not _dirty(fd)
    if stamp_of(status_of(fd)) != stamp_of(before):
        raise UnstableError
    return is_clean


def wait_of(status: Status, now: int) -> float:
    """Return for how many seconds from a moment on a file's times are too young to be believed.

    Args:
        status: of the file.
        now: the moment, in nanoseconds since 1970.

    """
    # The time of change alone: that of modification can be set to anything.
    whole_seconds = not status.st_ctime_ns % 10**9
    age = now - status.st_ctime_ns
    tick = _SECONDS if whole_seconds else TICK
    # What is of a later time will be left alone by a clock that was set back.
    return (tick - age) / 1e9 if -tick < age < tick else 0.0


def _write_back(fd: int) -> OSError | None:
    """Have no page of a file dirty; returns what the kernel says of the attempt, if it failed."""
    if not _is_overlay(fd):
        if not _LIBC.sync_file_range(fd, 0, 0, _WRITE_AND_WAIT):
            return None
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.EPERM):
            return OSError(number, os.strerror(number))
    # An overlay's file has no pages of its own, and its fsync is that of the file which has.
    try:
        os.fdatasync(fd)
    except OSError as error:
        # EINVAL, EROFS: there is nothing that could be written.
        return None if error.errno in (errno.EINVAL, errno.EROFS) else error
    return None


def _is_overlay(fd: int) -> bool:
    buffer = ctypes.create_string_buffer(_STATFS)
    if _LIBC.fstatfs(fd, buffer):
        return False
    return int.from_bytes(buffer.raw[:4], "little") == _OVERLAY


def _dirty(fd: int) -> int:
    """Return how many pages of a file are dirty, or being written; 0 when that is not told."""
    counts = page_counts(fd)
    return 0 if counts is None else counts.dirty + counts.writing
