# SPDX-License-Identifier: MIT
"""Once a file is settled, no write leaves its times as they were."""

import contextlib
import mmap
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import places
import pytest
from beside import beside
from command import command, run_duet
from fuse import Fuse
from places import Mounted
from slowmemory import SlowMemory

from pyduet.maintenance.files.settled import Settled, recheck, settle
from pyduet.maintenance.files.statx import Status, status_of
from pyduet.maintenance.frame import watchdog
from pyduet.maintenance.work import UnstableError

PAGE = mmap.PAGESIZE


@pytest.fixture
def file(tree: Path) -> Iterator[tuple[int, mmap.mmap]]:
    """A file, open for reading, and a mapping of its 16 pages, open for writing."""
    path = tree / "file"
    path.write_bytes(b"a" * 16 * PAGE)
    fd, writable = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    with mmap.mmap(writable, 16 * PAGE) as mapping:
        yield fd, mapping
    os.close(fd)
    os.close(writable)


def times(fd: int) -> tuple[int, int, int]:
    status = os.fstat(fd)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def settled(fd: int) -> Settled:
    """Return what is told of a file when it has settled."""
    while not (found := settle(fd)).is_settled:
        assert found.error is None
        time.sleep(found.wait)
    return found


def test_a_write_through_a_mapping_changes_the_times(file: tuple[int, mmap.mmap]) -> None:
    fd, mapping = file
    for number in range(20):
        mapping[0] = number
        before = times(fd)
        mapping[1] = number
        if times(fd) == before:
            break  # the page was dirty, and stayed so
    else:
        pytest.fail("each write changed the times: there is nothing to be tested")
    for number in range(20):
        before = settled(fd).status
        mapping[number] = 200 + number
        assert times(fd) != (before.st_size, before.st_mtime_ns, before.st_ctime_ns)
        with pytest.raises(UnstableError):
            recheck(fd, before)


def test_a_write_in_the_same_tick_is_not_missed(tree: Path) -> None:
    fd = os.open(tree / "file", os.O_RDWR | os.O_CREAT)
    believed = 0
    for number in range(1000):
        os.pwrite(fd, b"one%d" % number, 0)
        if number % 100 == 50:
            settled(fd)
        found = settle(fd)
        before = times(fd)
        os.pwrite(fd, b"two", 0)
        assert times(fd) != before or not found.is_settled
        believed += found.is_settled
    os.close(fd)
    assert believed


def test_what_is_dirty_after_it_was_read_is_not_believed(file: tuple[int, mmap.mmap]) -> None:
    fd, mapping = file
    before = settled(fd).status
    assert recheck(fd, before)
    mapping[0] = 1
    # As a fault would that had set these times long ago.
    assert not recheck(fd, status_of(fd))


def test_a_clean_file_costs_nothing(file: tuple[int, mmap.mmap]) -> None:
    fd, _ = file
    before = settled(fd)
    assert settle(fd) == before
    assert recheck(fd, before.status)


