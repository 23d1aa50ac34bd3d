# SPDX-License-Identifier: MIT
"""Root runs tasks on what a user may change meanwhile, who wants what he may not read."""

import contextlib
import ctypes
import os
import re
import sqlite3
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from beside import beside
from command import Ran, run_forked
from mounts import MS_BIND, mount
from places import USER, Mounted
from racing import MOMENT, NOTE, OWNER, PAIRS, SECRET, Field, hostile, racer_in
from snapshots import subvolume

pytestmark = pytest.mark.root

#: Runs a task on the tree; what it writes goes to the directory.
Task = Callable[[Field, Path], list[Ran]]

_UMOUNT_DETACH = 2
_LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="session")
def racer(private: Path) -> Path:
    """The program of the hostile user."""
    return racer_in(private)


def mounting(field: Field) -> contextlib.AbstractContextManager[None]:
    """Have a secret mounted over a user's directory and unmounted, until the context ends."""

    def mount_all() -> None:
        for number, secret in enumerate(field.secrets):
            # A link may be there, just now: then it would be mounted on a secret.
            place = os.open(field.tree / f"still/m{number}", os.O_PATH)
            mount(str(secret), Path(f"/proc/self/fd/{place}"), flags=MS_BIND)
            os.close(place)
        for number in range(PAIRS):
            _LIBC.umount2(os.fsencode(field.tree / f"still/m{number}"), _UMOUNT_DETACH)

    return beside("mounting", mount_all)


def backup(field: Field, out: Path) -> list[Ran]:
    """Write a full archive and an incremental one."""
    return [
        run_forked("run", "backup", field.tree, out / "full.tar", "--state", out / "state"),
        run_forked(
            "run", "backup", field.tree, out / "inc.tar", "--incremental", "--state", out / "state"
        ),
    ]


def scrub(field: Field, out: Path) -> list[Ran]:
    """Make checksums, and compare with them."""
    return [run_forked("run", "scrub", field.tree, "--state", out / "state") for _ in range(2)]


def rsync(field: Field, out: Path) -> list[Ran]:
    """Copy, twice."""
    target = out / "copy"
    return [
        run_forked(
            "run", "rsync", "--state", out / "state", field.tree, target, "--", "-X", timeout=60
        )
        for _ in range(2)
    ]


def defrag(field: Field, out: Path) -> list[Ran]:
    """Defragment."""
    return [run_forked("run", "defrag", field.tree, "--state", out / "state")]


def btrfs_scrub(field: Field, out: Path) -> list[Ran]:
    """Verify, first without what is in memory and then with it."""
    return [
        run_forked("run", "btrfs-scrub", field.tree, "--state", out / "state") for _ in range(2)
    ]


def send(field: Field, out: Path) -> list[Ran]:
    """Write a full stream and an incremental one."""
    ran, parent = [], []
    for name in ("full", "incremental"):
        snapshot = field.tree.parent / f"snapshot-{out.name}-{name}"
        subvolume("snapshot", "-r", field.tree, snapshot)
        ran.append(
            run_forked(
                "run", "send", field.tree, snapshot, out / f"{name}.stream", *parent,
                "--state", out / "state",
            )
        )  # fmt: skip
        parent = ["--parent", snapshot]
    return ran


TASKS = backup, scrub, rsync, defrag
#: Those that know btrfs alone.
OF_BTRFS = btrfs_scrub, send


@pytest.mark.parametrize("task", TASKS)
def test_what_is_exchanged(
    task: Task, mounted: Mounted, racer: Path, tmp_path: Path, seconds: float
) -> None:
    """Directories and files are exchanged for links to others of the same file system."""
    _race(task, mounted.path, racer, tmp_path, seconds)


@pytest.mark.fs("btrfs")
@pytest.mark.parametrize("task", OF_BTRFS)
def test_what_is_exchanged_on_btrfs(
    task: Task, mounted: Mounted, racer: Path, tmp_path: Path, seconds: float
) -> None:
    """The same."""
    _race(task, mounted.path, racer, tmp_path, seconds)


@pytest.mark.parametrize("task", TASKS)
def test_equal_inode_numbers(
    task: Task,
    mounted: Mounted,
    new_mount: Callable[..., Mounted],
    racer: Path,
    tmp_path: Path,
    seconds: float,
) -> None:
    """The links lead to another file system, where all has the same inode numbers."""
    _race(task, mounted.path, racer, tmp_path, seconds, elsewhere=new_mount(mounted.kind).path)


