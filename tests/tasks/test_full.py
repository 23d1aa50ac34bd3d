# SPDX-License-Identifier: MIT
"""Disks that are full while a task works: what is said, and that the next run goes on."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mounts
import places
import pytest
import restore
from command import Ran, command, run_duet
from compare import differences, look
from places import Mounted

from pyduet.maintenance import Frame, Ledger, LedgerError, Maintenance, Options, Progress, Use
from pyduet.maintenance.archive import pax
from pyduet.maintenance.frame import ledger as ledgers
from pyduet.maintenance.tasks.backup import Backup
from pyduet.maintenance.tasks.scrub import Scrub

pytestmark = pytest.mark.root

BLIND = Options(duet=Use.NEVER, give_way=False)
FILES = 1500
MS_REMOUNT = 0x20


class Small:
    """A file system in memory, of so many KiB."""

    def __init__(self, path: Path, kib: int) -> None:
        self.path = path
        self.path.mkdir()
        mounts.mount("none", path, "tmpfs", data=f"size={kib}k")

    def grow(self, kib: int) -> None:
        mounts.mount("none", self.path, flags=MS_REMOUNT, data=f"size={kib}k")


@pytest.fixture
def small(private: Path) -> Iterator[Callable[[int], Small]]:
    """A function that makes one."""
    path = private / "small"
    yield lambda kib: Small(path, kib)
    subprocess.run(["umount", path], check=True)
    path.rmdir()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A directory with so many files that a ledger of them is larger than a small file system."""
    many = tmp_path / "many"
    many.mkdir()
    fill(many)
    return many


def fill(directory: Path) -> None:
    for number in range(FILES):
        (directory / f"{number:04}{'x' * 100}").write_bytes(b"content")


def run(task: Maintenance, root: Path, state: Path) -> Progress:
    with Ledger(str(state), task.kind, str(root)) as ledger:
        return Frame(task, str(root), ledger, BLIND).run()


