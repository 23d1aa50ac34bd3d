# SPDX-License-Identifier: MIT
"""Subvolumes of btrfs with all that a send stream has to keep, and what is made of the streams.

Truth: the snapshot itself, as stat, read and listxattr tell it.
"""

import fcntl
import os
import stat
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

from pyduet.maintenance.btrfs.sendstream import Attr, Cmd, Command, read

PAGE = os.sysconf("SC_PAGESIZE")
#: struct vfs_cap_data of linux/capability.h, version 2: CAP_NET_RAW, permitted and effective.
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
#: FICLONERANGE of linux/fs.h, and struct file_clone_range.
_CLONE, _RANGE = 0x4020940D, struct.Struct("=qQQQ")


def subvolume(*arguments: object) -> None:
    """Make, copy or delete a subvolume."""
    subprocess.run(
        ["btrfs", "-q", "subvolume", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL
    )


def fill(live: Path) -> None:
    """Fill a subvolume with all that a stream has to keep."""
    for number in range(30):
        (live / f"file{number:02}").write_bytes(os.urandom(64 * PAGE))
    (live / "deep/er").mkdir(parents=True)
    (live / "void").mkdir(mode=0o700)
    for number in range(20):
        (live / f"deep/small{number}").write_bytes(os.urandom(50 * number))
    (live / "deep/odd").write_bytes(os.urandom(5 * PAGE + 123))
    (live / os.fsdecode(b"deep/er/no\xffutf8")).write_text("x")
    with (live / "sparse").open("wb") as file:
        file.truncate(64 * PAGE)
        file.seek(30 * PAGE)
        file.write(b"in the middle")
    (live / "ahead").write_bytes(b"z" * 3 * PAGE)
    with (live / "ahead").open("r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 32 * PAGE)
    subprocess.run(["cp", "--reflink=always", live / "file03", live / "deep/er/copy"], check=True)
    (live / "deep/part").write_bytes(os.urandom(16 * PAGE))
    share(live / "file04", live / "deep/part", 8, at=4)
    (live / "hard").hardlink_to(live / "file05")
    (live / "soft").symlink_to("file06")
    os.mkfifo(live / "pipe")
    os.setxattr(live / "file07", "user.note", b"kept\0\xff")
    os.setxattr(live / "deep", "user.note", b"too")
    (live / "file08").chmod(0o6755)
    os.chown(live / "file09", 1, 2)
    os.setxattr(live / "file09", "security.capability", CAPABILITY)
    (live / "squeezed").touch()
    subprocess.run(
        ["btrfs", "property", "set", live / "squeezed", "compression", "zstd"], check=True
    )
    (live / "squeezed").write_bytes(b"".join(bytes([n % 250]) * 1000 for n in range(1000)))
    (live / "in-place").touch()
    subprocess.run(["chattr", "+C", live / "in-place"], check=True)
    (live / "in-place").write_bytes(os.urandom(16 * PAGE))
    for number, path in enumerate([*sorted(live.rglob("*"), reverse=True), live]):
        moment = time.time_ns() - 86400 * 10**9 - number * 1_234_567_891
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
    os.sync()


def share(source: Path, target: Path, pages: int, *, at: int = 0) -> None:
    """Have the first pages of a file share their blocks with some of another."""
    with source.open("rb") as origin, target.open("r+b") as file:
        os.fsync(origin.fileno())
        fcntl.ioctl(file, _CLONE, _RANGE.pack(origin.fileno(), 0, pages * PAGE, at * PAGE))


def delete(place: Path) -> None:
    """Delete all subvolumes in a directory, and what was received in one in it."""
    for path in [*place.glob("received/*"), *place.glob("s[0-9]"), *place.glob("live")]:
        subvolume("delete", path)


def listing(tree: Path) -> dict[str, tuple[Any, ...]]:
    """What is to be the same in the snapshot and in what is received."""
    found: dict[str, tuple[Any, ...]] = {}
    links: dict[int, str] = {}
    for path in sorted([tree, *tree.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(tree))
        plain = stat.S_ISREG(status.st_mode)
        found[name] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_rdev,
            status.st_mtime_ns, status.st_size if plain else 0,
            links.setdefault(status.st_ino, name),
            path.read_bytes() if plain else None,
            os.readlink(path) if path.is_symlink() else None,
            {
                one: os.getxattr(path, one, follow_symlinks=False)
                for one in os.listxattr(path, follow_symlinks=False)
            },
        )  # fmt: skip
    return found


def received(place: Path, stream: Path) -> Path:
    """Have a stream received beside what it is of."""
    (place / "received").mkdir(exist_ok=True)
    subprocess.run(
        ["btrfs", "-q", "receive", "-f", stream, place / "received"], check=True, timeout=300
    )
    with stream.open("rb") as file:
        name = next(read(file))[0][Attr.PATH]
    return place / "received" / os.fsdecode(name)


def commands(stream: Path) -> list[Command]:
    with stream.open("rb") as file:
        return [command for command, _ in read(file)]


def written(stream: Path) -> dict[str, int]:
    """Return of which files data are in a stream, in its order, and how many bytes."""
    found: dict[str, int] = {}
    for command in commands(stream):
        if command.number == Cmd.WRITE:
            path = os.fsdecode(command[Attr.PATH])
            found[path] = found.get(path, 0) + len(command[Attr.DATA])
    return found
