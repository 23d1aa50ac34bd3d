# SPDX-License-Identifier: MIT
"""Root runs tasks on what a user may change meanwhile, who wants what he may not read."""

import contextlib
import ctypes
import os
import re
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beside import beside
from command import Ran, run_forked
from places import MS_BIND, USER, Mounted, mount

pytestmark = pytest.mark.root

#: In the content, and of nobody else: an owner, a time, an attribute's value, a name.
SECRET = b"the secret that no result may have in it"
OWNER = 0xDEADBEE
MOMENT = 1_234_567_890_987_654_321
NOTE = b"noted of the secret"
#: Pairs of what is the user's and what leads elsewhere.
PAIRS = 8
_SIZE = 1 << 16
_UMOUNT_DETACH = 2
#: Of inotify(7): read, changed, its metadata as well, opened.
_IN_USED = 0x1 | 0x2 | 0x4 | 0x20
_LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="session")
def racer(private: Path) -> Path:
    """The program of the hostile user."""
    program = private / "racer"
    source = Path(__file__).with_name("racer.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", source, "-o", program], check=True)
    return program


class Field:
    """A tree with a part that is the user's, and beside it what is not."""

    def __init__(self, inside: Path, outside: Path) -> None:
        """Make both.

        Args:
            inside: where the tree is to be.
            outside: where the secrets are to be.

        """
        self.tree, self.user = inside / "tree", inside / "tree/user"
        self.outside = outside / "outside"
        #: By number: what the user's directory of that number is exchanged for.
        self.secrets = [self.outside / f"user/d{number}" for number in range(PAIRS)]
        # In the same order and number: on two file systems the inode numbers are the same.
        _furnish(self.tree, b"of the user")
        _furnish(self.outside, SECRET)
        for number, secret in enumerate(self.secrets):
            (self.user / f"l{number}").symlink_to(secret)
            (self.user / f"s{number}").symlink_to(secret / "cold")
            os.mkfifo(self.user / f"p{number}")
            for file in secret.iterdir():
                os.setxattr(file, "user.note", NOTE)
                os.chown(file, OWNER, OWNER)
                os.utime(file, ns=(MOMENT, MOMENT))
        self.outside.chmod(0o700)
        # Whoever opens a file is told of, whatever name he found it by.
        self._events = _check(_LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        for secret in self.secrets:
            for file in secret.iterdir():
                _check(_LIBC.inotify_add_watch(self._events, os.fsencode(file), _IN_USED))
        subprocess.run(["chown", "-R", "-h", f"{USER}:{USER}", self.user], check=True)
        os.sync()
        self.prepare()

    def prepare(self) -> None:
        """Have of the secrets half in memory, and half not."""
        for secret in self.secrets:
            (secret / "warm").read_bytes()
            fd = os.open(secret / "cold", os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        # First: to ask changes the time of access.
        assert self._resident() == {"cold": {0}, "warm": {_SIZE // 4096}}
        self.before = self._state()
        assert self._used()

    def assert_untouched(self) -> None:
        """Assert that no secret was opened, read, written or dropped from memory."""
        assert self._used() == 0, "a secret was opened"
        assert self._state() == self.before
        resident = self._resident()
        assert resident["cold"] == {0}, "a secret was read"
        # Who drops a file drops all of it. The kernel takes a page by itself now and then, and some
        # machines do that with what has not been used for a minute.
        assert min(resident["warm"]) > _SIZE // 4096 // 2, "a secret was dropped from memory"
        assert self._used()

    def close(self) -> None:
        """Be told no more."""
        os.close(self._events)

    def _used(self) -> int:
        """Return how many bytes of events there were since the last time."""
        with contextlib.suppress(BlockingIOError):
            return len(os.read(self._events, 1 << 20))
        return 0

    def _state(self) -> dict[Path, tuple[object, ...]]:
        """Return of each secret what reading and writing would change."""
        return {
            file: (
                file.stat().st_ctime_ns,
                file.stat().st_mtime_ns,
                file.stat().st_atime_ns,
                _extents(file),
            )
            for secret in self.secrets
            for file in sorted(secret.iterdir())
        }

    def _resident(self) -> dict[str, set[int]]:
        """Return how many pages of the secrets of each name are in memory."""
        return {
            name: {_resident(secret / name) for secret in self.secrets} for name in ("cold", "warm")
        }


def _furnish(top: Path, content: bytes) -> None:
    (top / "still").mkdir(parents=True)
    (top / "user").mkdir()
    for number in range(PAIRS):
        (top / f"still/{number}").write_bytes(b"still" * 1000)
        directory = top / f"user/d{number}"
        directory.mkdir()
        # In pieces, by turns: something for defrag to do.
        files = [(directory / name).open("wb", buffering=0) for name in ("cold", "warm")]
        for start in range(0, _SIZE, 4096):
            for file in files:
                file.write((content * 4096)[start : start + 4096])
                os.fsync(file)
        for file in files:
            file.close()
        (top / f"user/f{number}").write_bytes(b"of the user")


def _resident(file: Path) -> int:
    """Return how many pages of a file are in memory."""
    command = ["fincore", "--noheadings", "--raw", "--output", "PAGES", file]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _extents(file: Path) -> str:
    command = ["filefrag", "-v", file]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def hostile(racer: Path, field: Field, *, fifos: bool = True) -> Iterator[None]:
    """Have the user at work until the context ends."""
    kinds = "4" if fifos else "3"
    process = subprocess.Popen(
        [racer, field.user, str(PAIRS), kinds], user=USER, group=USER, extra_groups=()
    )
    try:
        yield
        assert process.poll() is None, "the user has given up"
    finally:
        process.kill()
        process.wait()


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


TASKS = backup, scrub, rsync, defrag


@pytest.mark.parametrize("task", TASKS)
def test_what_is_exchanged(
    task: Callable[[Field, Path], list[Ran]],
    mounted: Mounted,
    racer: Path,
    tmp_path: Path,
    seconds: float,
) -> None:
    """Directories and files are exchanged for links to others of the same file system."""
    with (
        contextlib.closing(Field(mounted.path, mounted.path)) as field,
        hostile(
            racer,
            field,
            fifos=task is not rsync,  # rsync itself waits for one for ever
        ),
    ):
        _try(task, field, tmp_path, seconds)


@pytest.mark.parametrize("task", TASKS)
def test_equal_inode_numbers(
    task: Callable[[Field, Path], list[Ran]],
    mounted: Mounted,
    new_mount: Callable[..., Mounted],
    racer: Path,
    tmp_path: Path,
    seconds: float,
) -> None:
    """The links lead to another file system, where all has the same inode numbers."""
    with contextlib.closing(Field(mounted.path, new_mount(mounted.kind).path)) as field:
        numbers = [
            [(top / f"user/d{number}/cold").stat().st_ino for number in range(PAIRS)]
            for top in (field.tree, field.outside)
        ]
        assert numbers[0] == numbers[1]
        with hostile(racer, field, fifos=task is not rsync):
            _try(task, field, tmp_path, seconds)


# rsync looks into what is mounted: what its -x leaves out is told by the device alone.
@pytest.mark.parametrize("task", [backup, scrub, defrag])
def test_what_is_mounted_meanwhile(
    task: Callable[[Field, Path], list[Ran]], mounted: Mounted, tmp_path: Path, seconds: float
) -> None:
    """What is mounted over a directory after that was found is none of the tree."""
    with contextlib.closing(Field(mounted.path, mounted.path)) as field:
        for number in range(PAIRS):
            place = field.tree / f"still/m{number}"
            place.mkdir()
            for name in ("cold", "warm"):
                (place / name).write_bytes(b"below the mount")
        with mounting(field):
            _try(task, field, tmp_path, seconds)


def _try(task: Callable[[Field, Path], list[Ran]], field: Field, out: Path, seconds: float) -> None:
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
    elif file.name == "state":
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as ledger:
            for (table,) in ledger.execute("select name from sqlite_master where type = 'table'"):
                assert re.fullmatch(r"\w+", table)
                for row in ledger.execute(f"select * from {table}"):  # noqa: S608
                    assert str(MOMENT) not in repr(row), row


def assert_clean(content: bytes, what: str) -> None:
    """Assert that a text has nothing of a secret in it."""
    assert SECRET not in content, what
    assert NOTE not in content, what


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
