# SPDX-License-Identifier: GPL-2.0-only
"""From a uuid to a path, whatever became of inode and dentries."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from truth import Watch, drop_caches, fill

from pyduet import FileId
from pyduet.errors import DuetError

Register = Callable[..., Watch]


def test_path_follows_renames(watch: Register, place: Path) -> None:
    """The path is the one of now, also when a directory above was renamed."""
    (place / "tree/a").mkdir()
    path = fill(place / "tree/a/file", 1)
    one = watch(place / "tree")
    file = one.file_id(path)
    assert one.task.path_of(file) == str(path)
    (place / "tree/a").rename(place / "tree/b")
    assert one.task.path_of(file) == str(place / "tree/b/file")
    (place / "tree").rename(place / "moved")
    assert one.task.path_of(file) == str(place / "moved/b/file")


@pytest.mark.parametrize("what", [2, 3])
def test_path_without_dentry_or_inode(watch: Register, place: Path, what: int) -> None:
    """After the caches were dropped the name is read from its directory again."""
    (place / "tree/a/b").mkdir(parents=True)
    path = fill(place / "tree/a/b/file", 1)
    one = watch(place / "tree")
    one.read()
    file = one.file_id(path)
    drop_caches(what)
    assert one.task.path_of(file) == str(path)
    one.read()
    drop_caches(3)
    assert one.task.path_of(file) == str(path)


def test_no_path_outside_the_tree(watch: Register, place: Path) -> None:
    """What is deleted, has left, or never was inside has no path here."""
    outside, path = fill(place / "out/file", 1), fill(place / "tree/file", 1)
    one = watch(place / "tree")
    for target in (outside, path):
        file = one.file_id(target)
        if target == path:
            path.unlink()
        with pytest.raises(DuetError) as error:
            one.task.path_of(file)
        assert error.value.errno == 2
    with pytest.raises(DuetError):
        one.task.path_of(FileId(2**40, 1, one.task.id))


def test_reused_inode_number_is_not_the_old_file(watch: Register, place: Path) -> None:
    """The generation tells the new file from the old."""
    path = fill(place / "tree/file", 1)
    one = watch(place / "tree")
    ino, generation, task = one.file_id(path)
    with pytest.raises(DuetError) as error:
        one.task.path_of(FileId(ino, generation ^ 1, task))
    assert error.value.errno == 2


def test_path_through_a_bind_mount(watch: Register, place: Path) -> None:
    """A task registered through a bind mount is told paths there."""
    (place / "tree/a").mkdir()
    path = fill(place / "tree/a/file", 1)
    subprocess.run(["mount", "--bind", place / "tree", place / "out"], check=True)
    try:
        one = watch(place / "out/a")
        assert one.task.path_of(one.file_id(path)) == str(place / "out/a/file")
        one.task.close()
    finally:
        subprocess.run(["umount", place / "out"], check=True)


def test_long_and_strange_names(watch: Register, place: Path) -> None:
    """Bytes that are no text, and a path that is almost as long as can be."""
    deep = place / "tree"
    while len(str(deep)) < 3600:
        deep = deep / ("d" * 200)
        deep.mkdir()
    odd = Path(os.fsdecode(os.fsencode(deep) + b"/\xff\n\x01" + b"x" * 100))
    path = fill(odd, 1)
    one = watch(place / "tree")
    assert one.task.path_of(one.file_id(path)) == str(path)


def test_callers_do_not_share_a_buffer(watch: Register, place: Path) -> None:
    """Pitfall: one path buffer shared by concurrent callers."""
    one = watch(place / "tree")
    files = {}
    for i in range(4):
        path = fill(place / f"tree/{str(i) * 60}", 1)
        files[one.file_id(path)] = str(path)
    wrong: list[str] = []

    def ask(file: FileId, path: str) -> None:
        wrong.extend(told for _ in range(400) if (told := one.task.path_of(file)) != path)

    threads = [threading.Thread(target=ask, args=item) for item in files.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_cost_does_not_grow_with_cached_inodes(watch: Register, place: Path) -> None:
    """Pitfall: get_path scanned every inode of the superblock."""
    path = fill(place / "tree/file", 1)
    one = watch(place / "tree")
    file = one.file_id(path)

    def cost() -> float:
        start = time.perf_counter()
        one.task.path_of(file)
        return time.perf_counter() - start

    # The fastest of many: what else the machine does, it does not do all the time.
    few = min(cost() for _ in range(1000))
    for i in range(8000):
        (place / f"out/{i}").touch()
    many = min(cost() for _ in range(1000))
    assert many < 3 * few
