# SPDX-License-Identifier: MIT
"""Races with windows of some instructions, into which debug builds of the module step for sure.

Truth: truth.py, and what the kernel's own tracepoints say was queued.
"""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path

import pytest
from actions import evict, read_page
from conftest import DELAY, EVENTS, MOUNT, PARAMETERS, STATES, counter, eventually
from disk import Disk
from held import Thread, held
from truth import PAGE, TRACEFS, Watch, drop_caches, fill, identity, truth_of
from verdicts import verdicts

from pyduet import Device, Mask, State

Register = Callable[..., Watch]
MODULE = Path("/run/duet-lab/duet.ko")
#: Seconds for a call that may, rightly, wait for who is kept: then it is let go.
PATIENCE = 2
#: DUET_VERDICT_TRIES of driver/verdict.c.
TRIES = 3
#: Inodes: a shrinker takes up to 1,024 at once; a scan passes 256 (DUET_SCAN_STEP).
DYING = 1200

pytestmark = pytest.mark.kernel_with(DELAY)


class Listening:
    """How often Duet was to begin to hear of opens, and what it decided, by the kernel's trace."""

    def __init__(self, instance: Path) -> None:
        """Begin to listen."""
        self._instance = instance
        (instance / "buffer_size_kb").write_text("4096")
        for event in ("workqueue/workqueue_queue_work", "workqueue/workqueue_execute_end"):
            (instance / "events" / event / "enable").write_text("1")
        (instance / "events/duet/duet_verdict/enable").write_text("1")

    def lines(self, pattern: str) -> list[str]:
        """Return what was traced so far, as far as it fits a pattern."""
        return re.findall(f"^.*{pattern}.*$", (self._instance / "trace").read_text(), re.M)

    def begins(self) -> int:
        """Return how often it was queued."""
        return len(self.lines("workqueue_queue_work: .*duet_fs_listen"))

    def ends(self) -> int:
        """Return how often it was done."""
        return len(self.lines("workqueue_execute_end: .*duet_fs_listen"))


@pytest.fixture
def listening() -> Iterator[Listening]:
    """Return what is traced from here on; it goes with the test."""
    instance = TRACEFS / "instances/duet-races"
    instance.mkdir()
    yield Listening(instance)
    (instance / "events/enable").write_text("0")
    instance.rmdir()


