# SPDX-License-Identifier: MIT
"""Maintenance with Duet: the order, the done marks, what is shared, and what is left in memory."""

import codecs
import functools
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from actions import (
    evict,
    read_page,
    reflink,
    sync_file,
)
from conftest import eventually, file_system_type, mount_of
from ordinary import ANNA, as_user, device_for_group, register_as
from truth import drop_caches

from pyduet import Device, Mask, cached_pages, identity_of
from pyduet.files import cached_ranges
from pyduet.maintenance import (
    Frame,
    Ledger,
    Maintenance,
    Options,
    Progress,
    Reading,
    Tree,
    Trouble,
    Use,
)
from pyduet.maintenance.files.extents import extents
from pyduet.maintenance.frame import pace
from pyduet.maintenance.frame.inventory import Inventory, work_of
from pyduet.maintenance.frame.ledger import Record
from pyduet.maintenance.sharing.neighbours import Neighbours
from pyduet.maintenance.tasks.backup import Backup
from pyduet.maintenance.tasks.defrag import Defrag
from pyduet.maintenance.tasks.scrub import Scrub

PAGE = os.sysconf("SC_PAGESIZE")
CALM = Options(duet=Use.REQUIRED, give_way=False)
#: Seconds that tests wait for another process, which is slow in an emulated machine.
LONG = 300


@pytest.fixture
def files(place: Path) -> list[Path]:
    """Forty files of 64 pages, of which nothing is cached."""
    found = []
    for number in range(40):
        path = place / "tree" / f"file{number:02}"
        path.write_bytes(os.urandom(64 * PAGE))
        sync_file(path)
        evict(path)
        found.append(path)
    drop_caches()
    return found


def run(
    task: Maintenance,
    place: Path,
    options: Options = CALM,
    tell: Callable[[Progress], object] = lambda _: None,
) -> Progress:
    with Ledger(str(place / "out" / task.kind), task.kind, str(place / "tree")) as ledger:
        return Frame(task, str(place / "tree"), ledger, options, tell).run()


def test_what_is_cached_comes_first(device: Device, place: Path, files: list[Path]) -> None:
    """The archive tells the order: by how much of each is in memory."""
    files[31].read_bytes()
    for page in range(40):
        read_page(files[17], page)
    for page in range(12):
        read_page(files[25], page)
    archive = place / "out/archive.tar"
    progress = run(Backup(str(archive)), place)
    assert progress.problems == []
    assert progress.blind is None
    assert progress.bytes_cached == (64 + 40 + 12) * PAGE
    with tarfile.open(archive) as tar:
        names = [member.name for member in tar if member.isfile()]
    assert names[:3] == ["./file31", "./file17", "./file25"]
    assert sorted(names) == [f"./file{number:02}" for number in range(40)]


def test_it_leaves_memory_as_it_was(device: Device, place: Path, files: list[Path]) -> None:
    for page in (3, 4, 9):
        read_page(files[5], page)
    files[6].read_bytes()
    run(Scrub(), place)
    assert cached_pages(files[5]) == {3, 4, 9}
    assert cached_pages(files[6]) == set(range(64))
    assert not [path.name for path in files if path not in files[5:7] and cached_pages(path)]


class Large(Maintenance):
    """Looks at what of a file is cached when most of it was read."""

    kind = "large"
    cached = -1

    def process(self, reading: Reading, before: object) -> None:
        for number, _ in enumerate(reading.pieces()):
            if number == 40:
                self.cached = sum(map(len, cached_ranges(reading.fd))) * PAGE


def test_a_large_file_does_not_fill_memory(device: Device, place: Path) -> None:
    """What is behind is dropped while it is read, unless somebody else wants it."""
    with (place / "tree/file").open("wb") as file:
        for _ in range(48):
            file.write(os.urandom(1 << 20))
    sync_file(place / "tree/file")
    drop_caches()
    alone, beside = Large(), Large()
    run(alone, place)
    with device.register(place / "tree", Mask.EXISTS, name="duet-run/reader"):
        run(beside, place, Options(give_way=False, patience=1))
    assert alone.cached < 24 << 20
    assert beside.cached >= 40 << 20


