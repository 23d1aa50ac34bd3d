# SPDX-License-Identifier: MIT
"""Defrag on real file systems: it joins, it loses nothing, and it takes no room from others."""

import contextlib
import mmap
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import pytest
from command import Ran, run_duet
from pieces import PIECE, pieces, write_in_pieces
from places import Mounted

from pyduet.maintenance import Frame, Ledger, Options, Reading, Record, Trouble, Use
from pyduet.maintenance.defrag import xfs
from pyduet.maintenance.files.extents import Flag, extents
from pyduet.maintenance.tasks.defrag import Defrag

MIB = 1 << 20
COUNT = 60
#: Bytes that are written, and how many a second.
SLOWLY, RATE = 256 << 10, 64 << 10
#: Begins to write past the page cache, says so, and ends when that has ended.
DIRECT_WRITER = f"""
import ctypes, mmap, os, struct, sys
SETUP, GETEVENTS, SUBMIT = 206, 208, 209  # of x86_64
call = ctypes.CDLL(None, use_errno=True).syscall
fd = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
memory = mmap.mmap(-1, {SLOWLY})
memory.write(b"n" * {SLOWLY})
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
context = ctypes.c_ulong()
assert call(SETUP, 1, ctypes.byref(context)) == 0
request = struct.pack("=QIIHhIQQqQII", 0, 0, 0, 1, 0, fd, address, {SLOWLY}, 0, 0, 0, 0)
block = ctypes.create_string_buffer(request)
blocks = (ctypes.c_void_p * 1)(ctypes.addressof(block))
assert call(SUBMIT, context, 1, blocks) == 1
print("begun", flush=True)
event = ctypes.create_string_buffer(32)
assert call(GETEVENTS, context, 1, 1, event, None) == 1
assert struct.unpack("=QQqq", event.raw)[2] == {SLOWLY}
"""


def defrag(tree: Path, ledger: Path, *options: str) -> Ran:
    return run_duet("run", "defrag", tree, "--state", ledger, "--json", *options)


