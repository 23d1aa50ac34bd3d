# SPDX-License-Identifier: MIT
"""A file system of its own, of the kind of /mnt/duet, that a test mounts and unmounts."""

import ctypes
import errno
import os
import subprocess
from pathlib import Path

from conftest import MOUNT, file_system_type, mount_of
from truth import LIBC

#: As small as mkfs makes them, MiB; the image is sparse.
SIZE = {"ext4": 32, "xfs": 300, "btrfs": 128}


class Disk:
    """A file system of its own in a file."""

    def __init__(self, place: Path) -> None:
        """Format and mount it, with a directory `tree` in it."""
        self.image, self.where = place / "image", place / "disk"
        kind = file_system_type(MOUNT)
        with self.image.open("wb") as file:
            file.truncate(SIZE[kind] << 20)
        subprocess.run(
            [f"mkfs.{kind}", "-q", "-F" if kind == "ext4" else "-f", self.image], check=True
        )
        subprocess.run(["modprobe", "loop"], check=True)
        self.where.mkdir()
        self.mount()
        self.tree = self.where / "tree"
        self.tree.mkdir()

    def mount(self) -> None:
        """Mount it (again)."""
        subprocess.run(["mount", "-o", "loop", self.image, self.where], check=True)

    def unmount(self, *options: str) -> None:
        """Unmount it; fails if something keeps it busy."""
        subprocess.run(["umount", *options, self.where], check=True)

    def is_free(self) -> bool:
        """Return whether the superblock is really gone: its loop device is."""
        return str(self.image) not in subprocess.check_output(["losetup", "-a"], text=True)

    def is_left_by_unmount(self) -> bool:
        """Unmount it, and return whether its device is nobody's at that very moment."""
        device = mount_of(self.where)[0]
        if LIBC.umount2(os.fsencode(self.where), 0):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), self.where)
        try:
            os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True
