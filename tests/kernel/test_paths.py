# SPDX-License-Identifier: MIT
"""From a uuid to a path, whatever became of inode and dentries."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from actions import evict, read_page, write_at
from conftest import eventually
from counted import calls_of
from truth import Watch, drop_caches, fill, identity

from pyduet import FileId, PathNotFoundError
from pyduet.errors import DuetError

Register = Callable[..., Watch]


def test_path_follows_renames(watch: Register, place: Path) -> None:
    """The path is the one of now, also when a directory above was renamed."""
    (place / "tree/a").mkdir()
    path = fill(place / "tree/a/file", 1)
    one = watch(place / "tree")
    file = identity(path)
    assert one.task.path_of(file, max_age=0) == str(path)
    (place / "tree/a").rename(place / "tree/b")
    assert one.task.path_of(file, max_age=0) == str(place / "tree/b/file")
    (place / "tree").rename(place / "moved")
    assert one.task.path_of(file, max_age=0) == str(place / "moved/b/file")


@pytest.mark.parametrize("what", [2, 3])
def test_path_without_dentry_or_inode(watch: Register, place: Path, what: int) -> None:
    """After the caches were dropped the name is read from its directory again."""
    (place / "tree/a/b").mkdir(parents=True)
    path = fill(place / "tree/a/b/file", 1)
    one = watch(place / "tree")
    one.read()
    file = identity(path)
    drop_caches(what)
    assert one.task.path_of(file, max_age=0) == str(path)
    one.read()
    drop_caches(3)
    assert one.task.path_of(file, max_age=0) == str(path)


@pytest.mark.parametrize("others", [False, True])
def test_path_of_a_done_file_follows_renames(watch: Register, place: Path, others: bool) -> None:
    """A done file has no entry, or others', and its last directory is known all the same."""
    for name in "abc":
        (place / "tree" / name).mkdir()
    path = fill(place / "tree/a/file", 1)
    one = watch(place / "tree")
    one.read()
    if others:
        watch(place / "tree")
    file = identity(path)
    one.task.mark_done(file)
    # To b while the inode is in memory, to c when nothing of it is.
    for name in "bc":
        path = path.rename(place / "tree" / name / "file")
        drop_caches()
        assert one.task.path_of(file, max_age=0) == str(path)
        drop_caches()
    assert one.task.is_done(file)
    assert one.read() == []


def test_no_path_outside_the_tree(watch: Register, place: Path) -> None:
    """What is deleted, has left, or never was inside has no path here."""
    outside, path = fill(place / "out/file", 1), fill(place / "tree/file", 1)
    one = watch(place / "tree")
    for target in (outside, path):
        file = identity(target)
        if target == path:
            path.unlink()
        with pytest.raises(DuetError) as error:
            one.task.path_of(file, max_age=0)
        assert error.value.errno == 2
    with pytest.raises(DuetError):
        one.task.path_of(FileId(2**40, 1), max_age=0)


def test_a_removed_name_is_no_path(watch: Register, place: Path) -> None:
    """Also while the file is open by it, and no other name is in memory."""
    (place / "tree/d").mkdir()
    path = fill(place / "tree/file", 1)
    os.link(path, place / "tree/d/name")
    one = watch(place / "tree")
    file = identity(path)
    with path.open("rb"):
        path.unlink()
        one.read()
        drop_caches()
        assert one.task.path_of(file, max_age=0) == str(place / "tree/d/name")
        (place / "tree/d").rename(place / "out/d")
        drop_caches()
        with pytest.raises(PathNotFoundError):
            one.task.path_of(file, max_age=0)


def test_reused_inode_number_is_not_the_old_file(watch: Register, place: Path) -> None:
    """The generation tells the new file from the old."""
    path = fill(place / "tree/file", 1)
    one = watch(place / "tree")
    ino, generation = identity(path)
    with pytest.raises(DuetError) as error:
        one.task.path_of(FileId(ino, generation ^ 1), max_age=0)
    assert error.value.errno == 2


def test_no_path_above_the_mount(watch: Register, place: Path) -> None:
    """Pitfall: what was moved out of a mounted directory showed the directories above that."""
    (place / "tree/a/d").mkdir(parents=True)
    (place / "tree/secret").mkdir()
    path = fill(place / "tree/a/d/file", 1)
    subprocess.run(["mount", "--bind", place / "tree/a", place / "out"], check=True)
    try:
        one = watch(place / "out/d")
        file = identity(path)
        assert one.task.path_of(file, max_age=0) == str(place / "out/d/file")
        (place / "tree/a/d").rename(place / "tree/secret/d")
        with pytest.raises(PathNotFoundError):
            one.task.path_of(file, max_age=0)
        one.task.close()
    finally:
        subprocess.run(["umount", place / "out"], check=True)


def test_path_through_a_bind_mount(watch: Register, place: Path) -> None:
    """A task registered through a bind mount is told paths there."""
    (place / "tree/a").mkdir()
    path = fill(place / "tree/a/file", 1)
    subprocess.run(["mount", "--bind", place / "tree", place / "out"], check=True)
    try:
        one = watch(place / "out/a")
        assert one.task.path_of(identity(path), max_age=0) == str(place / "out/a/file")
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
    assert one.task.path_of(identity(path), max_age=0) == str(path)