class Watched(Maintenance):
    """Looks at its own task while it works."""

    kind = "watched"

    def __init__(self, device: Device) -> None:
        self.device = device
        self.done: list[int] = []
        self.names: set[str] = set()

    def process(self, reading: Reading, before: object) -> None:
        list(reading.pieces())
        [task] = self.device.tasks()
        self.names.add(task.name)
        self.done.append(task.done)


def test_done_marks_are_set_as_it_goes(device: Device, place: Path, files: list[Path]) -> None:
    task = Watched(device)
    run(task, place)
    assert task.done == list(range(40))
    assert task.names == {"duet-run/watched"}
    assert device.tasks() == []


class Idle(Watched):
    """Has nothing to do with what it has seen before."""

    kind = "idle"
    always = False

    def finish(self, found: object) -> None:
        [task] = self.device.tasks()
        self.done.append(task.done)


def test_what_needs_nothing_is_marked_done(device: Device, place: Path, files: list[Path]) -> None:
    """Else the others would keep it in memory for a task that never comes to it."""
    run(Idle(device), place)
    files[7].write_bytes(b"changed")
    task = Idle(device)
    run(task, place)
    assert task.done == [39, 40]


def command(*arguments: str | Path, polite: bool = False) -> list[str | Path]:
    calm = ["--no-idle", *([] if polite else ["--no-give-way"])]
    return [sys.executable, "-m", "pyduet", "run", *arguments, *calm]


def read_from_disk() -> int:
    """Bytes that were read of the disk of /mnt/duet."""
    disk = Path(mount_of()[0]).name
    return int(Path(f"/sys/class/block/{disk}/stat").read_text().split()[2]) * 512


@pytest.mark.parametrize("polite", [False, True], ids=["no-give-way", "give-way"])
def test_two_tasks_share_what_they_read(
    device: Device, place: Path, files: list[Path], polite: bool
) -> None:
    """A window of four files: whoever is ahead waits, so that nothing has to be read again.

    Nor when each takes the other for somebody whom it has to leave the disk.
    """
    window = ["--window", str(4 * 64 * PAGE), "--patience", str(LONG)]
    before = read_from_disk()
    # Neither gets further than its window before both are there.
    gate = device.register(place / "tree", Mask.EXISTS, name="duet-run/gate")
    tasks = [
        subprocess.Popen(
            command(
                kind, place / "tree", *more, "--state", place / "out" / kind, *window, "--json",
                polite=polite,
            ),
            stdout=subprocess.PIPE, text=True,
        )
        for kind, more in (("scrub", []), ("backup", [place / "out/archive.tar"]))
    ]  # fmt: skip
    assert eventually(lambda: len(device.tasks()) == 3, LONG)
    gate.close()
    answers = [task.communicate(timeout=LONG)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0]
    read = read_from_disk() - before
    whole = 40 * 64 * PAGE
    ends = [json.loads(answer.splitlines()[-1]) for answer in answers]
    assert [end["bytes_done"] for end in ends] == [whole, whole]
    assert read <= 1.15 * whole
    # Where both read the same file at the same time, neither counts it as saved.
    assert sum(end["bytes_cached"] for end in ends) >= 0.5 * whole
    # Nobody wants them any more.
    assert not [path.name for path in files if cached_pages(path)]


def test_who_comes_while_another_goes_is_asked(
    device: Device, place: Path, files: list[Path]
) -> None:
    """The list of neighbours is believed for a while, but not when it is seen to be old."""
    tree = place / "tree"
    with Tree(str(tree)) as held, Inventory(held.walk(print, print)) as found:
        works = [work_of(held, one) for one in found.regular()]
    assert len(works) == len(files)
    with (
        device.register(tree, Mask.EXISTS, name="duet-run/own") as own,
        device.register(tree, Mask.EXISTS, name="duet-run/first") as first,
    ):
        neighbours = Neighbours(device, own)
        assert all(neighbours.wanted(works))
        with device.register(tree, Mask.EXISTS, name="duet-run/second") as second:
            first.close()
            second.mark_many([works[7].identity])
            assert neighbours.wanted(works) == [number != 7 for number in range(len(works))]
        assert not any(neighbours.wanted(works))


