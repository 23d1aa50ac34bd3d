# SPDX-License-Identifier: MIT
"""btrfs's own checksums: what is read from the disk, what is believed, and what is found."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from actions import evict, read_page, sync_file
from conftest import MOUNT, mount_of
from truth import drop_caches

from pyduet import Device, cached_pages
from pyduet.maintenance import Frame, Ledger, Options, Progress, Trouble, Use
from pyduet.maintenance.btrfs.trees import Btrfs, Place, Profile
from pyduet.maintenance.tasks.btrfs_scrub import BtrfsScrub

pytestmark = pytest.mark.fs("btrfs")

PAGE = os.sysconf("SC_PAGESIZE")
CALM = Options(duet=Use.REQUIRED, give_way=False)
SIZE = 64


def make(tree: Path, count: int = 10) -> list[Path]:
    """Files of 64 pages, of which nothing is cached."""
    found = []
    for number in range(count):
        path = tree / f"file{number:02}"
        path.write_bytes(os.urandom(SIZE * PAGE))
        sync_file(path)
        evict(path)
        found.append(path)
    os.sync()
    drop_caches()
    return found


@pytest.fixture
def files(place: Path) -> list[Path]:
    return make(place / "tree")


def run(task: BtrfsScrub, tree: Path) -> Progress:
    with Ledger(":memory:", task.kind, str(tree)) as ledger:
        return Frame(task, str(tree), ledger, CALM).run()


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


def test_it_knows_the_checksums_of_all(device: Device, place: Path, files: list[Path]) -> None:
    """Each block has one in the checksum tree, and it is that of what the device has."""
    fd = os.open(files[4], os.O_RDONLY)
    fs = Btrfs(fd)
    seen = 0
    for extent in fs.extents(fd, os.fstat(fd).st_ino):
        sums = fs.checksums(extent.logical, extent.size)
        assert len(sums) == extent.size // fs.block
        for logical, right in sums.items():
            offset = extent.offset + logical - extent.logical
            assert fs.checksum(os.pread(fd, fs.block, offset)) == right
            seen += 1
    os.close(fd)
    assert seen == SIZE


class Reads(BtrfsScrub):
    """Has somebody do something when the pass has begun, before the first file."""

    def __init__(self, *actions: object, repair: bool = False) -> None:
        super().__init__(repair=repair)
        self.actions = actions

    def begin(self, *arguments: object) -> None:
        super().begin(*arguments)  # type: ignore[arg-type]
        for action in self.actions:
            action()  # type: ignore[operator]


def test_what_others_read_is_not_read_again(device: Device, place: Path, files: list[Path]) -> None:
    """Since the pass began: what was cached before that is read, and so is what was written."""
    files[2].read_bytes()  # before: nobody knows what became of it on the disk

    def meanwhile() -> None:
        files[5].read_bytes()
        for page in (3, 4, 9):
            read_page(files[7], page)
        evict(files[5])  # it was read and verified all the same
        with open(files[8], "r+b") as file:
            file.write(os.urandom(2 * PAGE))
        sync_file(files[8])

    before = cached_pages(files[7])
    task = Reads(meanwhile)
    progress = run(task, place / "tree")
    assert progress.problems == []
    report = progress.report
    assert before == set()
    assert report["data"] == 10 * SIZE * PAGE
    # Reading ahead may have brought more of file 7.
    own = report["from_cache"] - SIZE * PAGE
    assert own >= 3 * PAGE
    assert report["from_device"] == (SIZE + 2) * PAGE
    assert report["unchecked"] == 0
    assert report["metadata"] > 0
    # What it brought in itself is gone, what was there is not.
    assert cached_pages(files[2]) == set(range(SIZE))
    assert not cached_pages(files[0])


@pytest.mark.parametrize("cached", [False, True])
def test_a_bad_block_is_named(device: Device, place: Path, files: list[Path], cached: bool) -> None:
    """Also under a page that is cached, and good there."""
    if cached:
        files[3].read_bytes()
    corrupt(files[3], 41)
    if not cached:
        drop_caches()
    progress = run(BtrfsScrub(), place / "tree")
    [problem] = progress.problems
    assert (problem.path, problem.trouble) == ("file03", Trouble.CORRUPT)
    [where] = places(files[3], 41)
    assert f"block at byte {41 * PAGE:,} " in problem.words
    assert f"at {where.physical})" in problem.words
    assert "restore the file from a backup" in problem.words


def test_a_failed_read_is_no_verification(device: Device, place: Path, files: list[Path]) -> None:
    """Somebody's read fails, and the page goes: it was told as added, and is not believed."""

    def meanwhile() -> None:
        with pytest.raises(OSError, match="Input/output"):
            files[6].read_bytes()
        evict(files[6])
        drop_caches()

    corrupt(files[6], 20)
    drop_caches()
    progress = run(Reads(meanwhile), place / "tree")
    assert [(one.path, one.trouble) for one in progress.problems] == [("file06", Trouble.CORRUPT)]