@pytest.mark.parametrize("kind", ["scrub", "backup"])
def test_the_disk_of_the_ledger_is_full(
    kind: str,
    many: Path,
    tmp_path: Path,
    small: Callable[[int], Small],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of the run, after some of it was committed."""
    monkeypatch.setattr(ledgers, "_COMMIT", 0.0)
    archive = tmp_path / "archive.tar"
    disk = small(152)
    state = disk.path / "state"

    def task() -> Maintenance:
        return Scrub() if kind == "scrub" else Backup(str(archive))

    with pytest.raises(LedgerError) as full:
        run(task(), many, state)
    assert str(full.value) == (
        f"{state}: there is no room on its disk; make some, and run it again"
    )
    disk.grow(4096)
    with Ledger(str(state), kind, str(many), read_only=True) as ledger:
        assert ledger.resumed
        done = len(list(ledger.files()))
    assert 0 < done < FILES
    progress = run(task(), many, state)
    assert progress.problems == []
    assert progress.files == FILES - done
    if kind == "scrub":
        assert progress.report["new"] == FILES
    else:
        (tmp_path / "restored").mkdir()
        assert restore.gnu_tar([archive], tmp_path / "restored").status == 0
        assert not differences(look(many), look(tmp_path / "restored"))


def last_type(half: Path) -> bytes:
    """Return of which type the last whole header of an archive is."""
    last = b""
    with half.open("rb") as file, contextlib.suppress(pax.ArchiveError):
        for member in pax.members(file.fileno(), ""):
            last = member.type
    return last


def test_the_disk_of_the_archive_is_full(tmp_path: Path, small: Callable[[int], Small]) -> None:
    """While files are written, then what is no file, and in the end directories."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(60):
        (tree / f"file{number}").write_bytes(b"content")
        (tree / f"link{number}").symlink_to("elsewhere")
        (tree / f"directory{number}").mkdir()
    disk = small(20)
    words = "run", "backup", tree, disk.path / "a.tar", "--state", tmp_path / "state"
    at = set()
    for kib in range(20, 400, 20):
        disk.grow(kib)
        ran = run_duet(*words, "--uninformed")
        if ran.status == 0:
            break
        half = disk.path / "a.tar.partial"
        assert (ran.status, ran.words.splitlines()[-1]) == (
            1,
            f"duet: {half}: No space left on device",
        )
        at.add(last_type(half))
    assert {pax.FILE, pax.SYMLINK, pax.DIRECTORY} <= at
    (tmp_path / "restored").mkdir()
    assert restore.gnu_tar([disk.path / "a.tar"], tmp_path / "restored").status == 0
    assert not differences(look(tree), look(tmp_path / "restored"))


def python(program: str, *args: str | Path, where: Path) -> Ran:
    """Run a program, of whose temporary databases little is in memory and the rest in a place."""
    little = "import sys\nfrom pyduet.maintenance.files import temporary\n"
    little += "temporary._CACHE_KIB = 64\n"
    done = subprocess.run(
        [sys.executable, "-c", little + program, *args],
        env={**os.environ, "PYTHONPATH": str(places.TOP), "SQLITE_TMPDIR": str(where)},
        capture_output=True,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def duet(*args: str | Path, where: Path) -> Ran:
    program = "from pyduet.cli import main\nsys.exit(main(sys.argv[1:]))"
    return python(program, *command(*args)[4:], where=where)


def no_room(disk: Small, why: str = "database or disk is full") -> str:
    return (
        f"{disk.path}: the list of files cannot be kept there ({why}): set SQLITE_TMPDIR to a "
        "directory that has room\n"
    )


@pytest.mark.parametrize("kib", [300, 700, 1000, 1300])
def test_there_is_no_room_for_what_rsync_would_send(
    kib: int, many: Path, tmp_path: Path, small: Callable[[int], Small]
) -> None:
    """In the walk, in the list that rsync gives, or when it is asked for links."""
    disk = small(kib)
    ran = duet(
        "run", "rsync", many, tmp_path / "copy", "--state", tmp_path / "state", where=disk.path
    )
    assert (ran.status, ran.words.splitlines(keepends=True)[-1]) == (1, f"duet: {no_room(disk)}")
    assert not (tmp_path / "copy").exists()


@pytest.mark.fs("btrfs")
def test_there_is_no_room_for_the_names_of_a_stream(
    mounted: Mounted, tmp_path: Path, small: Callable[[int], Small]
) -> None:
    """In the walk, or while btrfs tells the names; and where there is, the run goes on."""
    live, snapshot = mounted.path / "live", mounted.path / "snapshot"
    subprocess.run(["btrfs", "-q", "subvolume", "create", live], check=True)
    fill(live)
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", "-r", live, snapshot], check=True)
    words = "run", "send", live, snapshot, tmp_path / "out", "--state", tmp_path / "state"
    disk = small(300)
    for kib in (300, 600, 900, 1200):
        disk.grow(kib)
        ran = duet(*words, where=disk.path)
        last = ran.words.splitlines(keepends=True)[-1]
        assert (ran.status, last) == (1, f"duet: {no_room(disk)}")
        assert not (tmp_path / "out").exists()
    disk.grow(32 << 10)
    ran = duet(*words, where=disk.path)
    assert ran.status == 0, ran.words


#: Of lists that were there before the disk was full: an inventory, and a plan of a stream.
LISTS = """
import os
from pyduet.maintenance import Found, Inventory, Status, TargetError
from pyduet.maintenance.btrfs.sendplan import SendPlan
from pyduet.maintenance.btrfs.sendstream import Attr, Cmd, Command

def found():
    for ino in range(1, 40_000):
        ino = ino * 2_654_435_761 % (1 << 40)
        yield Found(f"file{ino}", Status(0o100600, 1, 0, 0, 5, ino, *[0] * 7, ino, 1, False))

def command(number, path):
    return Command(number, {Attr.PATH: path})

inventory = Inventory(found())
plan = SendPlan(lambda _: None)
for number in range(1, 4000):
    plan.take(command(Cmd.MKFILE, b"%d" % number), b"")
with open(os.path.join(os.environ["SQLITE_TMPDIR"], "full"), "wb", buffering=0) as file:
    try:
        while file.write(bytes(4096)):
            pass
    except OSError:
        pass

def take():
    for number in range(4000, 8000):
        plan.take(command(Cmd.MKFILE, b"%d" % number), b"")

def is_inode():
    for number in range(1, 4000):
        plan.is_inode(number, number * 2_654_435_761 % (1 << 64))

for use in (
    lambda: list(inventory.inodes()),
    lambda: list(inventory.links()),
    lambda: list(inventory.regular()),
    is_inode,
    take,
):
    try:
        use()
    except TargetError as error:
        print(f"{error.filename}: {error.strerror}")
    else:
        print("there was room")
"""


def test_there_is_no_room_for_more(small: Callable[[int], Small]) -> None:
    disk = small(32 << 10)
    ran = python(LISTS, where=disk.path)
    assert ran.words == ""
    # What comes after it, of a list that is no more, is no other error.
    first, second = no_room(disk), no_room(disk, "database disk image is malformed")
    lines = os.fsdecode(ran.stdout).splitlines(keepends=True)
    assert len(lines) == 5
    assert set(lines) <= {first, second}
    assert lines[0] == lines[3] == first