def test_who_does_nothing_is_waited_for_once(
    device: Device, place: Path, files: list[Path]
) -> None:
    """And not for each file that there is no room for."""
    options = Options(duet=Use.REQUIRED, give_way=False, window=4 * 64 * PAGE, patience=5)
    with device.register(place / "tree", Mask.EXISTS, name="duet-run/idle"):
        progress = run(Scrub(), place, options)
    assert progress.problems == []
    # Once it was that for each of 36 files.
    assert 0 < progress.waited < 20


def test_a_user_does_not_hold_up_root(device: Device, place: Path, files: list[Path]) -> None:
    place.chmod(0o755)
    options = Options(duet=Use.REQUIRED, give_way=False, window=4 * 64 * PAGE, patience=LONG)
    with device_for_group():
        idle = register_as(ANNA, place / "tree", Mask.EXISTS, name="duet-run/idle")
        progress = run(Scrub(), place, options)
        idle.close()
    assert progress.files_done == len(files)
    assert progress.waited < LONG / 2


def processor_time(pid: int) -> float:
    """Return for how many seconds a process has run."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_waiting_costs_little(device: Device, place: Path, files: list[Path]) -> None:
    """Who waits for others leaves them the processor, however much there is to be told."""
    gate = device.register(place / "tree", Mask.EXISTS, name="duet-run/gate")
    window = ["--window", str(4 * 64 * PAGE), "--patience", str(LONG), "--json"]
    task = subprocess.Popen(
        command("scrub", place / "tree", "--state", place / "out/scrub", *window),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert task.stdout is not None
        for line in task.stdout:
            if json.loads(line)["step"] == "waiting for other tasks":
                break
        begin, used = time.monotonic(), processor_time(task.pid)
        while time.monotonic() - begin < 10:
            read_page(files[39], 7)
            evict(files[39])
            time.sleep(0.005)
        share = (processor_time(task.pid) - used) / (time.monotonic() - begin)
    finally:
        task.kill()
        task.communicate()
        gate.close()
    assert share < 0.4


#: Somebody who always waits for the disk: reads it past the page cache.
BUSY = """
import itertools, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
for offset in itertools.cycle(range(0, 128 << 20, 1 << 20)):
    os.preadv(fd, [buffer], offset)
    if offset == 1 << 20:
        print("reading", flush=True)
