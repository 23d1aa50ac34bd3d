# SPDX-License-Identifier: MIT
"""After any workload, what an EXISTS|MODIFIED task was told is what the kernel says.

Truth: mincore, page flags, cachestat (truth.py); of events the kernel's own
trace (journal.py).
"""

import contextlib
import mmap
import multiprocessing
import os
import random
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from actions import direct_read, direct_write, exchange, punch, reflink, sync_range
from conftest import DELAY, EVENTS, counter, dawdling, eventually
from journal import Journal, Ledger
from truth import PAGE, Watch, drop_caches, fill, identity, truth_of

from pyduet import Mask, State

Register = Callable[..., Watch]


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
        return self.touched(self.random.choice(self.directories()) / f"n{self.serial}")

    def file(self) -> Path:
        """Return a file that exists."""
        files = [
            Path(where, name)
            for root in self.roots[1:]
            for where, _, names in os.walk(root)
            for name in names
        ]
        return self.touched(self.random.choice(files)) if files else self.write_new()

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
        path = self.file()
        punch(path, self.random.randrange(0, 40 * PAGE), self.random.randrange(1, 20 * PAGE))

    def copy_range(self) -> None:
        with self.file().open("rb") as source, self.new().open("wb") as target:
            os.copy_file_range(source.fileno(), target.fileno(), 30 * PAGE)

    def direct(self) -> None:
        path, page = self.file(), self.random.randrange(0, 20)
        if self.random.random() < 0.5:
            direct_read(path, page, 4)
        else:
            direct_write(path, page, 4)

    def reflink(self) -> None:
        source, target = self.file(), self.file()
        # ext4 has none; the file's size must be a whole number of blocks.
        with contextlib.suppress(OSError):
            reflink(source, target, self.random.randrange(1, 8), self.random.randrange(8))

    def exchange(self) -> None:
        one, other = self.file(), self.file()
        if one != other:
            exchange(one, other)

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
        + [direct, reflink, sync, advise, unlink, rename, rename_over, use_unlinked] * 2
        + [sync_all, drop, unlink_open, close, link, exchange, make_directory, rename_directory]
    )

    def step(self) -> None:
        """Do one thing."""
        self.do(self.random.choice(self.STEPS))

    def do(self, action: Callable[["Workload"], None]) -> None:
        """Do this."""
        self.log.append(action.__name__)
        action(self)

    def touched(self, path: Path) -> Path:
        """Write down which file a step is about."""
        self.log[-1:] = [f"{self.log[-1]} {path.relative_to(self.roots[0].parent)}"]
        return path

    def finish(self) -> None:
        """Close what was kept open."""
        while self.open:
            os.close(self.open.pop())


SEEDS = pytest.mark.parametrize(
    "seed", [int(seed) for seed in os.environ.get("DUET_SEEDS", "1,2,3").split(",")]
)


@SEEDS
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


@SEEDS
def test_tasks_that_come_and_go(watch: Register, place: Path, seed: int) -> None:
    """The same, where files are known of already when one more task begins to want them.

    The node in a file's entry has slots for two tasks, until a third comes.
    """
    work = Workload(place, seed)
    tasks: list[Watch] = []
    for _ in range(24):
        for _ in range(10):
            work.step()
        if len(tasks) == 6 or (tasks and work.random.random() < 0.4):
            tasks.pop(work.random.randrange(len(tasks))).task.close()
        else:
            tasks.append(watch(place / "tree"))
        for one in tasks:
            assert one.disagreements(place / "tree") == [], f"after {work.log[-60:]}"
    work.finish()


@SEEDS
def test_random_names(watch: Register, place: Path, seed: int) -> None:
    """Files of many names that come and go, most of which the dcache has lost."""
    work = Workload(place, seed)
    often = ("link", "rename_directory", "drop", "unlink_open", "use_unlinked")
    seldom = ("unlink", "rename", "rename_over", "exchange", "make_directory", "read", "close")
    work.STEPS = [getattr(Workload, name) for name in often * 3 + seldom]
    for _ in range(4):  # so few that each gets many names
        work.do(Workload.make_directory)
        work.do(Workload.write_new)
    one = watch(place / "tree")
    for _ in range(30):
        for _ in range(10):
            work.step()
        assert one.disagreements(place / "tree") == [], f"after {work.log[-60:]}"
    work.finish()
    drop_caches()
    assert one.disagreements(place / "tree") == []


