# SPDX-License-Identifier: MIT
"""mount(2) and umount2(2), and some of its flags, of linux/mount.h."""

import ctypes
import os
from pathlib import Path

MS_REC, MS_PRIVATE, MS_BIND = 0x4000, 1 << 18, 0x1000
MNT_DETACH = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


def mount(
    source: str, target: Path, kind: str = "", flags: int = 0, data: str | None = None
) -> None:
    """Mount as mount(2) does."""
    arguments = [os.fsencode(source), os.fsencode(target), kind.encode()]
    if _LIBC.mount(*arguments, ctypes.c_ulong(flags), data and data.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def unmount(target: Path, flags: int = 0) -> None:
    """Unmount as umount2(2) does."""
    if _LIBC.umount2(os.fsencode(target), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))
