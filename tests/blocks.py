# SPDX-License-Identifier: MIT
"""Files of btrfs whose blocks go bad on the device, below the file system."""

import os
from pathlib import Path

from pyduet.maintenance.btrfs.trees import Btrfs, Place

PAGE = os.sysconf("SC_PAGESIZE")
#: Pages of a file.
SIZE = 64


def make(tree: Path, count: int = 10) -> list[Path]:
    """Files of 64 pages, of which nothing is cached."""
    found = []
    for number in range(count):
        path = tree / f"file{number:02}"
        path.write_bytes(os.urandom(SIZE * PAGE))
        found.append(path)
    os.sync()
    evict(*found)
    return found


def evict(*paths: Path) -> None:
    """Have nothing of files in memory."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def places(path: Path, page: int) -> list[Place]:
    """Return where the copies of a page lie."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fs = Btrfs(fd)
        for extent in fs.extents(fd, os.fstat(fd).st_ino):
            if extent.offset <= page * PAGE < extent.offset + extent.length:
                skip = 0 if extent.compressed else page * PAGE - extent.offset
                return fs.chunk(extent.logical).at(extent.logical + skip)[0]
        raise LookupError(path)
    finally:
        os.close(fd)


def devices(path: Path) -> dict[int, str]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return Btrfs(fd).devices
    finally:
        os.close(fd)


def corrupt(path: Path, page: int, copy: int = 0) -> None:
    """Turn a bit of a copy of a page, below the file system."""
    one = places(path, page)[copy]
    fd = os.open(devices(path)[one.device], os.O_RDWR)
    byte = os.pread(fd, 1, one.physical + 77)
    os.pwrite(fd, bytes([byte[0] ^ 1]), one.physical + 77)
    os.fsync(fd)
    os.close(fd)
