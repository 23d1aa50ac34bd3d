# SPDX-License-Identifier: MIT
"""Inode numbers: beyond 32 bits, made up, or of a file system that was there before."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions import read_page
from disk import Disk
from truth import TRACEFS, Watch, drop_caches, fill, identity

from pyduet import Device, FileId, Mask, State
from pyduet.errors import PathNotFoundError

Register = Callable[..., Watch]


def test_marks_of_large_numbers(watch: Register, place: Path) -> None:
    """Pitfall: generation << 32 | inode number collides for 64-bit inode numbers."""
    path = fill(place / "tree/file", 1)
    one = watch(place / "tree")
    ino, generation = identity(path)
    for number, other in (
        (ino | 1 << 32, generation),
        (ino | 1 << 63, generation),
        (ino | generation << 32, 0),
        (ino, generation + 1 & 0xFFFFFFFF),
    ):
        one.task.mark_done(FileId(number, other))
        assert not one.task.is_done(FileId(ino, generation))
    assert one.news(path) == {0: State.ADDED}


@pytest.fixture
def vast(place: Path) -> Iterator[Path]:
    """Return the root of a file system of many terabytes, in a sparse file."""
    image, where = place / "image", place / "vast"
    with image.open("wb") as file:
        file.truncate(6 << 40)
    options = ["-q", "-f", "-K", "-l", "size=64m", "-d", "agcount=8"]
    subprocess.run(["mkfs.xfs", *options, image], check=True)
    subprocess.run(["modprobe", "loop"], check=True)
    where.mkdir()
    subprocess.run(["mount", "-o", "loop", image, where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


@pytest.mark.fs("xfs")
def test_files_with_large_numbers(watch: Register, vast: Path) -> None:
    """Pitfall: the same with files: each directory of XFS goes to another part of the disk."""
    one = watch(vast)
    paths = []
    for i in range(8):
        (vast / f"d{i}").mkdir()
        paths.append(fill(vast / f"d{i}/file", 4))
    numbers = [path.stat().st_ino for path in paths]
    assert any(number >> 32 for number in numbers)
    assert len({number & 0xFFFFFFFF for number in numbers}) < len(numbers), "no two are alike"
    one.read()
    drop_caches()
    one.read()
    for i, path in enumerate(paths):
        read_page(path, i % 4)
        assert one.news(path) == {i % 4: State.ADDED}
        assert one.task.path_of(identity(path), max_age=0) == str(path)
        one.task.mark_done(identity(path))
        assert [one.task.is_done(identity(each)) for each in paths] == [
            j <= i for j in range(len(paths))
        ]


@pytest.fixture
def asked() -> Iterator[Callable[[], set[int]]]:
    """Return a function for the numbers that ext4 made an inode of since it was last asked."""
    instance, probes = TRACEFS / "instances/duet_numbers", TRACEFS / "kprobe_events"
    instance.mkdir()
    probes.write_text("p:duet_test/iget __ext4_iget ino=%si:u64\n")
    enable = instance / "events/duet_test/iget/enable"
    enable.write_text("1")

    def take() -> set[int]:
        text = (instance / "trace").read_text()
        (instance / "trace").write_text("\n")
        return {int(number) for number in re.findall(r"ino=(\d+)", text)}

    yield take
    enable.write_text("0")
    instance.rmdir()
    probes.write_text("\n")  # all of them go when it is opened


@pytest.mark.fs("ext4")
def test_no_inode_is_read_for_a_made_up_number(
    watch: Register, place: Path, asked: Callable[[], set[int]]
) -> None:
    """Pitfall: who asked for made-up numbers had ext4 read whatever is there, and believe it."""
    paths = [fill(place / f"out/{i}", 1) for i in range(8)]
    files = [identity(path) for path in paths]
    one = watch(place / "tree")
    drop_caches()
    asked()
    for file in files:
        assert one.task.is_done(file)
        with pytest.raises(PathNotFoundError):
            one.task.path_of(file, max_age=0)
        one.task.mark_done(file)
        one.task.unmark(file)
    assert not asked()
    # Who asks for a file by its name has it read.
    for path in paths:
        path.stat()
    assert {file.ino for file in files} <= asked()


@pytest.mark.fs("ext4")
def test_a_file_system_that_is_mounted_anew(
    device: Device, place: Path, asked: Callable[[], set[int]]
) -> None:
    """Pitfall: what was known of one was taken for known of the next one at its address."""
    disk = Disk(place)
    try:
        path, out = fill(disk.tree / "file", 1), disk.where / "out"
        out.mkdir()
        file = identity(path)
        # Where the next one is in memory is chance, and most often where the last one was.
        for _ in range(5):
            with device.register(disk.tree, Mask.EXISTS) as task:
                task.mark_done(file)
                assert task.path_of(file, max_age=0) == str(path)
            disk.unmount()
            disk.mount()
            with device.register(out, Mask.EXISTS) as other:
                asked()
                with pytest.raises(PathNotFoundError):
                    other.path_of(file, max_age=0)
                assert file.ino not in asked()
                path.stat()
                assert file.ino in asked()
    finally:
        disk.unmount()
