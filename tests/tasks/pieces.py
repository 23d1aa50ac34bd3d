# SPDX-License-Identifier: MIT
"""Files that lie in many pieces on their device, and how many those are."""

import fcntl
import os
import struct
from pathlib import Path

from pyduet.maintenance.defrag.layout import parts

#: Bytes of a piece.
PIECE = 16 << 10
#: FICLONERANGE of linux/fs.h.
_CLONE = 0x4020940D
_RANGE = struct.Struct("=qQQQ")
#: EXT4_IOC_MOVE_EXT of fs/ext4/ext4.h, and struct move_extent.
_MOVE = 0xC028660F
_EXTENT = struct.Struct("=IIQQQQ")


def write_in_pieces(kind: str, paths: list[Path], count: int) -> None:
    """Make two files of random data in so many pieces each."""
    if kind == "xfs":
        # Cloned back to front.
        for path in paths:
            source = path.with_name(path.name + ".source")
            source.write_bytes(os.urandom(count * PIECE))
            with source.open("rb") as origin, path.open("wb") as file:
                os.fsync(origin.fileno())
                file.truncate(count * PIECE)
                for number in range(count):
                    start = (count - 1 - number) * PIECE
                    fcntl.ioctl(
                        file, _CLONE, _RANGE.pack(origin.fileno(), start, PIECE, number * PIECE)
                    )
            source.unlink()
        return
    fds = [os.open(path, os.O_CREAT | os.O_RDWR, 0o644) for path in paths]
    for fd in fds:
        os.pwrite(fd, os.urandom(count * PIECE), 0)
        os.fsync(fd)
    if kind == "btrfs":
        # What is written over goes elsewhere.
        for fd in fds:
            for number in range(0, count, 2):
                os.pwrite(fd, os.urandom(PIECE), number * PIECE)
            os.fsync(fd)
    if kind == "ext4":
        block = os.fstat(fds[0]).st_blksize
        for at in range(0, count * PIECE // block, 2 * PIECE // block):
            request = bytearray(_EXTENT.pack(0, fds[1], at, at, PIECE // block, 0))
            fcntl.ioctl(fds[0], _MOVE, request)
        for fd in fds:
            # What the second one has got is the first one's.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.pwrite(fd, os.urandom(count * PIECE), 0)
    for fd in fds:
        os.close(fd)


def pieces(path: Path) -> int:
    """Return in how many pieces a file lies on its device."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return sum(part.pieces for part in parts(file.fileno(), 0, os.fstat(file.fileno()).st_size))