@pytest.mark.fs("btrfs")
@pytest.mark.parametrize("task", OF_BTRFS)
def test_equal_inode_numbers_on_btrfs(
    task: Task,
    mounted: Mounted,
    new_mount: Callable[..., Mounted],
    racer: Path,
    tmp_path: Path,
    seconds: float,
) -> None:
    """The same."""
    _race(task, mounted.path, racer, tmp_path, seconds, elsewhere=new_mount(mounted.kind).path)


def _race(
    task: Task,
    inside: Path,
    racer: Path,
    out: Path,
    seconds: float,
    *,
    elsewhere: Path | None = None,
) -> None:
    """Run a task while the user is at work.

    Args:
        task: the task.
        inside: where its tree is to be.
        racer: the user's program.
        out: where the results are to be.
        seconds: for how long.
        elsewhere: another file system for the secrets; None for that of the tree.

    """
    make = _make_subvolume if task is send else Path.mkdir
    with contextlib.closing(Field(inside, elsewhere or inside, USER, make=make)) as field:
        if elsewhere:
            mine, others = (
                [(top / f"user/d{number}/cold").stat().st_ino for number in range(PAIRS)]
                for top in (field.tree, field.outside)
            )
            assert mine == others
        # rsync itself waits for a FIFO for ever.
        with hostile(racer, field, fifos=task is not rsync):
            _try(task, field, out, seconds)


def _make_subvolume(path: Path) -> None:
    subvolume("create", path)


# rsync looks into what is mounted: what its -x leaves out is told by the device alone.
@pytest.mark.parametrize("task", [backup, scrub, defrag])
def test_what_is_mounted_meanwhile(
    task: Task, mounted: Mounted, tmp_path: Path, seconds: float
) -> None:
    """What is mounted over a directory after that was found is none of the tree."""
    with contextlib.closing(Field(mounted.path, mounted.path, USER)) as field:
        for number in range(PAIRS):
            place = field.tree / f"still/m{number}"
            place.mkdir()
            for name in ("cold", "warm"):
                (place / name).write_bytes(b"below the mount")
        with mounting(field):
            _try(task, field, tmp_path, seconds)


def _try(task: Task, field: Field, out: Path, seconds: float) -> None:
    """Run a task again and again, for a time."""
    end = time.monotonic() + seconds
    number = 0
    while not number or time.monotonic() < end:
        number += 1
        place = out / str(number)
        place.mkdir()
        for ran in task(field, place):
            # Nothing of it is an error of the run: what was not as it was found is named.
            assert ran.status in (0, 12), ran.words
            assert_clean(ran.stdout + ran.stderr, "what it said")
        field.assert_untouched()
        for file in sorted(place.rglob("*")):
            assert_nothing_of_it(file)
        subprocess.run(["rm", "-rf", place], check=True)


def assert_nothing_of_it(file: Path) -> None:
    """Assert that nothing of a secret is in a result: content, name, owner, time, attribute."""
    status = file.lstat()
    assert status.st_uid != OWNER, file
    assert status.st_mtime_ns != MOMENT, file
    if file.is_symlink() or not file.is_file():
        return
    content = file.read_bytes()
    assert_clean(content, str(file))
    if file.suffix == ".tar":
        with tarfile.open(file) as archive:
            for member in archive:
                assert member.uid != OWNER, member
                assert int(member.mtime) != MOMENT // 10**9, member
    elif file.suffix == ".stream":
        assert_clean_stream(content, str(file))
    elif file.name == "state":
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as ledger:
            for (table,) in ledger.execute("select name from sqlite_master where type = 'table'"):
                assert re.fullmatch(r"\w+", table)
                for row in ledger.execute(f"select * from {table}"):  # noqa: S608
                    assert str(MOMENT) not in repr(row), row


def assert_clean_stream(content: bytes, what: str) -> None:
    """Assert that a send stream has no owner and no time of a secret's: it has them as numbers."""
    assert struct.pack("<Q", OWNER) not in content, what
    assert struct.pack("<QI", *divmod(MOMENT, 10**9)) not in content, what


def assert_clean(content: bytes, what: str) -> None:
    """Assert that a text has nothing of a secret in it."""
    assert SECRET not in content, what
    assert NOTE not in content, what