def test_callers_do_not_share_a_buffer(watch: Register, place: Path) -> None:
    """Pitfall: one path buffer shared by concurrent callers."""
    one = watch(place / "tree")
    files = {}
    for i in range(4):
        path = fill(place / f"tree/{str(i) * 60}", 1)
        files[identity(path)] = str(path)
    wrong: list[str] = []

    def ask(file: FileId, path: str) -> None:
        wrong.extend(
            told for _ in range(400) if (told := one.task.path_of(file, max_age=0)) != path
        )

    threads = [threading.Thread(target=ask, args=item) for item in files.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _move_names(files: list[tuple[Path, Path]]) -> None:
    """Rename, link, unlink and use files without end, and have their dentries freed."""
    while True:
        for here, there in files:
            extra = there.with_suffix(".extra")
            here.rename(there)
            os.link(there, extra)
            write_at(there, 0)
            read_page(extra, 1)
            extra.rename(here)
            there.unlink()
            evict(here)
        Path("/proc/sys/vm/drop_caches").write_text("2")


def test_names_come_and_go_while_they_are_read(watch: Register, place: Path) -> None:
    """Whatever moves, is linked and dies meanwhile, a path is one that the file has had.

    Pitfall: the alias list was walked without i_lock, and d_alias shares memory with d_rcu.
    Pitfall: d_path() under the page cache's lock took rename_lock and mount_lock.
    What only goes wrong once in a while, the debug kernel sees: KASAN and lockdep.
    """
    for name in "ab":
        (place / "tree" / name).mkdir()
    files = [(place / f"tree/a/{i}", place / f"tree/b/{i}") for i in range(12)]
    for here, _ in files:
        fill(here, 2)
    one = watch(place / "tree")
    named = {identity(here): (here, there) for here, there in files}
    children = []
    for turn in range(2):
        if not (pid := os.fork()):
            with contextlib.suppress(BaseException):
                _move_names(files[turn::2])
            os._exit(1)
        children.append(pid)
    found = 0
    try:
        for _ in range(40):
            for file, (here, there) in named.items():
                one.tally.apply(one.task.read(64))
                # Between two names its directory may have neither.
                with contextlib.suppress(PathNotFoundError):
                    path = one.task.path_of(file, max_age=0)
                    assert path in {str(here), str(there), f"{there}.extra"}
                    found += 1
        assert [os.waitpid(pid, os.WNOHANG) for pid in children] == [(0, 0)] * 2
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert found > 0
    assert one.disagreements(place / "tree") == []
    for where in "ab":
        for path in (place / "tree" / where).iterdir():
            told = one.task.path_of(identity(path), max_age=0)
            assert os.path.samefile(told, path)


def test_cost_does_not_grow_with_cached_inodes(watch: Register, place: Path) -> None:
    """Pitfall: get_path scanned every inode of the superblock."""
    path = fill(place / "tree/file", 1)
    one = watch(place / "tree")
    file = identity(path)

    def cost() -> float:
        start = time.perf_counter()
        for _ in range(200):
            one.task.path_of(file, max_age=0)
        return time.perf_counter() - start

    # The fastest of some: what else the machine does, it does not do all the time. Each takes
    # many calls, since the debug kernel's clock moves with its timer tick only.
    few = min(cost() for _ in range(10))
    for i in range(8000):
        (place / f"out/{i}").touch()
    assert eventually(lambda: 0 < min(cost() for _ in range(10)) < 3 * few)


def pairs(tree: Path, number: int) -> list[tuple[Path, Path]]:
    """Return files with two names each in one directory, and one page in the cache."""
    made = []
    for i in range(number):
        one = fill(tree / str(i), 1, sync=False)
        (tree / f"{i}b").hardlink_to(one)
        made.append((one, tree / f"{i}b"))
    os.sync()
    return made


def test_names_in_memory_cost_no_directory(watch: Register, place: Path) -> None:
    """Pitfall: a rescan read the directory for each file in it with several names, and an unlink.

    Each of them is read from its begin to the name, so that was quadratic.
    """
    files = pairs(place / "tree", 300)
    one = watch(place / "tree")
    one.read()
    with calls_of("exportfs_decode_fh") as reads:
        one.task.rescan()
        one.read()
        assert reads() == 0
        for _, name in files:
            name.unlink()
        assert one.read() == []
        assert reads() == 0
    assert len(one.tally.cached_files()) == 300


def test_a_read_looks_for_so_many_names(watch: Register, place: Path) -> None:
    """What the dcache has lost is looked for in many reads, none of which reads all of it."""
    files = pairs(place / "tree", 280)
    one = watch(place / "tree")
    one.read()
    drop_caches(2)
    for _, name in files:
        name.unlink()
    with calls_of("exportfs_decode_fh") as reads:
        assert not one.task.read_batch()
        first = reads()
        assert 0 < first <= 256
        # Who has nothing to read is woken for the rest of it, until there is none.
        assert eventually(lambda: not one.read() and reads() == 280)
    assert one.disagreements(place / "tree") == []
    assert len(one.tally.cached_files()) == 280
