# SPDX-License-Identifier: MIT
"""In how many pieces a file lies on its device, and which parts of it are worth joining."""

from collections.abc import Iterator
from typing import NamedTuple

from pyduet.maintenance.files.extents import NO_PLACE, Extent, Flag, extents

#: Bytes of a part at most, which all that needs room is done by: what a block group of ext4 has,
#: and the most that one of its extents can have.
PART = 128 << 20
#: Bytes that an extent has on average, from which on joining them gains nothing.
GOOD = 8 << 20


class Part(NamedTuple):
    """Consecutive bytes of a file without a hole, :data:`PART` of them at most."""

    start: int
    stop: int
    #: Pieces that do not follow each other on the device.
    pieces: int

    @property
    def size(self) -> int:
        """Bytes of it."""
        return self.stop - self.start

    @property
    def is_good(self) -> bool:
        """Whether it lies as well as is worth while."""
        return self.pieces <= 1 + self.size // GOOD


def parts(fd: int, start: int, stop: int) -> Iterator[Part]:
    """Yield the parts of an open file that have a place on its device, in order.

    Args:
        fd: of the file.
        start: byte of the file to begin at.
        stop: byte to end before.

    Raises:
        OSError: the file system cannot tell.

    """
    open_: Part | None = None
    end = -1  # on the device, of what came last
    for extent in _bounded(fd, start, stop):
        at = extent.logical
        while at < extent.logical + extent.length:
            upto = min(extent.logical + extent.length, (at // PART + 1) * PART)
            if open_ is not None and (open_.stop != at or at % PART == 0):
                yield open_
                open_ = None
            place = extent.physical + at - extent.logical
            if open_ is None:
                open_ = Part(at, upto, 1)
            else:
                open_ = Part(open_.start, upto, open_.pieces + (place != end))
            end = place + upto - at
            at = upto
    if open_ is not None:
        yield open_


def is_encoded(fd: int) -> bool:
    """Return whether any of an open file is compressed, or the like.

    Raises:
        OSError: the file system cannot tell.

    """
    return any(extent.flags & Flag.ENCODED for extent in extents(fd))


def _bounded(fd: int, start: int, stop: int) -> Iterator[Extent]:
    """Yield the extents of a range, cut to it; none that has no place of its own."""
    for extent in extents(fd, start=start):
        if extent.logical >= stop:
            return
        if extent.flags & NO_PLACE:
            continue
        skip = max(0, start - extent.logical)
        length = min(extent.logical + extent.length, stop) - extent.logical - skip
        if length > 0:
            yield Extent(extent.logical + skip, extent.physical + skip, length, extent.flags)