def drop_caches(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


@pytest.fixture
def two(mounted: Mounted, tree: Path) -> list[Path]:
    """Two files in many pieces."""
    paths = [tree / name for name in ("one", "two")]
    write_in_pieces(mounted.kind, paths, COUNT)
    assert all(pieces(path) > COUNT / 2 for path in paths)
    return paths


def test_joins(two: list[Path], tree: Path, tmp_path: Path) -> None:
    (tree / "good").write_bytes(b"good" * 10_000)
    (tree / "empty").touch()
    content = [path.read_bytes() for path in two]
    times = [path.stat().st_mtime_ns for path in two]
    found = sum(map(pieces, two))
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 0, ran.words
    report = ran.objects[-1]["report"]
    assert report["pieces_before"] == found
    assert report["pieces_after"] == sum(map(pieces, two)) <= 4
    assert report["left_good"] == 2
    for path in two:
        drop_caches(path)
    assert [path.read_bytes() for path in two] == content
    assert [path.stat().st_mtime_ns for path in two] == times
    again = defrag(tree, tmp_path / "ledger").objects[-1]["report"]
    assert again["left_good"] == 4


def writer(path: str, seed: int, mapped: bool, go_on: "Synchronized[int]", written: Any) -> None:
    """Write numbered words all over a file until told to stop; leave the last of each word."""
    chance = random.Random(seed)
    fd = os.open(path, os.O_RDWR)
    size = os.fstat(fd).st_size
    memory = mmap.mmap(fd, size)
    number = 0
    while go_on.value:
        number += 1
        # Each writer has words of its own.
        word = chance.randrange(size // 16) * 2 + mapped
        data = number.to_bytes(8, "little")
        if mapped:
            memory[word * 8 : word * 8 + 8] = data
        else:
            os.pwrite(fd, data, word * 8)
        written[word] = number
        # In bursts: between them a file can be moved.
        time.sleep(chance.random() if chance.random() < 0.02 else 0.001)
    memory.close()
    os.close(fd)


@contextlib.contextmanager
def writers(paths: list[Path]) -> Iterator[Callable[[], None]]:
    """Have each file written, by a program that maps it and one that does not.

    Yields a function that compares the files with what was written: it ends the writers.
    """
    context = multiprocessing.get_context("fork")
    go_on = context.Value("i", 1)
    all_written = []
    processes = []
    for number, path in enumerate(paths):
        words = path.stat().st_size // 8
        written = context.Array("Q", words, lock=False)
        before = path.read_bytes()
        for word in range(words):
            written[word] = int.from_bytes(before[word * 8 : word * 8 + 8], "little")
        all_written.append(written)
        for mapped in (False, True):
            arguments = (str(path), 2 * number + mapped, mapped, go_on, written)
            processes.append(context.Process(target=writer, args=arguments))
    for process in processes:
        process.start()

    def compare() -> None:
        go_on.value = 0
        for process in processes:
            process.join()
        for path, written in zip(paths, all_written, strict=True):
            expected = b"".join(number.to_bytes(8, "little") for number in written)
            assert path.read_bytes() == expected
            drop_caches(path)
            assert path.read_bytes() == expected

    try:
        yield compare
    finally:
        go_on.value = 0
        for process in processes:
            process.join()


def test_writers_lose_nothing(two: list[Path], tree: Path, tmp_path: Path) -> None:
    """What is not joined for that is named, with a code; and joined when they have gone."""
    with writers(two) as compare:
        for _ in range(12):
            ran = defrag(tree, tmp_path / "ledger")
            assert ran.status in (0, 12), ran.words
            troubles = {problem["trouble"] for problem in ran.objects[-1]["problems"]}
            assert troubles <= {"unstable", "in-use"}, ran.words
            if sum(map(pieces, two)) <= 4:
                break
        compare()
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 0, ran.words
    assert sum(map(pieces, two)) <= 4


@pytest.mark.root
def test_leaves_room_to_others(
    two: list[Path], mounted: Mounted, tree: Path, tmp_path: Path
) -> None:
    """A file is left, and named with the figures, when a part of it would take the last room."""
    content = [path.read_bytes() for path in two]
    before = [pieces(path) for path in two]
    filler = mounted.path / "filler"
    with filler.open("wb") as file:
        end = 0
        # What the file system takes for itself comes and goes.
        while (over := _free_above_reserve(mounted.path) - MIB // 2) > 0:
            os.posix_fallocate(file.fileno(), end, over)
            end += over
            os.sync()
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 12
    problems = ran.objects[-1]["problems"]
    assert {problem["trouble"] for problem in problems} == {"no-room"}
    assert all("MiB are free" in problem["words"] for problem in problems)
    assert [pieces(path) for path in two] == before
    filler.unlink()
    os.sync()
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 0, ran.words
    assert sum(map(pieces, two)) <= 4
    assert [path.read_bytes() for path in two] == content


@pytest.fixture
def slow(mounted: Mounted) -> Iterator[Path]:
    """A file for the numbers of processes that may write little a second."""
    assert mounted.device
    status = os.stat(mounted.device)
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    top = Path("/sys/fs/cgroup")
    if (top / "blkio").exists():
        group, limit = top / "blkio", ("blkio.throttle.write_bps_device", f"{number} {RATE}")
    else:
        (top / "cgroup.subtree_control").write_text("+io")
        group, limit = top, ("io.max", f"{number} wbps={RATE}")
    group /= f"duet-test-{os.getpid()}"
    group.mkdir()
    (group / limit[0]).write_text(limit[1])
    yield group / "cgroup.procs"
    group.rmdir()


@pytest.mark.root
def test_a_slow_direct_write_is_waited_for(
    slow: Path, two: list[Path], tree: Path, tmp_path: Path
) -> None:
    """It is under way for seconds, since its program may do little I/O."""
    rest = two[0].read_bytes()[SLOWLY:]
    program = f"echo $$ > {slow}; exec {sys.executable} -c '{DIRECT_WRITER}' {two[0]}"
    with subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"begun\n"
        ran = defrag(tree, tmp_path / "ledger")
        assert ran.status in (0, 12), ran.words
        assert writer.wait() == 0
    for path in two:
        drop_caches(path)
    assert two[0].read_bytes() == b"n" * SLOWLY + rest


@pytest.mark.fs("xfs")
def test_xfs_keeps_what_is_written_between_copy_and_exchange(
    two: list[Path], tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel refuses, by the file's times, and the file is copied anew."""
    copied = []
    copy = xfs._copy

    def copy_then_write(reading: Reading, target: int, length: int) -> None:
        copy(reading, target, length)
        copied.append(length)
        if len(copied) == 1:
            for path in two:
                with path.open("r+b") as file:
                    file.seek(5 * PIECE)
                    file.write(b"written" * 100)

    monkeypatch.setattr(xfs, "_copy", copy_then_write)
    task = Defrag()
    with Ledger(":memory:", task.kind, str(tree)) as ledger:
        options = Options(duet=Use.NEVER, give_way=False)
        assert Frame(task, str(tree), ledger, options).run().problems == []
    assert len(copied) >= 3  # the first one twice
    assert sum(map(pieces, two)) <= 4
    for path in two:
        drop_caches(path)
        assert path.read_bytes()[5 * PIECE :].startswith(b"written" * 100)


class Touched(Frame):
    """Of a tree in which somebody touches all files, whenever the frame waits."""

    waited = 0.0

    def _sleep(self, seconds: float) -> None:
        self.waited += seconds
        touch(Path(self._root))


class TouchedDefrag(Defrag):
    """Whose next file is young, too."""

    def process(self, reading: Reading, before: Record | None) -> Any:
        touch(Path(self._tree.path))
        return super().process(reading, before)


def touch(tree: Path) -> None:
    for path in tree.iterdir():
        os.utime(path)


@pytest.mark.fs("xfs")
def test_xfs_waits_for_young_files_together(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the frame waits, which has seconds for all of a run; and nothing is lost."""
    paths = [tree / f"file{number}" for number in range(20)]
    write_in_pieces("xfs", paths, 8)
    content = [path.read_bytes() for path in paths]
    alone: list[float] = []
    monkeypatch.setattr(time, "sleep", alone.append)
    task = TouchedDefrag()
    with Ledger(":memory:", task.kind, str(tree)) as ledger:
        frame = Touched(task, str(tree), ledger, Options(duet=Use.NEVER, give_way=False))
        troubles = {one.trouble for one in frame.run().problems}
    assert not alone
    assert frame.waited <= 30 + 1e-6
    assert troubles <= {Trouble.UNSTABLE}
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 0, ran.words
    assert sum(map(pieces, paths)) == len(paths)
    assert [path.read_bytes() for path in paths] == content


@pytest.fixture
def xfs_quotas(new_mount: Callable[..., Mounted]) -> None:
    """XFS with quotas; it says so when a file system of it is mounted, not before."""
    new_mount("xfs")
    if not Path("/proc/fs/xfs/xqm").exists():
        pytest.skip("this kernel has no quotas of XFS")


@pytest.mark.root
@pytest.mark.usefixtures("xfs_quotas")
def test_xfs_with_quotas(new_mount: Callable[..., Mounted], tmp_path: Path) -> None:
    """The kernel exchanges only what is of one owner, one group and one project."""
    mounted = new_mount("xfs", "uquota", "gquota", "pquota")
    tree = mounted.path / "tree"
    tree.mkdir()
    paths = [tree / name for name in ("one", "two")]
    write_in_pieces("xfs", paths, COUNT)
    os.chown(paths[0], 4001, 4002)
    subprocess.run(["xfs_io", "-c", "chproj 77", paths[1]], check=True)
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 0, ran.words
    assert sum(map(pieces, paths)) <= 4
    assert (paths[0].stat().st_uid, paths[0].stat().st_gid) == (4001, 4002)


@pytest.mark.fs("xfs")
@pytest.mark.parametrize("length", [40, 110, 200])
@pytest.mark.parametrize("count", [8, 14, 20])
def test_xfs_with_attributes(
    length: int, count: int, mounted: Mounted, tree: Path, tmp_path: Path
) -> None:
    """They take the room of extents from the inode, so that these have another form there."""
    paths = [tree / name for name in ("one", "two")]
    for path in paths:
        path.touch()
        os.setxattr(path, "user.note", b"n" * length)
    write_in_pieces("xfs", paths, count)
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 0, ran.words
    report = ran.objects[-1]["report"]
    assert "left_unsupported" not in report
    assert sum(map(pieces, paths)) <= 4
    assert os.getxattr(paths[0], "user.note") == b"n" * length


def _free_above_reserve(path: Path) -> int:
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize - state.f_blocks * state.f_frsize // 20


def test_holes_cost_nothing_and_stay(
    two: list[Path], mounted: Mounted, tree: Path, tmp_path: Path
) -> None:
    """A tebibyte of which next to nothing is data: its length is neither read nor allocated."""
    huge = two[0]
    os.truncate(huge, 1 << 40)
    with (tree / "hole").open("wb") as file:
        file.truncate(1 << 40)
    data = _read(huge, COUNT * PIECE)
    begin = os.times()
    ran = defrag(tree, tmp_path / "ledger")
    end = os.times()
    assert ran.status == 0, ran.words
    used = end.children_user + end.children_system - begin.children_user - begin.children_system
    assert used < 20
    assert pieces(huge) <= 2
    assert huge.stat().st_blocks * 512 <= 2 * COUNT * PIECE
    assert _read(huge, COUNT * PIECE) == data


def _read(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


@pytest.mark.fs("xfs", "ext4")
def test_what_was_never_written_stays_so(
    two: list[Path], mounted: Mounted, tree: Path, tmp_path: Path
) -> None:
    path = two[0]
    fallocate = ["fallocate", "--offset", str(20 * PIECE), "--length", str(10 * PIECE)]
    subprocess.run([*fallocate, "--punch-hole", path], check=True)
    fallocate[4] = str(2 * PIECE)
    subprocess.run([*fallocate, "--keep-size", path], check=True)
    os.truncate(path, COUNT * PIECE - 77)
    content = path.read_bytes()
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 0, ran.words
    assert pieces(path) <= 4
    assert path.stat().st_blocks * 512 == (COUNT - 10 + 2) * PIECE
    with path.open("rb") as file:
        never = [one for one in extents(file.fileno()) if one.flags & Flag.UNWRITTEN]
    assert [(one.logical, one.length) for one in never] == [(20 * PIECE, 2 * PIECE)]
    drop_caches(path)
    assert path.read_bytes() == content


@pytest.mark.root
@pytest.mark.parametrize("flag", ["i", "a"])
def test_leaves_what_is_protected(flag: str, two: list[Path], tree: Path, tmp_path: Path) -> None:
    before = pieces(two[0])
    subprocess.run(["chattr", f"+{flag}", two[0]], check=True)
    try:
        ran = defrag(tree, tmp_path / "ledger")
        assert ran.status == 0, ran.words
        assert ran.objects[-1]["report"]["left_protected"] == 1
        assert ran.objects[-1]["left_out"] == [{"path": "one", "kind": "protected"}]
        assert pieces(two[0]) == before
        assert pieces(two[1]) <= 2
    finally:
        subprocess.run(["chattr", f"-{flag}", two[0]], check=True)


@pytest.mark.root
@pytest.mark.fs("xfs")
def test_leaves_what_is_marked(two: list[Path], tree: Path, tmp_path: Path) -> None:
    subprocess.run(["xfs_io", "-c", "chattr +f", two[0]], check=True)
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 0, ran.words
    assert ran.objects[-1]["report"]["left_protected"] == 1


@pytest.mark.root
@pytest.mark.fs("btrfs")
def test_leaves_what_is_compressed(mounted: Mounted, tree: Path, tmp_path: Path) -> None:
    subprocess.run(["chattr", "+c", tree], check=True)
    path = tree / "file"
    path.write_bytes(b"compressible" * MIB)
    before = pieces(path)
    assert before > 16
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 0, ran.words
    assert ran.objects[-1]["report"]["left_compressed"] == 1
    assert pieces(path) == before


@pytest.mark.fs("ext4", "xfs")
def test_leaves_a_program_that_runs(two: list[Path], tree: Path, tmp_path: Path) -> None:
    program = two[0]
    content = Path("/bin/sleep").resolve().read_bytes()
    with program.open("r+b") as file:
        file.write(content)
    program.chmod(0o755)
    with subprocess.Popen([program, "1000"]) as process:
        try:
            ran = defrag(tree, tmp_path / "ledger")
        finally:
            process.kill()
    assert ran.status == 12
    (problem,) = ran.objects[-1]["problems"]
    assert (problem["path"], problem["trouble"]) == ("one", "in-use")
    assert pieces(two[1]) <= 2


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "mkfs", "mount", "words"),
    [
        ("ext4", ("-O", "bigalloc"), (), "bigalloc"),
        ("ext4", ("-O", "^extents,^64bit"), (), "without extents"),
        ("ext4", (), ("data=journal",), "data=journal"),
        ("xfs", ("-m", "reflink=0"), (), "no reflink"),
    ],
)
def test_refuses_a_file_system_that_cannot(
    new_mount: Callable[..., Mounted],
    tmp_path: Path,
    kind: str,
    mkfs: tuple[str, ...],
    mount: tuple[str, ...],
    words: str,
) -> None:
    """Once, before any file is read."""
    mounted = new_mount(kind, *mount, mkfs=mkfs)
    (mounted.path / "file").write_bytes(b"data")
    ran = defrag(mounted.path, tmp_path / "ledger")
    assert ran.status not in (0, 12)
    assert words in ran.words
    assert ran.words.count("\n") < 4


@pytest.mark.root
def test_refuses_what_is_mounted_read_only(
    two: list[Path], mounted: Mounted, tree: Path, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", mounted.path], check=True)
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status not in (0, 12)
    assert "Read-only" in ran.words
    assert ran.words.count("\n") < 4


@pytest.mark.user
def test_a_user_is_refused_the_files_of_others(tree: Path, tmp_path: Path, two: list[Path]) -> None:
    two[0].chmod(0o444)
    ran = defrag(tree, tmp_path / "ledger")
    assert ran.status == 12
    (problem,) = ran.objects[-1]["problems"]
    assert (problem["path"], problem["trouble"]) == ("one", "refused")
    assert pieces(two[1]) <= 2


@pytest.mark.root
def test_a_dry_run_refuses_as_a_run_does(tmp_path: Path) -> None:
    """A file system that is none of those: of defrag, and of btrfs-scrub."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        (tmp_path / "file").write_bytes(b"x")
        for task, words in (
            ("defrag", "no defragmentation of tmpfs"),
            ("btrfs-scrub", "not on btr"),
        ):
            ran = run_duet("run", task, tmp_path, "-q")
            dry = run_duet("run", task, tmp_path, "-q", "--dry-run")
            assert dry == ran
            assert (ran.status, words in ran.words) == (1, True)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
