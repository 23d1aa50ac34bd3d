# SPDX-License-Identifier: MIT
"""Small file systems of each kind, in mounts that nobody else sees and that go with the process."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from mounts import MNT_DETACH, MS_BIND, MS_PRIVATE, MS_REC, mount, unmount
from ordinary import become, unshare

TOP = Path(__file__).parents[2]
#: How each kind of file system is made: small, fast, and with all that its inodes can keep.
MKFS = {
    "ext4": ["mkfs.ext4", "-q", "-I", "256", "-E", "lazy_itable_init=1,lazy_journal_init=1"],
    "xfs": ["mkfs.xfs", "-q", "-m", "bigtime=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
#: Bytes of an image. mkfs.xfs takes none that is much smaller.
SIZE = 512 << 20
#: What this process needs of the machine's files: itself, its Python, and what that imports.
_NEEDED = TOP, Path(sys.base_prefix), Path(sys.prefix), Path(tempfile.gettempdir())
#: Directories one of which the images may hide.
_FREE = "/mnt", "/media", "/srv"
#: The ordinary user that tests turn into; no name is known of that number.
USER = 4001

CLONE_NEWNS = 0x20000


class Mounted(NamedTuple):
    """A place on a file system that a test may fill.

    Attributes:
        kind: of the file system, as mount(8) calls it.
        path: an empty directory: the top of the file system, where it is the test's own.
        device: the loop device; None for who is not root.
        image: the file below that.

    """

    kind: str
    path: Path
    device: str | None = None
    image: Path | None = None

    def unmount(self) -> None:
        """Unmount; the loop device goes with it, the image stays."""
        subprocess.run(["umount", self.path], check=True)

    def mount(self, *options: str) -> "Mounted":
        """Mount again what was unmounted, on another loop device perhaps."""
        assert self.image
        return _mount(self.kind, self.path, self.image, options)


def private() -> Path:
    """Move this process to mounts of its own, which vanish with it; return where images may be.

    When this process and its children have ended, in whatever way, nothing is mounted any more,
    no loop device is busy, and no image is left: they are in memory.
    """
    if not Path("/dev/loop-control").exists():
        subprocess.run(["modprobe", "loop"], check=True)
    unshare(CLONE_NEWNS)
    mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    # A directory that is there and that nothing here is in.
    needed = [path.resolve() for path in _NEEDED]
    place = next(
        path for path in map(Path, _FREE) if not any(path in one.parents for one in needed)
    )
    mount("none", place, "tmpfs", data="mode=755,size=8g")
    return place


def new(
    place: Path, kind: str, name: str, *options: str, size: int = SIZE, mkfs: tuple[str, ...] = ()
) -> Mounted:
    """Make a file system, and mount it.

    Args:
        place: where the image and the mount point go.
        kind: of :data:`MKFS`.
        name: of both.
        options: of mount(8).
        size: bytes of the image.
        mkfs: further options of mkfs.

    """
    image = place / f"{name}.{kind}"
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([*MKFS[kind], *mkfs, image], check=True, stdout=subprocess.DEVNULL)
    path = place / name
    path.mkdir()
    mounted = _mount(kind, path, image, options)
    if (path / "lost+found").exists():
        (path / "lost+found").rmdir()
    return mounted


def remove(mounted: Mounted) -> None:
    """Make away with a file system, and all that a test has left mounted on it."""
    assert mounted.image
    # What is mounted below goes with it, whatever has become of the names that it was mounted on.
    while mounted.path.is_mount():
        unmount(mounted.path, MNT_DETACH)
    mounted.path.rmdir()
    mounted.image.unlink()


def turn_into_user(place: Path) -> None:
    """Turn this process into an ordinary user's for good; it can run this Python all the same."""
    for needed in _NEEDED:
        _make_reachable(needed.resolve(), place)
    home = place / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    os.environ.update(HOME=str(home), USER="duet", LOGNAME="duet", TMPDIR=str(home))
    tempfile.tempdir = None
    become(USER, ())


def _mount(kind: str, path: Path, image: Path, options: tuple[str, ...]) -> Mounted:
    joined = ",".join(("loop", *options))
    subprocess.run(["mount", "-t", kind, "-o", joined, image, path], check=True)
    source = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", "--mountpoint", path],
        check=True, capture_output=True, text=True,
    ).stdout.split()[0]  # fmt: skip
    return Mounted(kind, path, source.split("[")[0], image)


def _make_reachable(path: Path, place: Path) -> None:
    """Let everybody walk to a directory, in the mounts of this process alone."""
    for above in reversed(path.parents):
        if not above.stat().st_mode & stat.S_IXOTH:
            beside = Path(tempfile.mkdtemp(dir=place))
            mount(str(path), beside, flags=MS_BIND | MS_REC)
            mount("none", above, "tmpfs", data="mode=755")
            path.mkdir(parents=True)
            mount(str(beside), path, flags=MS_BIND | MS_REC)
            return