@pytest.mark.parametrize("seed", [11, 12])
def test_random_events(watch: Register, place: Path, journal: Journal, seed: int) -> None:
    """The same steps where no file crosses the border: every event that happened, and no other."""
    work = Workload(place, seed)
    crossing = ("unlink_open", "rename", "rename_over", "link", "exchange", "rename_directory")
    work.STEPS = [step for step in work.STEPS if step.__name__ not in crossing]
    for _ in range(20):
        work.step()
    os.sync()
    masks = [Mask.ADDED, Mask.REMOVED, Mask.DIRTY, Mask.FLUSHED, EVENTS, EVENTS]
    ledger = Ledger(
        journal, place / "tree", [(mask, watch(place / "tree", mask)) for mask in masks]
    )
    one = watch(place / "tree")
    for _ in range(25):
        for _ in range(work.random.randrange(1, 6)):
            work.step()
            ledger.note()  # before an inode number is another file's
        assert ledger.differences() == [], f"after {work.log[-60:]}"
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
    """Pitfall: page_mapping() was read without the page locked: truncate, write-back, reclaim race.

    Four processes at once, tasks that come, read and go meanwhile: the truth in the end.
    """
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


def test_scan_races_with_write_back(watch: Register, place: Path) -> None:
    """Pitfall: what was flushed between the look at a page and its record stayed dirty for ever."""
    paths = [fill(place / f"tree/f{i}", 256) for i in range(4)]
    pid = os.fork()
    if not pid:
        for _ in range(12):
            for path in paths:
                with path.open("r+b") as file:
                    file.write(b"w" * 256 * PAGE)
                    file.flush()
                    sync_range(file.fileno())
        os._exit(0)
    one = watch(place / "tree", Mask.MODIFIED)
    while not os.waitpid(pid, os.WNOHANG)[0]:
        one.task.rescan()
        one.read()
    os.sync()
    one.read()
    assert {path.name: one.tally.dirty(identity(path)) for path in paths} == {
        path.name: truth_of(path).dirty for path in paths
    }


@pytest.mark.kernel_with(DELAY)
def test_scan_dawdles_in_write_back(watch: Register, place: Path) -> None:
    """Pitfall: the same, met for sure.

    The scan dawdles between look and record, while page after page is flushed.
    """
    path = fill(place / "tree/file", 64)
    one = watch(place / "tree", Mask.MODIFIED)
    with path.open("r+b") as file, ThreadPoolExecutor(1) as pool, dawdling("look", 5000):

        def write_back() -> None:
            for page in range(64):
                sync_range(file.fileno(), page, 1)

        for _ in range(10):
            os.pwrite(file.fileno(), b"w" * 64 * PAGE, 0)
            one.read()
            flushing = pool.submit(write_back)
            one.task.rescan()
            one.read()  # this looks, and no later scan mends what it recorded
            flushing.result()
            os.sync()
            one.read()
            assert one.tally.dirty(identity(path)) == truth_of(path).dirty


def test_registration_races_with_writes(watch: Register, place: Path, journal: Journal) -> None:
    """An event during the scan is never lost: by the scan or by itself, each page is told."""
    paths = [fill(place / f"tree/f{i}", 8) for i in range(40)]
    drop_caches()
    pid = os.fork()
    if not pid:
        for _ in range(3):
            for path in paths:
                path.read_bytes()
                with path.open("r+b") as file:
                    file.write(b"w" * PAGE)
        os._exit(0)
    watches = [(mask, watch(place / "tree", mask)) for mask in [EVENTS] * 4 + [Mask.DIRTY] * 2]
    os.waitpid(pid, 0)
    for _, one in watches:
        one.read()
    for path in paths:
        truth = truth_of(path)
        for mask, one in watches:
            file = identity(path)
            if mask == EVENTS:
                assert one.tally.cached(file) == truth.cached
            assert one.tally.dirty(file) == truth.dirty
    # From here on they are told what happens, and nothing twice.
    ledger = Ledger(journal, place / "tree", watches)
    os.sync()
    drop_caches()
    assert ledger.differences() == []


