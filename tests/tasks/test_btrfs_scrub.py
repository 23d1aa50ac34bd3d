# SPDX-License-Identifier: MIT
"""btrfs's own checksums: what is bad is found, named and mended, without Duet."""

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from blocks import PAGE, SIZE, corrupt, evict, make, places
from places import Mounted

from pyduet.maintenance import Frame, Ledger, Options, Progress, Trouble, Use
from pyduet.maintenance.btrfs.trees import Btrfs, Profile
from pyduet.maintenance.tasks.btrfs_scrub import BtrfsScrub

pytestmark = [pytest.mark.fs("btrfs"), pytest.mark.root]

CALM = Options(duet=Use.NEVER, give_way=False)


@pytest.fixture
def files(tree: Path) -> list[Path]:
    return make(tree)


def run(task: BtrfsScrub, tree: Path) -> Progress:
    with Ledger(":memory:", task.kind, str(tree)) as ledger:
        return Frame(task, str(tree), ledger, CALM).run()


def test_it_knows_the_checksums_of_all(files: list[Path]) -> None:
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


@pytest.mark.parametrize("cached", [False, True])
def test_a_bad_block_is_named(files: list[Path], tree: Path, cached: bool) -> None:
    """Also under a page that is cached, and good there."""
    if cached:
        files[3].read_bytes()
    corrupt(files[3], 41)
    if not cached:
        evict(files[3])
    progress = run(BtrfsScrub(), tree)
    [problem] = progress.problems
    assert (problem.path, problem.trouble) == ("file03", Trouble.CORRUPT)
    [where] = places(files[3], 41)
    assert f"block at byte {41 * PAGE:,} " in problem.words
    assert f"at {where.physical})" in problem.words
    assert "restore the file from a backup" in problem.words


@pytest.mark.parametrize("cached", [False, True])
def test_holes_cost_nothing(files: list[Path], tree: Path, cached: bool) -> None:
    """A block at the end of the longest file there can be, and many far from each other."""
    block = os.urandom(PAGE)
    far, scattered = tree / "far", tree / "scattered"
    for path, offsets in (
        (far, [(1 << 63) - 2 * PAGE]),
        (scattered, range(0, 1 << 40, 1 << 29)),
    ):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        for offset in offsets:
            os.pwrite(fd, block, offset)
        os.close(fd)
    os.sync()
    if not cached:
        evict(far, scattered)
    begin = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    progress = run(BtrfsScrub(), tree)
    # With a bit for each page, holes as well, it was minutes, or no memory.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - begin < 20
    assert progress.problems == []
    assert progress.report["data"] == (len(files) * SIZE + 1 + 2048) * PAGE
    assert progress.report["unchecked"] == 0


def test_compressed_files(tree: Path) -> None:
    """Whose data on the disk are others, and are verified as a whole."""
    subprocess.run(["chattr", "+c", str(tree)], check=True)
    paths = [tree / name for name in ("one", "two", "three")]
    for path in paths:
        path.write_bytes(b"a line that is there often\n" * 20000)
    os.sync()
    evict(*paths)
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


def test_blocks_without_checksums_are_counted(tree: Path) -> None:
    path = tree / "plain"
    path.touch()
    subprocess.run(["chattr", "+C", str(path)], check=True)
    path.write_bytes(os.urandom(SIZE * PAGE))
    evict(path)
    path.read_bytes()  # what is cached is compared with the device, if it has a checksum
    progress = run(BtrfsScrub(), tree)
    assert progress.problems == []
    assert progress.report["unchecked"] == SIZE * PAGE


@contextlib.contextmanager
def mirrored(place: Path, profile: str, count: int) -> Iterator[Path]:
    """A btrfs on so many devices, which are files."""
    mount = place / "mirrored"
    mount.mkdir()
    loops: list[str] = []
    try:
        for number in range(count):
            image = place / f"device{number}"
            with image.open("wb") as file:
                file.truncate(256 << 20)
            losetup = ["losetup", "--find", "--show", image]
            found = subprocess.run(losetup, check=True, stdout=subprocess.PIPE, text=True)
            loops.append(found.stdout.strip())
        subprocess.run(["mkfs.btrfs", "-q", "-d", profile, "-m", profile, *loops], check=True)
        subprocess.run(["mount", "-t", "btrfs", loops[0], mount], check=True)
    finally:
        # Those that are mounted go with the mount.
        for loop in loops:
            subprocess.run(["losetup", "--detach", loop], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize(
    ("profile", "count"), [("raid1", 2), ("raid1c3", 3), ("raid10", 4), ("raid0", 2), ("dup", 1)]
)
def test_every_copy_is_verified(tmp_path: Path, profile: str, count: int) -> None:
    """The bad copy is found though the cache has the good one, and mended from it."""
    with mirrored(tmp_path, profile, count) as mount:
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
        evict(*files)
        assert run(BtrfsScrub(), mount).problems == []
        assert files[2].read_bytes() == content


def test_bad_metadata_are_found(files: list[Path], mounted: Mounted, tree: Path) -> None:
    """One of the two copies of a block of a tree."""
    fd = os.open(mounted.path, os.O_RDONLY)
    fs = Btrfs(fd)
    chunk = next(
        one for one in fs.chunks() if one.profile & Profile.METADATA and len(one.places) > 1
    )
    os.close(fd)
    assert mounted.device
    disk = os.open(mounted.device, os.O_RDWR)
    # Where there is something: a header with the file system's number, which all blocks have.
    uuid = subprocess.run(
        ["blkid", "-s", "UUID", "-o", "value", mounted.device],
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
        problems = run(BtrfsScrub(), tree).problems
        assert [(one.path, one.trouble) for one in problems] == [("", Trouble.CORRUPT)]
        assert "metadata" in problems[0].words
        [mended] = run(BtrfsScrub(repair=True), tree).problems
        assert " 0 that cannot be mended" in mended.words
        assert run(BtrfsScrub(), tree).problems == []
    finally:
        os.close(disk)
