# SPDX-License-Identifier: MIT
"""The segments of an f2fs, and which of them is cleaned next."""

import os
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

#: Bytes of a block, which is a page, and blocks of a segment.
BLOCK, SEGMENT = 4096, 512
#: Blocks that are valid in a segment, from which on little room is gained for much writing.
MOST_VALID = SEGMENT * 3 // 4

# struct f2fs_super_block of linux/f2fs_fs.h, 1024 bytes from the device's begin.
_SUPERBLOCK_AT, _MAGIC = 1024, 0xF2F52010
_SUPERBLOCK = struct.Struct("<I12x3I64xI")


class Segment(NamedTuple):
    """What f2fs tells of a segment: the log it belongs to (0 to 2 data), and its valid blocks."""

    kind: int
    valid: int


class Victim(NamedTuple):
    """A segment to be cleaned: its number, its valid blocks, and how many of those are cached."""

    segment: int
    valid: int
    cached: int

    @property
    def reads(self) -> int:
        """Blocks that cleaning it has to read."""
        return self.valid - self.cached


def superblock_of(device: str) -> bytes:
    """Return the first bytes of a device's superblock; less if it is shorter.

    Raises:
        OSError: it cannot be read.

    """
    with open(device, "rb") as file:
        return os.pread(file.fileno(), _SUPERBLOCK.size, _SUPERBLOCK_AT)


def main_area(superblock: bytes) -> int:
    """Return the block where the first segment begins.

    Args:
        superblock: the first bytes of f2fs's.

    Raises:
        ValueError: it is none, or of a layout that is not known here.

    """
    if len(superblock) < _SUPERBLOCK.size:
        raise ValueError("there is no f2fs on its device")
    magic, log_block, log_segment, per_section, main = _SUPERBLOCK.unpack_from(superblock)
    if magic != _MAGIC:
        raise ValueError("there is no f2fs on its device")
    if (1 << log_block, 1 << log_segment) != (BLOCK, SEGMENT):
        raise ValueError(f"its segments are not of {SEGMENT} blocks of {BLOCK} bytes")
    if per_section != 1:
        raise ValueError(f"its sections have {per_section} segments, which are cleaned together")
    return int(main)


def segments_of(text: str) -> list[Segment]:
    """Return the segments of the main area, as ``/proc/fs/f2fs/*/segment_info`` lists them.

    Raises:
        ValueError: it is of another form.

    """
    format_, kinds, *lines = text.splitlines()
    if format_ != "format: segment_type|valid_blocks" or "2:CD" not in kinds:
        raise ValueError("segment_info is of a form that is not known here")
    found = []
    for line in lines:
        # Ten in a line, after the number of the first.
        for word in line.split()[1:]:
            kind, _, valid = word.partition("|")
            found.append(Segment(int(kind), int(valid)))
    return found


def choose(
    segments: Sequence[Segment],
    cached: Mapping[int, int],
    most_valid: int = MOST_VALID,
    but: Collection[int] = (),
    *,
    count_writes: bool = False,
) -> Victim | None:
    """Return the segment that is cleaned with the fewest reads, then with the fewest writes.

    Args:
        segments: all of the main area.
        cached: blocks in memory, by the number of the segment.
        most_valid: segments with more valid blocks are left.
        but: segments that are left, too.
        count_writes: rather the one with the fewest reads and writes together.

    """
    return min(
        (
            # An old place of what was written since may still be counted.
            Victim(number, one.valid, min(one.valid, cached.get(number, 0)))
            for number, one in enumerate(segments)
            if 0 < one.valid <= most_valid and number not in but
        ),
        # All that is valid is written elsewhere.
        key=lambda victim: (
            victim.reads + victim.valid * count_writes,
            victim.valid,
            victim.segment,
        ),
        default=None,
    )