def test_reclaim(watch: Register, place: Path) -> None:
    """Pages that the kernel takes back for want of memory are reported."""
    limit = 16 << 20
    path = fill(place / "tree/file", 2 * limit // PAGE)
    os.sync()
    drop_caches()
    one = watch(place / "tree")
    cgroups = place / "cgroups"
    cgroups.mkdir()
    subprocess.run(["mount", "-t", "cgroup2", "none", cgroups], check=True)
    group = cgroups / "duet-reclaim"
    try:
        (cgroups / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        (group / "memory.max").write_text(str(limit))
        pid = os.fork()
        if not pid:
            (group / "cgroup.procs").write_text("0")
            with path.open("r+b") as file:
                for at in range(0, 2 * limit, 1 << 20):
                    file.read(1 << 19)
                    file.write(bytes(1 << 19))
                    # A group full of dirty pages alone is killed, not made to wait.
                    os.fdatasync(file.fileno())
                    assert file.tell() == at + (1 << 20)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        if group.exists():
            group.rmdir()
        subprocess.run(["umount", cgroups], check=True)
    one.read()
    assert 0 < len(one.tally.cached(identity(path))) < 2 * limit // PAGE
    os.sync()
    assert one.disagreements(place / "tree") == []


def test_deleted_files_leave_nothing(watch: Register, place: Path) -> None:
    """Pitfall: state of deleted inodes was never freed. Read or not read, it goes."""
    one, unread = watch(place / "tree"), watch(place / "tree")
    for i in range(100):
        fill(place / f"tree/f{i}", 2, sync=False)
        (place / f"tree/f{i}").unlink()

    def freed() -> bool:
        drop_caches()  # btrfs: its cleaner thread lets go of the inodes
        one.read()
        unread.task.wait(0)  # what cancelled is taken away by poll as well
        return counter("files") == counter("nodes") == 0

    assert eventually(freed)
    assert one.tally.cached_files() == []


@pytest.mark.fs("ext4", "xfs")
def test_inode_reuse(watch: Register, place: Path) -> None:
    """Pitfall: inode reuse. A reused number has another generation, and is another file."""
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


@pytest.mark.fs("btrfs")
def test_inode_numbers_are_never_reused(watch: Register, place: Path) -> None:
    """Pitfall: generation must match. On btrfs files share generations, and never a number."""
    one = watch(place / "tree")
    files = set()
    for i in range(30):
        path = fill(place / f"tree/f{i}", 2)
        files.add(identity(path))
        told = one.all_news()  # an older file's REMOVED may come now, by btrfs's cleaner thread
        assert {at: state for at, state in told.items() if at[0] == identity(path)} == {
            (identity(path), page): State.ADDED for page in (0, 1)
        }
        path.unlink()
    assert len({ino for ino, _ in files}) == 30
    assert one.disagreements(place / "tree") == []
    assert one.tally.cached_files() == []


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("tree", marks=pytest.mark.fs("ext4", "xfs")),
        # XFS has the inodes of each directory in a part of the disk of its own.
        pytest.param("out", marks=pytest.mark.fs("ext4")),
    ],
)
def test_inode_reuse_unread(watch: Register, place: Path, where: str) -> None:
    """The same with nothing read between: the old file's news stay the old one's."""
    one, events = watch(place / "tree"), watch(place / "tree", EVENTS)
    old: set[tuple[int, int]] = set()
    for i in range(50):
        (place / "tree/old").write_bytes(b"x" * PAGE)
        old.add(identity(place / "tree/old"))
        (place / "tree/old").unlink()
        # XFS frees numbers in the background: if always too late for f, the next old has it.
        time.sleep(i * 0.005)
        path = fill(place / where / f"f{i}", 1)
        if identity(path)[0] in {ino for ino, _ in old}:
            break
    else:
        pytest.fail("this file system never reused an inode number in 50 files")
    assert one.disagreements(place / "tree") == []
    told = {file for file, _ in events.all_news()}
    inside = {identity(file) for file in (place / "tree").iterdir()}
    assert told == old | inside
