# SPDX-License-Identifier: MIT
"""Where a file lies on its device, asked by FIEMAP: no data are read."""

import enum
import errno
import fcntl
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import ioctl_opt

# struct fiemap and struct fiemap_extent of linux/fiemap.h.
_HEADER = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQQQIIII")
_FS_IOC_FIEMAP: int = ioctl_opt.IOC(
    ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, ord("f"), 11, _HEADER.size
)
_FLAG_SYNC = 1
_END = (1 << 64) - 1
#: Extents asked for in a call.
_COUNT = 128


class Flag(enum.IntFlag):
    """What is said of an extent, as far as it matters here (FIEMAP_EXTENT_*)."""

    LAST = 0x1
    UNKNOWN = 0x2
    DELALLOC = 0x4
    ENCODED = 0x8
    INLINE = 0x200
    UNWRITTEN = 0x800


#: Those whose place on the device is not told, or is not the data's own.
NO_PLACE = Flag.UNKNOWN | Flag.DELALLOC | Flag.INLINE


class Extent(NamedTuple):
    """Consecutive bytes of a file that lie consecutively on the device."""

    logical: int
    physical: int
    length: int
    flags: Flag


def extents(fd: int, *, start: int = 0, sync: bool = False) -> Iterator[Extent]:
    """Yield the extents of an open file, in the order of the file.

    What has not been written to the device yet has no place there, and is
    flagged so; nothing is written back for the question, unless it is asked for.

    Args:
        fd: of the file.
        start: byte of the file; the first extent is the one that has it, or the next.
        sync: whether to write the file back first.

    Raises:
        OSError: the file system cannot tell.

    """
    while True:
        found, last = _ask(fd, start, _COUNT, _FLAG_SYNC if sync else 0)
        yield from found
        if last or not found:
            return
        start = found[-1].logical + found[-1].length


def shared(
    one: Iterable[Extent], other: Iterable[Extent], *, encoded: bool = False
) -> Iterator[range]:
    """Yield which bytes two files have at the same places of the device, in order.

    Args:
        one: the extents of a file, in order.
        other: those of another.
        encoded: whether to take in what is compressed or the like. Its place does
            not tell which part of an extent it is: something else has to.

    """
    ones, others = iter(one), iter(other)
    left, right = next(ones, None), next(others, None)
    while left is not None and right is not None:
        start = max(left.logical, right.logical)
        end = min(left.logical + left.length, right.logical + right.length)
        if start < end and _same(left, right, encoded):
            yield range(start, end)
        if left.logical + left.length == end:
            left = next(ones, None)
        if right.logical + right.length == end:
            right = next(others, None)


def _same(left: Extent, right: Extent, encoded: bool) -> bool:
    if (left.flags | right.flags) & NO_PLACE:
        return False
    if (left.flags ^ right.flags) & (Flag.ENCODED | Flag.UNWRITTEN):
        return False
    if left.flags & Flag.ENCODED:
        return encoded and left[:3] == right[:3]
    return left.physical - left.logical == right.physical - right.logical


def first_place(fd: int) -> int | None:
    """Return where on the device a file begins, in bytes; None when it is nowhere, or not told."""
    try:
        found, _ = _ask(fd, 0, 1)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
            return None
        raise
    return found[0].physical if found and not found[0].flags & NO_PLACE else None


def _ask(fd: int, start: int, count: int, flags: int = 0) -> tuple[list[Extent], bool]:
    """Return some extents from a byte of the file on, and whether the last one is among them."""
    buffer = bytearray(_HEADER.size + count * _EXTENT.size)
    _HEADER.pack_into(buffer, 0, start, _END - start, flags, 0, count, 0)
    fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
    mapped = _HEADER.unpack_from(buffer)[3]
    found = []
    for number in range(mapped):
        logical, physical, length, _, _, what, *_ = _EXTENT.unpack_from(
            buffer, _HEADER.size + number * _EXTENT.size
        )
        found.append(Extent(logical, physical, length, Flag(what)))
    return found, bool(found and found[-1].flags & Flag.LAST)
