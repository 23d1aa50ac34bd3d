# SPDX-License-Identifier: MIT
"""XFS: all extents of a file are exchanged with those of a copy of it (XFS_IOC_SWAPEXT).

The kernel compares the file's times with those from before it was copied (xfs_swap_extents() in
fs/xfs/xfs_bmap_util.c), and refuses when it was written meanwhile. What the file shares with others
by reflink, it shares no longer afterwards; what was cached of it is dropped.
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence

import ioctl_opt

from pyduet.maintenance.defrag.donor import allocate, donor, room
from pyduet.maintenance.defrag.layout import Part, parts
from pyduet.maintenance.defrag.left import Left, LeftError
from pyduet.maintenance.files.extents import Flag, extents
from pyduet.maintenance.files.inode_flags import (
    EXTENT_SIZE,
    REALTIME,
    Extended,
    extended_of,
    set_extended,
)
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.statx import Status, status_of
from pyduet.maintenance.work import UnstableError, stamp_of

#: XFS_IOC_SWAPEXT and struct xfs_swapext of fs/xfs/libxfs/xfs_fs.h: version 0, the file, the
#: donor, offset and length; of the struct xfs_bstat at its end the kernel looks at the times
#: of modification and change only.
_SWAP = struct.Struct("=5q16x56xqi4xqi4x48x")
_EXCHANGE: int = ioctl_opt.IOC(ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, ord("X"), 109, _SWAP.size)
#: FIDEDUPERANGE of linux/fs.h, and struct file_dedupe_range with one of its infos.
_DEDUPE_RANGE = struct.Struct("=QQHHIqQQiI")
_DEDUPE: int = ioctl_opt.IOC(ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, 0x94, 54, 24)
_NO_WAITING = (errno.EOPNOTSUPP, errno.EINVAL)
#: An attribute that leaves less room for extents in a donor's inode, and how long it is, one try
#: after the other. What has more extents than fit into its inode, and would fit into the donor's,
#: is not exchanged (xfs_swap_extents_check_format()).
_PADDING, _PADDINGS = "user.duet", (0, 130)
#: Bytes that are copied before it is looked whether there is room for others.
_LOOK = 64 << 20


def probe(directory: int) -> None:
    """Try whether writes can be waited for, with files that have no name; as that of ext4.

    Raises:
        OSError: they cannot be made; with EOPNOTSUPP: this XFS cannot do it.

    """
    with donor(directory) as one:
        _write(one, bytes(os.fstatvfs(one).f_frsize), 0)
        try:
            _wait_for_direct_writes(one, directory)
        except OSError as error:
            if error.errno not in _NO_WAITING:
                raise
            raise OSError(
                errno.EOPNOTSUPP,
                "this XFS has no reflink, and so no way to wait for writes past the page cache "
                "that are under way: exchanging extents, as xfs_fsr does, might lose them",
            ) from error


def join(reading: Reading, fd: int, directory: int, bad: Sequence[Part]) -> None:
    """Join the pieces of a file.

    Args:
        reading: the file, open for reading.
        fd: the same, open for writing.
        directory: the file's.
        bad: the parts that lie badly.

    Raises:
        UnstableError: the file changed meanwhile, or its times cannot be believed.
        LeftError: it was left as it lies.
        BadFileError: there is no room for a copy of it.
        OSError: it cannot be read, or exchanged.

    """
    del bad
    # A write that comes now might leave the times as they are, by which the kernel knows of it. The
    # frame has waited for that, as long as it waits for all such files.
    if not reading.settled:
        raise UnstableError
    try:
        _wait_for_direct_writes(fd, directory)
    except OSError as error:
        if error.errno not in _NO_WAITING:
            raise
        raise LeftError(Left.UNSUPPORTED) from error
    for padding in _PADDINGS:
        if _exchange(reading, fd, directory, padding):
            return
    raise LeftError(Left.UNSUPPORTED)


def _exchange(reading: Reading, fd: int, directory: int, padding: int) -> bool:
    """Exchange a file with a copy of it; returns False when the forms of the two do not fit."""
    status = reading.status
    length = status.st_size
    with donor(directory) as copy:
        _make_alike(copy, fd, status)
        if padding:
            os.setxattr(copy, _PADDING, bytes(padding))
        os.ftruncate(copy, length)
        for start, stop in _stretches(fd, length):
            allocate(copy, start, stop)
        if _pieces(copy, length) >= _pieces(fd, length):
            raise LeftError(Left.NO_BETTER_PLACE)
        _copy(reading, copy, length)
        os.fsync(copy)
        request = _SWAP.pack(
            0, fd, copy, 0, length,
            *divmod(status.st_mtime_ns, 10**9), *divmod(status.st_ctime_ns, 10**9),
        )  # fmt: skip
        try:
            fcntl.ioctl(fd, _EXCHANGE, request)
        except OSError as error:
            # EFAULT: the length is another. It looks at the form of the extents (EINVAL), which a
            # write may change, before it looks at the times (EBUSY).
            changed = error.errno in (errno.EBUSY, errno.EFAULT)
            if changed or (
                error.errno == errno.EINVAL and stamp_of(status_of(fd)) != reading.stamp
            ):
                raise UnstableError from error
            if error.errno != errno.EINVAL:
                raise
            return False
    return True


def _wait_for_direct_writes(fd: int, directory: int) -> None:
    """Wait for writes past the page cache that were begun before: the exchange does not.

    They have changed the file's times when they began. Whoever asks whether a
    block is that of another file is made to wait for them
    (generic_remap_file_range_prep() in fs/remap_range.c); it is not, so nothing
    comes of the question.

    Raises:
        OSError: with EOPNOTSUPP or EINVAL: such a file cannot be waited for.

    """
    block = os.fstatvfs(fd).f_frsize
    with donor(directory) as other:
        first = os.pread(fd, 1, 0) or b"\0"
        _write(other, bytes([first[0] ^ 0xFF]) * block, 0)
        request = _DEDUPE_RANGE.pack(0, block, 1, 0, 0, other, 0, 0, 0, 0)
        status = _DEDUPE_RANGE.unpack(fcntl.ioctl(fd, _DEDUPE, request))[8]
        if status < 0:
            raise OSError(-status, os.strerror(-status))


def _make_alike(copy: int, fd: int, status: Status) -> None:
    """Give a donor what the kernel wants to be the same: owner and project, device, attributes.

    Owner and project only where quotas are kept. Extended attributes take their
    room from where an inode has its first extents: with other ones a donor
    would have its extents in a form that the file cannot take.
    """
    with contextlib.suppress(PermissionError):
        os.fchown(copy, status.st_uid, status.st_gid)
    wanted, has = extended_of(fd), extended_of(copy)
    kept = REALTIME | EXTENT_SIZE
    if (wanted.flags & kept, wanted.project) != (has.flags & kept, has.project):
        flags = has.flags & ~kept | wanted.flags & kept
        with contextlib.suppress(PermissionError):
            set_extended(
                copy,
                Extended(flags, wanted.extent_size, 0, wanted.project, has.cow_extent_size),
            )
    for name in os.listxattr(fd):
        with contextlib.suppress(OSError):
            os.setxattr(copy, name, os.getxattr(fd, name))


def _copy(reading: Reading, copy: int, length: int) -> None:
    """Copy what was written of a file; what was allocated only, and holes, stay what they are.

    Raises:
        UnstableError: it is shorter by now.
        BadFileError: others have taken the room.

    """
    looked = 0
    for extent in extents(reading.fd):
        stop = min(extent.logical + extent.length, length)
        if extent.flags & Flag.UNWRITTEN or extent.logical >= stop:
            continue
        at = extent.logical
        for piece in reading.part(at, stop - at):
            _write(copy, piece, at)
            at += len(piece)
            looked += len(piece)
            if looked >= _LOOK:
                looked = 0
                room(copy, 0)
        if at < stop:
            raise UnstableError


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _stretches(fd: int, length: int) -> Iterator[tuple[int, int]]:
    """Yield from where to where a file has extents without a hole, up to its length."""
    open_: tuple[int, int] | None = None
    for extent in extents(fd):
        start, stop = extent.logical, min(extent.logical + extent.length, length)
        if start >= stop:
            break  # allocated beyond the end
        if open_ is not None and open_[1] == start:
            open_ = open_[0], stop
            continue
        if open_ is not None:
            yield open_
        open_ = start, stop
    if open_ is not None:
        yield open_


def _pieces(fd: int, length: int) -> int:
    return sum(part.pieces for part in parts(fd, 0, length))
