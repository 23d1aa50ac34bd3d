# SPDX-License-Identifier: GPL-2.0-only
"""Defrag: joins the extents of files that have too many, those in memory first."""

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ioctl_opt

from pyduet.maintenance.extents import Flag, extents
from pyduet.maintenance.inventory import Found
from pyduet.maintenance.ledger import Ledger, Record
from pyduet.maintenance.mounts import mount_of
from pyduet.maintenance.reading import Reading
from pyduet.maintenance.task import Maintenance
from pyduet.maintenance.work import UnstableError

#: BTRFS_IOC_DEFRAG_RANGE and struct btrfs_ioctl_defrag_range_args of linux/btrfs.h.
_BTRFS_RANGE = struct.Struct("=QQQII4I")
_BTRFS_DEFRAG: int = ioctl_opt.IOC(ioctl_opt.IOC_WRITE, 0x94, 16, _BTRFS_RANGE.size)
_BTRFS_START_IO = 2
#: EXT4_IOC_MOVE_EXT and struct move_extent of fs/ext4/ext4.h.
_MOVE = struct.Struct("=IIQQQQ")
_EXT4_MOVE: int = ioctl_opt.IOC(ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, ord("f"), 15, _MOVE.size)

#: Bytes that an extent has on average, from which on joining them gains nothing.
_GOOD = 8 << 20


class Defrag(Maintenance):
    """Joins extents, by btrfs's own call or by ext4's exchange with a fresh file.

    Both read through the page cache, so what is in memory is not read again.
    """

    kind = "defrag"
    after_others = True

    def begin(self, root: str, ledger: Ledger, found: Sequence[Found]) -> None:
        """Find out what the file system is.

        Raises:
            OSError: none whose files can be defragmented.

        """
        del found
        self._root = root
        self._ledger = ledger
        mount = mount_of(root)
        kind = mount.kind if mount else "an unknown file system"
        known: dict[str, Callable[[int, int], None]] = {"btrfs": _btrfs, "ext4": self._ext4}
        if kind not in known:
            raise OSError(errno.EOPNOTSUPP, f"no defragmentation of {kind}: btrfs and ext4", root)
        self._join = known[kind]
        #: Extents of the files that were processed, before and after.
        self.before = self.after = 0

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Join the extents of a file, if it has too many."""
        del before
        found = _count(reading.fd)
        if not _worth(found, reading.stamp.size):
            return [found, found]
        for _ in reading.pieces():  # into memory, at the rate that is allowed
            pass
        path = os.path.join(self._root, reading.work.path)
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_ino != reading.stamp.ino:
                raise UnstableError
            self._join(fd, reading.stamp.size)
            os.fsync(fd)
            now = _count(fd)
        finally:
            os.close(fd)
        self.before += found
        self.after += now
        return [found, now]

    def report(self) -> Mapping[str, int]:
        """Return the extents of the files that were processed, before and after."""
        return {"extents_before": self.before, "extents_after": self.after}

    def _ext4(self, fd: int, size: int) -> None:
        """Exchange a file's blocks with those of a fresh one that lie together."""
        donor = os.open(self._root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(donor, 0, size)
            block = os.fstat(fd).st_blksize
            end = -(-size // block)
            if _count(donor) >= _count(fd):
                return  # there is no better place
            moved = 0
            while moved < end:
                request = bytearray(_MOVE.pack(0, donor, moved, moved, end - moved, 0))
                fcntl.ioctl(fd, _EXT4_MOVE, request)
                step = _MOVE.unpack(request)[5]
                if not step:
                    return
                moved += step
        finally:
            os.close(donor)


def _btrfs(fd: int, size: int) -> None:
    request = _BTRFS_RANGE.pack(0, size, _BTRFS_START_IO, _GOOD, 0, 0, 0, 0, 0)
    fcntl.ioctl(fd, _BTRFS_DEFRAG, request)


def _count(fd: int) -> int:
    """Return how many extents of a file do not follow each other on the device."""
    number, end = 0, -1
    for extent in extents(fd):
        if extent.flags & Flag.INLINE:
            continue
        if extent.physical != end:
            number += 1
        end = extent.physical + extent.length
    return number


def _worth(number: int, size: int) -> bool:
    return number > max(1, size // _GOOD + 1)