@pytest.mark.root
def test_a_write_that_still_goes_on_is_waited_for(tree: Path) -> None:
    old, new = b"a" * PAGE, b"z" * PAGE
    path = tree / "file"
    path.write_bytes(old * 8)
    fd, writable = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    settled(fd)
    looked: list[tuple[Status, bytes]] = []

    def look() -> None:
        found = settled(fd).status
        looked.append((found, os.pread(fd, 8 * PAGE, 0)))
        recheck(fd, found)

    with SlowMemory(8) as memory:
        writer = threading.Thread(target=memory.write_to, args=(writable,))
        writer.start()
        for page in range(4):
            assert memory.wanted() == page
            memory.give(page, new)
        assert memory.wanted() == 4
        time.sleep(0.3)  # the times are old by now, and half of the data is still to come
        looker = threading.Thread(target=look)
        looker.start()
        looker.join(0.5)
        for page in range(4, 8):
            memory.give(page, new)
        writer.join()
        looker.join()
    ((status, content),) = looked
    assert content == new * 8
    assert times(fd) == (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    os.close(fd)
    os.close(writable)


def test_an_incremental_archive_has_what_a_mapping_wrote(
    file: tuple[int, mmap.mmap], tree: Path, mounted: Mounted, tmp_path: Path
) -> None:
    _, mapping = file
    ledger = ("--state", tmp_path / "ledger")
    for number in range(1, 4):
        mapping[0] = number
        archive = mounted.path / f"{number}.tar"
        options = ("--incremental",) if number > 1 else ()
        ran = run_duet("run", "backup", tree, archive, *options, *ledger)
        assert ran.status == 0, ran.words
        with tarfile.open(archive) as members:
            member = members.extractfile("./file")
            assert member
            assert member.read()[0] == number


def test_rsync_copies_what_a_mapping_wrote(
    file: tuple[int, mmap.mmap], tree: Path, mounted: Mounted, tmp_path: Path
) -> None:
    _, mapping = file
    target = mounted.path / "target"
    target.mkdir()
    for number in (1, 2):
        mapping[0] = number
        time.sleep(1.1)  # rsync takes times of the same second for the same
        ran = run_duet("run", "rsync", tree, target, "--state", tmp_path / "ledger")
        assert ran.status == 0, ran.words
        assert next(target.rglob("file")).read_bytes()[0] == number


#: A scrub that does not wait for a minute before it says for what it waits.
HASTY = """
import sys
from pyduet.cli import main
from pyduet.maintenance.frame import watchdog
watchdog._PATIENCE = 0.5
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.root
def test_what_is_waited_for_without_end_is_said(tree: Path, tmp_path: Path) -> None:
    """Somebody's write to a file goes on, and so holds the lock that whoever looks at it takes."""
    path = tree / "file"
    path.write_bytes(b"a" * PAGE)
    fd, writable = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    settled(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    scrub = [*command("run", "scrub", tree, "--quiet", "--state", tmp_path / "state")][4:]
    said = tmp_path / "said"
    with SlowMemory(1) as memory, said.open("wb") as stderr:
        writer = threading.Thread(target=memory.write_to, args=(writable,))
        writer.start()
        try:
            assert memory.wanted() == 0
            ran = subprocess.Popen(
                [sys.executable, "-P", "-c", HASTY, *scrub],
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(places.TOP)},
            )
            end = time.monotonic() + 120
            while not (words := re.findall(f"^duet: {path}: .*", said.read_text(), re.M)):
                assert time.monotonic() < end
                time.sleep(0.1)
        finally:
            memory.give(0, b"z" * PAGE)
            writer.join()
    assert ran.wait(timeout=120) == 0
    assert "no signal ends that" in words[0]
    assert f"process {os.getpid()} (" in words[0]
    os.close(fd)
    os.close(writable)


@pytest.mark.root
def test_which_fuse_does_not_answer(tmp_path: Path) -> None:
    place = tmp_path / "fuse"
    place.mkdir()
    mounts.mount("none", Path("/sys/fs/fuse/connections"), "fusectl")
    with Fuse(place, {"file": b"a" * PAGE}) as fuse:
        connection = str(os.minor(place.stat().st_dev))
        assert connection not in watchdog._waiting()
        fd = os.open(place / "file", os.O_RDONLY)
        fuse.silent = True
        reader = threading.Thread(target=read_and_close, args=(fd,))
        reader.start()
        try:
            end = time.monotonic() + 60
            while connection not in watchdog._waiting():
                assert time.monotonic() < end
                time.sleep(0.01)
        finally:
            fuse.die()  # which ends what waits for it
            reader.join()


def read_and_close(fd: int) -> None:
    for call in (lambda: os.pread(fd, PAGE, 0), lambda: os.close(fd)):
        with contextlib.suppress(OSError):
            call()


def test_who_touches_files_all_the_time_is_not_waited_for(
    tree: Path, mounted: Mounted, tmp_path: Path
) -> None:
    """A run sleeps no longer for many files than for one; nothing is missed, and nothing alarms."""
    paths = [tree / f"file{number}" for number in range(300)]
    for path in paths:
        path.write_bytes(b"before")
    scrub = ("run", "scrub", tree, "--json", "--state", tmp_path / "scrub")
    backup = ("run", "backup", tree, "--json", "--state", tmp_path / "backup")

    def touch() -> None:
        for path in paths:
            os.utime(path)

    ran = []
    with beside("touching", touch):
        ran += [run_duet(*scrub), run_duet(*scrub), run_duet(*backup, mounted.path / "0.tar")]
    for path in paths[::3]:
        status = path.stat()
        with path.open("r+b") as file:
            file.write(b"behind")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    ran.append(run_duet(*backup, mounted.path / "1.tar", "--incremental"))
    for one in ran:
        last = one.objects[-1]
        # Some four waits for all of them in each of four rounds.
        assert last["waited"] < 5
        assert {problem["trouble"] for problem in last["problems"]} <= {"unstable"}
    with tarfile.open(mounted.path / "1.tar") as archive:
        names = {member.name for member in archive if member.isreg()}
    assert {f"./{path.name}" for path in paths[::3]} <= names


@pytest.mark.root
def test_an_overlay_is_written_back(tree: Path) -> None:
    for name in ("lower", "upper", "work", "over"):
        (tree / name).mkdir()
    (tree / "lower/file").write_bytes(b"a" * PAGE)
    data = ",".join(f"{key}dir={tree / key}" for key in ("lower", "upper", "work"))
    mounts.mount("none", tree / "over", "overlay", data=data)
    writable = os.open(tree / "over/file", os.O_RDWR)
    fd = os.open(tree / "over/file", os.O_RDONLY)
    with mmap.mmap(writable, PAGE) as mapping:
        for number in range(10):
            mapping[0] = number
            before = settled(fd).status
            mapping[0] = 100
            with pytest.raises(UnstableError):
                recheck(fd, before)
    os.close(fd)
    os.close(writable)


@pytest.mark.root
def test_a_read_only_file_system(mounted: Mounted) -> None:
    (mounted.path / "file").write_bytes(b"a")
    mounted.unmount()
    again = mounted.mount("ro")
    fd = os.open(again.path / "file", os.O_RDONLY)
    assert recheck(fd, settled(fd).status)
    os.close(fd)


@pytest.mark.root
def test_times_of_whole_seconds(new_mount: Callable[..., Mounted]) -> None:
    place = new_mount("ext4", mkfs=("-I", "128")).path
    fd = os.open(place / "file", os.O_RDWR | os.O_CREAT)
    for number in range(20):
        os.pwrite(fd, b"one%d" % number, 0)
        before = times(fd)
        time.sleep(0.2)  # long after a tick
        assert not settle(fd).is_settled
        os.pwrite(fd, b"two", 0)
        if times(fd) == before:
            break
    else:
        pytest.fail("each write changed the times: there is nothing to be tested")
    settled(fd)
    before = times(fd)
    os.pwrite(fd, b"three", 0)
    assert times(fd) != before
    os.close(fd)


@pytest.mark.root
def test_what_the_disk_does_not_take_is_not_believed(tmp_path: Path) -> None:
    mounts.mount("none", tmp_path, "tmpfs", data="size=12m")
    small = places.new(tmp_path, "ext4", "small", size=64 << 20)
    fd = os.open(small.path / "file", os.O_RDWR | os.O_CREAT)
    for offset in range(0, 32 << 20, 1 << 20):
        os.pwrite(fd, os.urandom(1 << 20), offset)
    found = settle(fd)
    os.close(fd)
    places.remove(small)
    assert found.error is not None
    assert not found.is_settled
