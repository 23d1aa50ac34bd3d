# SPDX-License-Identifier: MIT
"""The guest's disk: an image made on the host, where mkfs is quick."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .host import cache_dir, output_of, program

FILE_SYSTEMS = ("ext4", "xfs", "btrfs", "f2fs", "tmpfs")

# What makes each file system: program, its package, options.
_MKFS = {
    "ext4": ("mke2fs", "e2fsprogs", ("-q", "-F", "-t", "ext4")),
    "xfs": ("mkfs.xfs", "xfsprogs", ("-q", "-f")),
    "btrfs": ("mkfs.btrfs", "btrfs-progs", ("-q", "-f")),
    "f2fs": ("mkfs.f2fs", "f2fs-tools", ("-q", "-f")),
}
# mkfs refuses smaller ones, or is pointless on them.
SMALLEST_MIB = {"ext4": 8, "xfs": 300, "btrfs": 128, "f2fs": 64, "tmpfs": 1}


def mkfs_command(fs: str, fill: Path | None = None) -> list[str]:
    """The command that makes a file system, up to the device's name."""
    name, package, options = _MKFS[fs]
    filling = ["-d", str(fill)] if fill is not None else []
    return [program(name, package), *options, *filling]


@contextlib.contextmanager
def disk_image(fs: str, size_mib: int, fill: Path | None) -> Iterator[int]:
    """A sparse image with the file system on it, as a descriptor of a file without a name."""
    directory = cache_dir() / "tmp"
    directory.mkdir(exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix="disk-", dir=directory)
    try:
        try:
            os.truncate(name, size_mib << 20)
            output_of([*mkfs_command(fs, fill), name], f"making the {fs} disk of {size_mib} MiB")
        finally:
            os.unlink(name)
        yield descriptor
    finally:
        os.close(descriptor)
