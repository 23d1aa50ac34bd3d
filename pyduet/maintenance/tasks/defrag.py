# SPDX-License-Identifier: MIT
"""Defrag: joins the extents of files that have too many, those in memory first."""

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ioctl_opt

from pyduet.maintenance.files.extents import Extent, Flag, extents
from pyduet.maintenance.files.mounts import mount_of
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.frame.work import UnstableError

#: BTRFS_IOC_DEFRAG_RANGE and struct btrfs_ioctl_defrag_range_args of linux/btrfs.h.
_BTRFS_RANGE = struct.Struct("=QQQII4I")
_BTRFS_DEFRAG: int = ioctl_opt.IOC(ioctl_opt.IOC_WRITE, 0x94, 16, _BTRFS_RANGE.size)
_BTRFS_START_IO = 2
#: EXT4_IOC_MOVE_EXT and struct move_extent of fs/ext4/ext4.h.
_MOVE = struct.Struct("=IIQQQQ")
_EXT4_MOVE: int = ioctl_opt.IOC(ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, ord("f"), 15, _MOVE.size)

#: XFS_IOC_SWAPEXT and struct xfs_swapext of fs/xfs/libxfs/xfs_fs.h: version 0, the file, the
#: donor, offset and length; of the struct xfs_bstat at its end the kernel looks at the times
#: of modification and change only (xfs_swap_extents() in fs/xfs/xfs_bmap_util.c).
_SWAP = struct.Struct("=5q16x56xqi4xqi4x48x")
_XFS_SWAP: int = ioctl_opt.IOC(ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, ord("X"), 109, _SWAP.size)
#: Nanoseconds since the last change of a file, from which on another one has another time: the
#: kernel's clock of files moves on with each timer interrupt, every 10 ms at the longest.
_TICK = 100_000_000
#: Bytes that are copied at a time.
_PIECE = 1 << 20

#: Bytes that an extent has on average, from which on joining them gains nothing.
_GOOD = 8 << 20


class Defrag(Maintenance):
    """Joins extents, by btrfs's own call or by ext4's or XFS's exchange with a fresh file.

    All read through the page cache, so what is in memory is not read again. XFS
    drops from it all of a file whose extents it exchanges: what was cached of
    it before has to be read again by who wants it.
    """

    kind = "defrag"
    after_others = True

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Find out what the file system is.

        Raises:
            OSError: none whose files can be defragmented.

        """
        del found
        self._root = root = tree.path
        self._ledger = ledger
        mount = mount_of(root)
        kind = mount.kind if mount else "an unknown file system"
        known: dict[str, Callable[[int, int], None]] = {
            "btrfs": _btrfs,
            "ext4": self._ext4,
            "xfs": self._xfs,
        }
        if kind not in known:
            raise OSError(
                errno.EOPNOTSUPP, f"no defragmentation of {kind}: btrfs, ext4 and XFS", root
            )
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
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(path, flags | os.O_NOATIME)
        except PermissionError:
            fd = os.open(path, flags)
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
        with self._donor() as donor:
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

    def _xfs(self, fd: int, size: int) -> None:
        """Exchange a file's extents with those of a copy that lie together.

        The kernel refuses when the file was changed since its times were looked
        at, which is before it is copied. What it shares with other files by
        reflink, it shares no longer afterwards.

        Raises:
            UnstableError: the file changed meanwhile.

        """
        # From here on a write through a mapping changes the times, too: the page is clean.
        os.fsync(fd)
        status = os.fstat(fd)
        if abs(time.time_ns() - status.st_ctime_ns) < _TICK:
            # A write that comes now might leave the times as they are.
            time.sleep(2 * _TICK / 1e9)
            status = os.fstat(fd)
            if abs(time.time_ns() - status.st_ctime_ns) < _TICK:
                raise UnstableError
        if status.st_size != size:
            raise UnstableError
        with self._donor() as donor:
            with contextlib.suppress(PermissionError):
                # Where quotas are enforced, the owners have to be the same.
                os.fchown(donor, status.st_uid, status.st_gid)
            os.ftruncate(donor, size)
            lies = list(extents(fd))
            for begin, end in _stretches(lies, size):
                os.posix_fallocate(donor, begin, end - begin)
            if _count(donor) >= _count(fd):
                return  # there is no better place
            for extent in lies:
                # What was allocated and never written stays so.
                if not extent.flags & Flag.UNWRITTEN:
                    _copy(fd, donor, extent.logical, min(extent.logical + extent.length, size))
            os.fsync(donor)
            request = _SWAP.pack(
                0, fd, donor, 0, size,
                *divmod(status.st_mtime_ns, 10**9), *divmod(status.st_ctime_ns, 10**9),
            )  # fmt: skip
            try:
                fcntl.ioctl(fd, _XFS_SWAP, request)
            except OSError as error:
                # EFAULT: the length is another.
                if error.errno in (errno.EBUSY, errno.EFAULT):
                    raise UnstableError from error
                raise

    @contextlib.contextmanager
    def _donor(self) -> Iterator[int]:
        """Yield a fresh file without a name; what of it is in memory goes with it."""
        fd = os.open(self._root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)


def _btrfs(fd: int, size: int) -> None:
    request = _BTRFS_RANGE.pack(0, size, _BTRFS_START_IO, _GOOD, 0, 0, 0, 0, 0)
    fcntl.ioctl(fd, _BTRFS_DEFRAG, request)


def _stretches(lies: Sequence[Extent], size: int) -> list[tuple[int, int]]:
    """Return from where to where a file has data without a hole, up to its size."""
    found: list[tuple[int, int]] = []
    for extent in lies:
        begin, end = extent.logical, min(extent.logical + extent.length, size)
        if begin >= end:
            continue  # allocated beyond the end
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def _copy(source: int, target: int, begin: int, end: int) -> None:
    """Copy bytes between open files.

    Raises:
        UnstableError: the source is shorter by now.

    """
    while begin < end:
        piece = os.pread(source, min(_PIECE, end - begin), begin)
        if not piece:
            raise UnstableError
        if os.pwrite(target, piece, begin) != len(piece):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        begin += len(piece)


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