def test_task_registers_during_a_verdict(watch: Register, place: Path) -> None:
    """Pitfall: a verdict of before a registration threw the new task off a file for ever."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    watch(place / "out")
    with Thread() as reader, Thread() as other, held("verdict", thread=reader.number) as hold:
        reading = reader.submit(read_page, path, 2)
        hold.wait()
        registering = other.submit(watch, place / "tree")
        wait([registering], PATIENCE)
        hold.release()
        reading.result()
        one = registering.result()
    one.read()
    assert one.tally.cached(identity(path)) == truth_of(path).cached == {2}


@pytest.mark.parametrize("mask", [STATES, EVENTS])
def test_another_run_takes_a_files_first_node(
    device: Device, watch: Register, place: Path, mask: Mask
) -> None:
    """Pitfall: the scan had no node for its run then: it told of a loss, and not of the run."""
    path = fill(place / "tree/file", 128)
    evict(path)
    read_page(path, 3)
    with Thread() as scanner, held("spare", thread=scanner.number) as hold:
        registering = scanner.submit(watch, place / "tree", mask)
        hold.wait()
        assert counter("nodes") == 0
        read_page(path, 100)
        assert counter("nodes") == 1
        hold.release()
        one = registering.result()
    assert one.news(path) == {3: State.ADDED, 100: State.ADDED}
    assert one.tally.overflows == 0


def test_files_that_come_and_go_while_another_is_decided(watch: Register, place: Path) -> None:
    """Pitfall: a verdict was made again for each file that anybody made or removed meanwhile."""
    path = fill(place / "tree/file", 4)
    ino = path.stat().st_ino
    evict(path)
    one = watch(place / "tree")
    with Thread() as reader, verdicts(reader.number) as taken:
        with held("verdict", thread=reader.number) as hold:
            reading = reader.submit(read_page, path, 2)
            hold.wait()
            for number in range(200):
                fill(place / f"out/{number}", 1, sync=False).unlink()
            hold.release()
        reading.result()
        assert [verdict.ino for verdict in taken()].count(ino) == 1
    assert one.news(path) == {2: State.ADDED}


def test_task_registers_during_anothers_scan(watch: Register, place: Path) -> None:
    """Pitfall: the same of a verdict that a scan makes, which no registration waits for."""
    path = fill(place / "tree/file", 4)
    other = watch(place / "out")
    drop_caches()
    read_page(path, 2)
    with Thread() as scanner, held("looked", thread=scanner.number) as hold:
        other.task.rescan()
        scanning = scanner.submit(other.read)
        hold.wait()
        one = watch(place / "tree")
        assert one.news(path) == {2: State.ADDED}
        hold.release()
        scanning.result()
    one.read()
    assert one.tally.cached(identity(path)) == truth_of(path).cached == {2}


def test_task_registers_during_a_scans_last_try(watch: Register, place: Path) -> None:
    """Pitfall: the same of a verdict that stands although it is void, because others were, too."""
    path = fill(place / "tree/file", 4)
    other = watch(place / "out")
    watch(place / "tree")  # the file has an entry
    drop_caches()
    read_page(path, 2)
    with Thread() as scanner, held("looked", thread=scanner.number) as hold:
        other.task.rescan()
        scanning = scanner.submit(other.read)
        hold.wait(1)
        for tries in range(1, TRIES):
            watch(place / "out").task.close()
            hold.keep("verdict")
            hold.wait(2 * tries)
            hold.keep("looked")
            hold.wait(2 * tries + 1)
        one = watch(place / "tree")
        assert one.news(path) == {2: State.ADDED}
        hold.release()
        scanning.result()
    one.read()
    assert one.tally.cached(identity(path)) == truth_of(path).cached == {2}


def test_file_moves_in_between_its_first_pages(watch: Register, place: Path) -> None:
    """Pitfall: its verdict began again, and took the page that came meanwhile for none."""
    path, inside = fill(place / "out/file", 65), place / "tree/file"
    one = watch(place / "tree")
    drop_caches()
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    with Thread() as reader, Thread() as mover, held("nobody") as hold:
        reading = reader.submit(os.pread, fd, 1, 0)
        hold.wait()
        hold.keep("nobody", "moved")
        moving = mover.submit(path.rename, inside)
        hold.wait(2)
        # Nobody wants it, by the verdict that is void.
        os.pread(fd, 1, 64 * PAGE)
        hold.keep("moved")
        reading.result()
        hold.release()
        moving.result()
    os.close(fd)
    one.read()
    assert one.tally.cached(identity(inside)) == truth_of(inside).cached == {0, 64}


def test_many_inodes_die_during_a_scan(watch: Register, place: Path) -> None:
    """Pitfall: a scan passed any number of inodes that die, and let nobody else have their list."""
    # New inodes come first in the list, so a scan meets this one last.
    path = fill(place / "tree/old", 1)
    for i in range(DYING):
        fill(place / f"tree/{i}", 1)
    one = watch(place / "tree", EVENTS)
    with path.open("rb") as old:
        # First names go, while pages keep the inodes: all can be taken off their list at once.
        drop_caches(2)
        drop_caches(1)
        os.pread(old.fileno(), 1, 0)
        one.read()
        with Thread() as dropper, held("evicted", thread=dropper.number) as hold:
            dropping = dropper.submit(drop_caches, 2)
            hold.wait()
            one.task.rescan()
            told = one.news(path)
            assert not dropping.done(), "it waited for them"
            hold.release()
            dropping.result()
        assert told == {0: State.ADDED}


def test_two_files_of_unknown_names_at_once(
    watch: Register, place: Path, listening: Listening
) -> None:
    """Pitfall: two who met one made Duet begin to hear of opens twice, and then again and again."""
    paths = [fill(place / f"tree/file{i}", 1) for i in range(4)]
    for path in paths:
        (place / "out" / path.name).hardlink_to(path)
    drop_caches()
    watch(place / "tree")
    with Thread() as reader, held("unnamed", thread=reader.number) as hold:
        reading = reader.submit(read_page, paths[0], 0)
        hold.wait()
        read_page(paths[1], 0)
        assert eventually(lambda: listening.ends() == 1)
        hold.release()
        reading.result()
    assert eventually(lambda: listening.begins() == listening.ends())
    for path in paths[2:]:
        read_page(path, 0)
    assert listening.begins() == 1


@pytest.mark.fs("btrfs")
def test_balance_makes_nobody_hear_of_opens(
    watch: Register, place: Path, listening: Listening
) -> None:
    """Pitfall: btrfs moves data by an inode without a name, which was taken for a file with one."""
    paths = [fill(place / f"out/file{i}", 1024) for i in range(4)]
    os.sync()
    watch(place / "tree")
    command = ["btrfs", "balance", "start", "--full-balance", MOUNT]
    subprocess.run(command, check=True, capture_output=True)
    ours = {path.stat().st_ino for path in paths}
    decided = [
        int(match[1])
        for line in listening.lines("duet_verdict: ")
        if (match := re.search(r"ino=(\d+) ", line))
    ]
    # It did go through the page cache, by an inode that is none of the files.
    assert [ino for ino in decided if ino not in ours]
    assert listening.lines("duet_verdict: .*name=unknown") == []
    assert listening.begins() == 0
    # Once it is known that nobody wants its pages, nothing is asked about them.
    assert len(decided) < 100


@pytest.mark.fs("ext4")  # has a number for each directory that tells it from the one before
def test_file_moves_while_its_directory_is_copied(watch: Register, place: Path) -> None:
    """Pitfall: the number of one directory with the generation of another is none's."""
    for name in "ab":
        (place / "tree" / name).mkdir()
    path, elsewhere = fill(place / "tree/a/file", 2), place / "tree/b/file"
    one, other = watch(place / "tree"), watch(place / "tree")
    one.read()
    other.read()
    file = identity(path)
    with Thread() as marker, held("origin", thread=marker.number) as hold:
        marking = marker.submit(one.task.mark_done, file)
        hold.wait()
        path.rename(elsewhere)
        hold.release()
        marking.result()
    elsewhere.rename(path)
    # The other one's news keep the file's entry, so nobody writes down again where it was.
    drop_caches()
    assert one.task.path_of(file) == str(path)