"""


def test_a_busy_disk_is_left_to_others(device: Device, place: Path, files: list[Path]) -> None:
    """What is in memory is done meanwhile; the rest in short turns, and in peace afterwards."""

    class Recorded(Scrub):
        done: ClassVar[list[str]] = []

        def process(self, reading: Reading, before: Record | None) -> Any:
            note = super().process(reading, before)
            self.done.append(Path(reading.work.path).name)
            return note

    assert Path("/proc/pressure/io").exists()
    told: list[tuple[str, float]] = []
    cached, later = files[30:35], files[35:]
    # So large that it takes many turns to read them, however quick the machine is.
    for path in files[:30]:
        path.write_bytes(os.urandom(4 << 20))
        sync_file(path)
        evict(path)
    for path in cached:
        path.read_bytes()

    def tell(progress: Progress) -> None:
        told.append((progress.step, progress.waited))

    def leaves() -> bool:
        return bool(told) and told[-1][0] == "leaving the disk to others"

    reads = [sys.executable, "-c", BUSY, mount_of()[0]]
    reader = subprocess.Popen(reads, stdout=subprocess.PIPE, text=True)
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        with ThreadPoolExecutor(1) as pool:
            end = pool.submit(run, Recorded(), place, Options(), tell)
            assert eventually(leaves)
            assert sorted(Recorded.done[:5]) == [path.name for path in cached]
            begin, before = time.monotonic(), told[-1][1]
            # The turns are rare by now.
            assert eventually(lambda: told[-1][1] - before > 8)
            waited = (told[-1][1] - before) / (time.monotonic() - begin)
            assert eventually(leaves)
            for path in later:
                path.read_bytes()
            names = {path.name for path in later}
            assert eventually(lambda: names <= set(Recorded.done))
            cold = set(Recorded.done) - names - {path.name for path in cached}
            assert len(cold) < 30
            assert not end.done()
            reader.kill()
            progress = end.result(LONG)
    finally:
        reader.kill()
        reader.wait()
    assert waited > 0.5
    assert progress.problems == []
    assert sorted(Recorded.done) == [path.name for path in files]


def test_a_load_that_begins_is_noticed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, not when it would be looked again; what a task itself reads is no load."""
    monkeypatch.setattr(pace, "_FIRST", LONG)
    os.sync()
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        time.sleep(seconds)

    courtesy = pace.Courtesy(sleep)
    assert courtesy.may_read()
    assert len(looks) == 1
    large = place / "tree/large"
    large.write_bytes(os.urandom(8 << 20))
    sync_file(large)

    def as_a_child() -> None:
        subprocess.run(["cat", large], stdout=subprocess.DEVNULL, check=True)

    for read in (large.read_bytes, as_a_child):
        evict(large)
        before = read_from_disk()
        read()
        assert read_from_disk() - before >= 8 << 20
        time.sleep(0.2)
        assert courtesy.may_read()
    assert len(looks) == 1
    reader = subprocess.Popen(
        [sys.executable, "-c", BUSY, mount_of()[0]], stdout=subprocess.PIPE, text=True
    )
    try:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        begin = time.monotonic()
        assert eventually(lambda: not courtesy.may_read())
    finally:
        reader.kill()
        reader.wait()
    assert time.monotonic() - begin < LONG / 2
    assert len(looks) == 2


def children() -> list[str]:
    """Processes that this one forked, whichever thread did."""
    return [
        number
        for thread in Path("/proc/self/task").iterdir()
        for number in (thread / "children").read_text().split()
    ]


def test_tasks_of_an_ordinary_user_share(
    device: Device, place: Path, files: list[Path], share: Callable[[int], None]
) -> None:
    """They see each other, and may ask what is done; no privilege is needed for it."""
    share(50)  # of 8 tasks
    for path in (place / "tree", place / "out", *files):
        os.chown(path, ANNA, ANNA)
    place.chmod(0o755)
    options = Options(give_way=False, window=4 * 64 * PAGE, patience=LONG)
    kinds = (Scrub(), Backup(str(place / "out/archive.tar")))
    before = read_from_disk()
    codecs.lookup("ascii")  # while this process may still read where Python is

    def begin(kind: Maintenance) -> Progress:
        # The gate is none of its descriptors, which a child has of its parent.
        assert eventually((place / "out/go").exists, LONG)
        return run(kind, place, options)

    with device_for_group(), ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(as_user, ANNA, functools.partial(begin, kind)) for kind in kinds]
        assert eventually(lambda: len(children()) == 2, LONG)
        gate = register_as(ANNA, place / "tree", Mask.EXISTS, name="duet-run/gate")
        (place / "out/go").touch()
        assert eventually(lambda: len(device.tasks()) == 3, LONG)
        gate.close()
        progress = [end.result(LONG) for end in ends]
    assert [one.problems for one in progress] == [[], []]
    assert [one.files_done for one in progress] == [40, 40]
    assert read_from_disk() - before <= 1.15 * 40 * 64 * PAGE
    assert not [path.name for path in files if cached_pages(path)]


def test_it_goes_on_without_duet(device: Device, place: Path, files: list[Path]) -> None:
    """Switched off in the middle, the work is done all the same, and it is said."""

    class Interrupted(Maintenance):
        kind = "interrupted"
        seen = 0

        def process(self, reading: Reading, before: object) -> None:
            list(reading.pieces())
            self.seen += 1
            if self.seen == 10:
                device.stop()

    task = Interrupted()
    progress = run(task, place)
    assert task.seen == 40
    assert "off" in str(progress.blind)


