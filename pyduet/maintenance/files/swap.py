# SPDX-License-Identifier: MIT
"""Which files the kernel swaps to: it writes them past all times, and nobody may move them."""

import contextlib
import os

from pyduet.maintenance.files.mounts import plain


def swap_files() -> set[tuple[int, int]]:
    """Return device and inode number of each file that the kernel swaps to (proc(5))."""
    found = set()
    with contextlib.suppress(OSError), open("/proc/swaps", "rb") as swaps:
        for line in swaps.readlines()[1:]:
            name, kind, *_ = line.split()
            if kind == b"file":
                with contextlib.suppress(OSError):
                    status = os.stat(plain(os.fsdecode(name)))
                    found.add((status.st_dev, status.st_ino))
    return found