@pytest.mark.fs("btrfs")
def test_task_ends_while_a_file_is_first_seen(device: Device, watch: Register, place: Path) -> None:
    """Pitfall: the file was nobody's for who is done with it: of no subvolume.

    A second look at the task for whom it was taken up found that gone.
    """
    path = fill(place / "tree/file", 2)
    file = identity(path)
    drop_caches()
    first, second = watch(place / "tree"), watch(place / "tree")
    with Thread() as reader, Thread() as ender, held("wanted", thread=reader.number) as hold:
        reading = reader.submit(read_page, path, 0)
        hold.wait()
        ending = ender.submit(first.task.close)
        assert eventually(lambda: counter("tasks") == 1)
        hold.release()
        reading.result()
        ending.result()
    assert second.news(file) == {0: State.ADDED}
    second.task.mark_done(file)
    read_page(path, 1)
    assert second.read() == []


@pytest.mark.fs("ext4")
def test_file_system_goes_while_a_walk_has_its_file(
    device: Device, watch: Register, place: Path
) -> None:
    """Pitfall: the end of the walk looked at what was kept of the file system, which was freed.

    Only a kernel with KASAN says so: tests/kernel in make test-debug.
    """
    disk = Disk(place)
    one = watch(place / "out")
    with Thread() as scanner, device.register(disk.tree, STATES) as task:
        fill(disk.tree / "file", 1)
        assert task.read_batch()
        # The only entry there is.
        assert counter("files") == 1
        with held("walked", thread=scanner.number) as hold:
            one.task.rescan()
            scanning = scanner.submit(one.read)
            hold.wait()
            task.close()
            # The module lets go of what it keeps of a file system when its last mark went.
            disk.unmount()
            assert eventually(disk.is_free)
            time.sleep(1)
            hold.release()
            assert scanning.result() == []


def test_module_goes_while_a_file_system_does(place: Path) -> None:
    """Pitfall: rmmod freed the code that an unmount was in, when the task was closed meanwhile."""
    disk = Disk(place)
    try:
        with Thread() as unmounter, Thread() as remover, held("freeing") as hold:
            with Device() as device:
                if not device.is_on():
                    device.start()
                task = device.register(disk.tree, STATES)
                unmounting = unmounter.submit(disk.unmount)
                hold.wait()
                task.close()
            removing = remover.submit(subprocess.run, ["rmmod", "duet"], check=True)
            wait([removing], PATIENCE)
            assert not removing.done(), "rmmod waits for nobody"
            hold.release()
            unmounting.result()
            removing.result()
    finally:
        if not PARAMETERS.exists():
            subprocess.run(["insmod", MODULE], check=True)
    assert eventually(disk.is_free)
