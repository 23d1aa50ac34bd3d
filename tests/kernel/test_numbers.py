# SPDX-License-Identifier: MIT
"""Inode numbers beyond 32 bits: what a packed key would mix up."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions import read_page
from truth import Watch, drop_caches, fill, identity

from pyduet import FileId, State

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
