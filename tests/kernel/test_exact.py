# SPDX-License-Identifier: GPL-2.0-only
"""After any workload, what an EXISTS|MODIFIED task was told is what the kernel says."""

import ctypes
import mmap
import multiprocessing
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import EVENTS
from truth import PAGE, Watch, drop_caches, fill, identity

from pyduet import State

Register = Callable[..., Watch]

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Workload:
    """Random things that programs do to files, in a tree and beside it."""

    def __init__(self, place: Path, seed: int) -> None:
        """Work in `tree` and `out` of a place; the same seed does the same."""
        self.random = random.Random(seed)
        self.roots = [place / "tree", place / "tree", place / "out"]
        self.open: list[int] = []
        self.serial = 0
        self.log: list[str] = []

    def directories(self) -> list[Path]:
        """Return every directory there is now."""
        root = self.random.choice(self.roots)
        return [Path(where) for where, _, _ in os.walk(root)]

    def new(self) -> Path:
        """Return a name that is free."""
        self.serial += 1
        return self.random.choice(self.directories()) / f"n{self.serial}"

    def file(self) -> Path:
        """Return a file that exists."""
        files = [
            Path(where, name)
            for root in self.roots[1:]
            for where, _, names in os.walk(root)
            for name in names
        ]
        return self.random.choice(files) if files else self.write_new()

    def write_new(self) -> Path:
        path = self.new()
        path.write_bytes(b"n" * self.random.randrange(1, 80 * PAGE))
        return path

    def append(self) -> None:
        with self.file().open("ab") as file:
            file.write(b"a" * self.random.randrange(1, 9 * PAGE))

    def overwrite(self) -> None:
        with self.file().open("r+b") as file:
            file.seek(self.random.randrange(0, 70) * PAGE // 2)
            file.write(b"o" * self.random.randrange(1, 9 * PAGE))

    def read(self) -> None:
        with self.file().open("rb", buffering=0) as file:
            file.seek(self.random.randrange(0, 70) * PAGE)
            file.read(self.random.randrange(1, 33 * PAGE))

    def map_write(self) -> None:
        with self.file().open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size:
                with mmap.mmap(file.fileno(), 0) as view:
                    for _ in range(3):
                        view[self.random.randrange(size)] = 77

    def truncate(self) -> None:
        os.truncate(self.file(), self.random.randrange(0, 60 * PAGE))

    def punch(self) -> None:
        with self.file().open("r+b") as file:
            LIBC.fallocate(
                file.fileno(),
                FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                self.random.randrange(0, 40 * PAGE),
                self.random.randrange(1, 20 * PAGE),
            )

    def copy_range(self) -> None:
        with self.file().open("rb") as source, self.new().open("wb") as target:
            os.copy_file_range(source.fileno(), target.fileno(), 30 * PAGE)

    def direct(self) -> None:
        fd = os.open(self.file(), os.O_RDWR | os.O_DIRECT)
        with mmap.mmap(-1, 4 * PAGE) as buffer:
            offset = self.random.randrange(0, 20) * PAGE
            if self.random.random() < 0.5:
                os.preadv(fd, [buffer], offset)
            else:
                os.pwritev(fd, [buffer], offset)
        os.close(fd)

    def sync(self) -> None:
        with self.file().open("rb") as file:
            os.fsync(file.fileno())

    def sync_all(self) -> None:
        os.sync()

    def advise(self) -> None:
        with self.file().open("rb") as file:
            advice = self.random.choice([os.POSIX_FADV_DONTNEED, os.POSIX_FADV_WILLNEED])
            os.posix_fadvise(file.fileno(), 0, 0, advice)

    def drop(self) -> None:
        Path("/proc/sys/vm/drop_caches").write_text(str(self.random.randrange(1, 4)))

    def unlink(self) -> None:
        self.file().unlink()

    def unlink_open(self) -> None:
        path = self.file()
        self.open.append(os.open(path, os.O_RDWR))
        path.unlink()

    def use_unlinked(self) -> None:
        if self.open:
            fd = self.random.choice(self.open)
            os.pwrite(fd, b"u" * PAGE * 3, self.random.randrange(20) * PAGE)

    def close(self) -> None:
        if self.open:
            os.close(self.open.pop(self.random.randrange(len(self.open))))

    def rename(self) -> None:
        os.rename(self.file(), self.new())

    def rename_over(self) -> None:
        os.rename(self.file(), self.file())

    def link(self) -> None:
        os.link(self.file(), self.new())

    def make_directory(self) -> None:
        self.new().mkdir()

    def rename_directory(self) -> None:
        directories = self.directories()[1:]
        if directories:
            source, target = self.random.choice(directories), self.new()
            if source not in target.parents:
                os.rename(source, target)

    STEPS = (
        [write_new, append, overwrite, read, read, map_write, truncate, punch, copy_range] * 3
        + [direct, sync, advise, unlink, rename, rename_over, use_unlinked] * 2
        + [sync_all, drop, unlink_open, close, link, make_directory, rename_directory]
    )

    def step(self) -> None:
        """Do one thing."""
        action = self.random.choice(self.STEPS)
        self.log.append(action.__name__)
        action(self)

    def finish(self) -> None:
        """Close what was kept open."""
        while self.open:
            os.close(self.open.pop())


@pytest.mark.parametrize(
    "seed", [int(seed) for seed in os.environ.get("DUET_SEEDS", "1,2,3").split(",")]
)
def test_random_workload(watch: Register, place: Path, seed: int) -> None:
    """Random steps, held against mincore and the page flags every 25 of them."""
    work = Workload(place, seed)
    for _ in range(40):
        work.step()
    one = watch(place / "tree")
    for _ in range(24):
        for _ in range(25):
            work.step()
        assert one.disagreements(place / "tree") == [], f"after {work.log[-60:]}"
    work.finish()
    drop_caches()
    assert one.disagreements(place / "tree") == []


def _stress(place: Path, seed: int, steps: int) -> None:
    work = Workload(place, seed)
    # Another process's truncate would make it a SIGBUS.
    work.STEPS = [step for step in work.STEPS if step is not Workload.map_write]
    while steps:
        try:
            work.step()
            steps -= 1
        except (OSError, IndexError, ValueError):  # another process was faster
            pass
    work.finish()
    os._exit(0)


def test_processes_race(watch: Register, place: Path) -> None:
    """Four processes at once, tasks that come, read and go meanwhile: the truth in the end."""
    one, events = watch(place / "tree"), watch(place / "tree", EVENTS)
    workers = [
        multiprocessing.get_context("fork").Process(target=_stress, args=(place, 100 + i, 250))
        for i in range(4)
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        one.read()
        events.task.read(50)
        late = watch(place / "tree")
        late.read()
        late.task.close()
    assert [worker.exitcode for worker in workers] == [0] * 4
    late = watch(place / "tree")
    assert one.disagreements(place / "tree") == []
    assert late.disagreements(place / "tree") == []


def test_scan_races_with_events(watch: Register, place: Path) -> None:
    """Pitfall: the scan overwrote a REMOVED that came while it ran: phantom pages for ever."""
    paths = [fill(place / f"tree/f{i}", 3, sync=False) for i in range(60)]
    os.sync()
    pid = os.fork()
    if not pid:
        for _ in range(3):
            for path in paths:
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    file.read()
        for path in paths[::2]:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os._exit(0)
    watches = [watch(place / "tree") for _ in range(6)]
    os.waitpid(pid, 0)
    for one in watches:
        assert one.disagreements(place / "tree") == []


def test_reclaim(watch: Register, place: Path) -> None:
    """Pages that the kernel takes back for want of memory are reported."""
    cgroups = place / "cgroups"
    cgroups.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", cgroups], check=True)
    (cgroups / "cgroup.subtree_control").write_text("+memory")
    group = cgroups / "duet-reclaim"
    group.mkdir()
    (group / "memory.max").write_text(str(16 << 20))
    path = place / "tree/file"
    one = watch(place / "tree")
    pid = os.fork()
    if not pid:
        (group / "cgroup.procs").write_text("0")
        with path.open("wb") as file:
            for _ in range(2 * 16 * 256):
                file.write(bytes(PAGE))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    group.rmdir()
    subprocess.run(["umount", cgroups], check=True)
    one.read()
    assert 0 < len(one.tracker.cached(one.file_id(path))) < 2 * 16 * 256
    os.sync()
    assert one.disagreements(place / "tree") == []


def test_inode_reuse(watch: Register, place: Path) -> None:
    """A reused inode number has another generation: the old file's pages are not the new one's."""
    one = watch(place / "tree")
    seen: dict[int, int] = {}
    for i in range(50):
        path = fill(place / f"tree/f{i}", 2)
        ino, generation = identity(path)
        assert one.news(path) == {0: State.ADDED, 1: State.ADDED}
        if ino in seen and seen[ino] != generation:
            break
        seen[ino] = generation
        path.unlink()
        assert one.news((ino, generation)) == {0: State.REMOVED, 1: State.REMOVED}
    else:
        pytest.fail("this file system never reused an inode number in 50 files")


def test_renames(watch: Register, place: Path) -> None:
    """A file that comes in is reported with what it has cached, one that leaves as gone."""
    path = fill(place / "out/file", 3)
    states, events = watch(place / "tree"), watch(place / "tree", EVENTS)
    there, gone = dict.fromkeys(range(3), State.ADDED), dict.fromkeys(range(3), State.REMOVED)
    inside = place / "tree/file"
    for one in (states, events):
        assert one.read() == []
    path.rename(inside)
    assert states.news(inside) == events.news(inside) == there
    inside.rename(path)
    assert states.news(path) == events.news(path) == gone
    assert states.read() == events.read() == []


def test_directory_renames(watch: Register, place: Path) -> None:
    """The same for a directory with files below, deep and shallow."""
    (place / "out/a/b").mkdir(parents=True)
    path = fill(place / "out/a/b/file", 3)
    one = watch(place / "tree")
    assert one.read() == []
    (place / "out/a").rename(place / "tree/a")
    assert one.news(place / "tree/a/b/file") == dict.fromkeys(range(3), State.ADDED)
    (place / "tree/a").rename(place / "out/a")
    assert one.news(path) == dict.fromkeys(range(3), State.REMOVED)


def test_renamed_unseen(watch: Register, place: Path) -> None:
    """A file whose dentry was reclaimed while its pages stayed is found when it is opened."""
    path = fill(place / "tree/file", 3)
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2")
    one = watch(place / "tree")
    assert one.disagreements(place / "tree") == []
    assert len(one.tracker.cached(one.file_id(path))) == 3


def test_hard_links(watch: Register, place: Path) -> None:
    """A file is in the tree while one of its names is."""
    path = fill(place / "out/file", 2)
    one = watch(place / "tree")
    os.link(path, place / "tree/name")
    assert one.news(path) == {0: State.ADDED, 1: State.ADDED}
    os.link(path, place / "tree/second")
    (place / "tree/name").unlink()
    assert one.read() == []
    assert one.task.path_of(one.file_id(path)) == str(place / "tree/second")
    (place / "tree/second").unlink()
    assert one.news(path) == {0: State.REMOVED, 1: State.REMOVED}


def test_bind_mount_and_mount_below(watch: Register, place: Path) -> None:
    """A bind mount shows the same files; another file system below is not the task's."""
    path = fill(place / "tree/file", 2)
    drop_caches()
    (place / "tree/below").mkdir()
    one = watch(place / "tree")
    subprocess.run(["mount", "--bind", place / "tree", place / "out"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", place / "tree/below"], check=True)
    try:
        fill(place / "tree/below/file", 2)
        assert one.read() == []
        (place / "out/file").read_bytes()
        assert one.news(path) == {0: State.ADDED, 1: State.ADDED}
    finally:
        subprocess.run(["umount", place / "tree/below", place / "out"], check=True)