@pytest.mark.fs("ext4", "xfs")
def test_corruption_is_found(device: Device, place: Path, files: list[Path]) -> None:
    """A bit is turned on the disk, below the file system; btrfs would refuse the read."""
    run(Scrub(), place)
    victim = files[23]
    drop_caches()
    fd = os.open(victim, os.O_RDONLY)
    place_on_disk = next(extents(fd)).physical + 5 * PAGE + 77
    os.close(fd)
    fd = os.open(mount_of()[0], os.O_RDWR)
    byte = os.pread(fd, 1, place_on_disk)
    os.pwrite(fd, bytes([byte[0] ^ 1]), place_on_disk)
    os.fsync(fd)
    os.close(fd)
    drop_caches()
    progress = run(Scrub(), place)
    assert {problem.path: problem.trouble for problem in progress.problems} == {
        "file23": Trouble.DIFFERENT
    }
    assert progress.report["verified_on_disk"] == 39


def in_pieces(place: Path) -> list[Path]:
    """Two files in many extents, and 60 each on XFS."""
    paths = [place / "tree" / name for name in ("one", "two")]
    if file_system_type() == "xfs":
        # Which finds places too good for files that are written in turns.
        source = place / "out/source"
        source.write_bytes(os.urandom(240 * PAGE))
        sync_file(source)
        for path in paths:
            with path.open("wb") as file:
                file.truncate(240 * PAGE)
            for number in range(60):
                reflink(source, path, 4, 4 * number, origin=236 - 4 * number)
        source.unlink()
        return paths
    fds = [os.open(path, os.O_CREAT | os.O_RDWR) for path in paths]
    for _ in range(60):
        for fd in fds:
            os.write(fd, os.urandom(4 * PAGE))
            os.fsync(fd)
    for fd in fds:
        os.close(fd)
    return paths


def pieces(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        return len(list(extents(fd)))
    finally:
        os.close(fd)


@pytest.mark.fs("ext4", "btrfs", "xfs")
def test_defrag_comes_last(device: Device, place: Path) -> None:
    """A file is moved when no other task wants it any more."""
    paths = in_pieces(place)
    before = [pieces(path) for path in paths]
    with device.register(place / "tree", Mask.EXISTS, name="duet-run/reader") as reader:
        task = subprocess.Popen(
            command(
                "defrag", place / "tree", "--state", place / "out/defrag", "--patience", str(LONG)
            )
        )
        assert eventually(lambda: len(device.tasks()) == 2, LONG)
        reader.mark_done(identity_of(paths[1]))
        assert eventually(lambda: pieces(paths[1]) < before[1] / 2, LONG)
        assert pieces(paths[0]) == before[0]
    assert task.wait(LONG) == 0
    assert pieces(paths[0]) < before[0] / 2


@pytest.mark.fs("ext4", "btrfs", "xfs")
def test_defrag_joins_extents(device: Device, place: Path) -> None:
    """What was cached is not read again."""
    paths = in_pieces(place)
    content = [path.read_bytes() for path in paths]
    times = [path.stat().st_mtime_ns for path in paths]
    task = Defrag()
    before = read_from_disk()
    progress = run(task, place)
    assert read_from_disk() - before < 0.2 * sum(map(len, content))
    assert progress.problems == []
    assert task.before > 6
    assert task.after < task.before / 2
    drop_caches()
    assert [path.read_bytes() for path in paths] == content
    assert [path.stat().st_mtime_ns for path in paths] == times
    assert eventually(lambda: device.tasks() == [])


def test_a_task_of_ones_own(device: Device, place: Path) -> None:
    """The example, which is below sixty lines, the second time on what has changed."""
    example = Path(__file__).parents[2] / "examples/count_lines.py"
    assert len(example.read_text().splitlines()) < 60
    for number in range(5):
        (place / "tree" / f"text{number}").write_text("line\n" * number)
    program = [sys.executable, str(example), str(place / "tree")]
    for lines, size in ((10, 50), (13, 20)):
        done = subprocess.run(
            program, cwd=place / "out", capture_output=True, text=True, check=True, timeout=LONG
        )
        assert done.stdout.startswith(f"{lines} lines; ")
        assert f"of {size} bytes" in done.stdout
        (place / "tree/text1").write_text("line\n" * 4)