def test_compressed_files(device: Device, place: Path) -> None:
    """Whose data on the disk are others, and are verified as a whole."""
    tree = place / "tree"
    subprocess.run(["chattr", "+c", str(tree)], check=True)
    paths = [tree / name for name in ("one", "two", "three")]
    for path in paths:
        path.write_bytes(b"a line that is there often\n" * 20000)
        sync_file(path)
        evict(path)
    os.sync()
    drop_caches()
    fd = os.open(paths[0], os.O_RDONLY)
    [*extents] = Btrfs(fd).extents(fd, os.fstat(fd).st_ino)
    os.close(fd)
    assert all(extent.compressed and extent.size < extent.length for extent in extents)
    paths[1].read_bytes()
    corrupt(paths[1], 0)
    corrupt(paths[2], 0)
    # Only of the second one the good pages are still cached.
    progress = run(BtrfsScrub(), tree)
    assert {one.path: one.trouble for one in progress.problems} == {
        "two": Trouble.CORRUPT, "three": Trouble.CORRUPT,
    }  # fmt: skip


def test_blocks_without_checksums_are_counted(device: Device, place: Path) -> None:
    tree = place / "tree"
    path = tree / "plain"
    path.touch()
    subprocess.run(["chattr", "+C", str(path)], check=True)
    path.write_bytes(os.urandom(SIZE * PAGE))
    sync_file(path)
    path.read_bytes()  # what is cached is compared with the device, if it has a checksum
    progress = run(BtrfsScrub(), tree)
    assert progress.problems == []
    assert progress.report["unchecked"] == SIZE * PAGE


@contextlib.contextmanager
def mirrored(place: Path, profile: str, count: int) -> Iterator[Path]:
    """A btrfs on so many devices, which are files."""
    loops: list[str] = []
    mount = place / "mirrored"
    mount.mkdir()
    subprocess.run(["modprobe", "loop"], check=True)
    try:
        for number in range(count):
            image = place / f"device{number}"
            with open(image, "wb") as file:
                file.truncate(256 << 20)
            found = subprocess.run(
                ["losetup", "--find", "--show", image],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            loops.append(found.stdout.strip())
        subprocess.run(["mkfs.btrfs", "-q", "-d", profile, "-m", profile, *loops], check=True)
        subprocess.run(["mount", loops[0], mount], check=True)
        try:
            yield mount
        finally:
            subprocess.run(["umount", mount], check=True)
    finally:
        for loop in loops:
            subprocess.run(["losetup", "--detach", loop], check=True)


@pytest.mark.parametrize(
    ("profile", "count"), [("raid1", 2), ("raid1c3", 3), ("raid10", 4), ("raid0", 2), ("dup", 1)]
)
def test_every_copy_is_verified(device: Device, place: Path, profile: str, count: int) -> None:
    """The bad copy is found though the cache has the good one, and mended from it."""
    with mirrored(place, profile, count) as mount:
        files = make(mount, 6)
        copies = len(places(files[2], 33))
        assert copies == {"raid1": 2, "raid1c3": 3, "raid10": 2, "raid0": 1, "dup": 2}[profile]
        progress = run(BtrfsScrub(), mount)
        assert progress.problems == []
        through = 6 * SIZE * PAGE
        assert progress.report["from_device"] == (copies * through if copies > 1 else 0)
        content = files[2].read_bytes()
        corrupt(files[2], 33, copies - 1)
        [problem] = run(BtrfsScrub(), mount).problems
        assert (problem.path, problem.trouble) == ("file02", Trouble.CORRUPT)
        assert f"at {places(files[2], 33)[-1].physical})" in problem.words
        if copies == 1:
            assert "restore the file" in problem.words
            return
        assert "--repair" in problem.words
        task = BtrfsScrub(repair=True)
        [problem] = run(task, mount).problems
        assert "mended 1 blocks" in problem.words
        drop_caches()
        assert run(BtrfsScrub(), mount).problems == []
        assert files[2].read_bytes() == content


def test_bad_metadata_are_found(device: Device, place: Path, files: list[Path]) -> None:
    """One of the two copies of a block of a tree."""
    fd = os.open(MOUNT, os.O_RDONLY)
    fs = Btrfs(fd)
    chunk = next(
        one for one in fs.chunks() if one.profile & Profile.METADATA and len(one.places) > 1
    )
    os.close(fd)
    disk = os.open(mount_of()[0], os.O_RDWR)
    # Where there is something: a header with the file system's number, which all blocks have.
    uuid = subprocess.run(
        ["blkid", "-s", "UUID", "-o", "value", mount_of()[0]],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout.strip().replace("-", "")  # fmt: skip
    start = chunk.places[1].physical
    used = [
        start + offset
        for offset in range(0, min(chunk.length, 32 << 20), 16384)
        if os.pread(disk, 48, start + offset)[32:48] == bytes.fromhex(uuid)
    ]
    before = {at: os.pread(disk, 16384, at) for at in used}
    for at in used:
        os.pwrite(disk, before[at][:1000] + b"x" * 8, at)
    os.fsync(disk)
    try:
        problems = run(BtrfsScrub(), place / "tree").problems
        assert [(one.path, one.trouble) for one in problems] == [("", Trouble.CORRUPT)]
        assert "metadata" in problems[0].words
        [mended] = run(BtrfsScrub(repair=True), place / "tree").problems
        assert " 0 that cannot be mended" in mended.words
        assert run(BtrfsScrub(), place / "tree").problems == []
    finally:
        os.close(disk)
