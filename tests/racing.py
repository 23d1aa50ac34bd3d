# SPDX-License-Identifier: MIT
"""A user who exchanges what is his for links to what he may not read, while root works on it."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

#: In the content, and of nobody else: an owner, a time, an attribute's value.
SECRET = b"the secret that no result may have in it"
OWNER = 0xDEADBEE
MOMENT = 1_234_567_890_987_654_321
NOTE = b"noted of the secret"
#: Pairs of what is the user's and what leads elsewhere.
PAIRS = 8
_SIZE = 1 << 16
#: Of inotify(7): read, changed, its metadata as well, opened.
_IN_USED = 0x1 | 0x2 | 0x4 | 0x20
_LIBC = ctypes.CDLL(None, use_errno=True)


def racer_in(directory: Path) -> Path:
    """Make the program of the user; returns where it is."""
    program = directory / "racer"
    source = Path(__file__).with_name("racer.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", source, "-o", program], check=True)
    return program


class Field:
    """A tree with a part that is the user's, and beside it what is not."""

    def __init__(
        self,
        inside: Path,
        outside: Path,
        owner: int,
        *,
        make: Callable[[Path], object] = Path.mkdir,
    ) -> None:
        """Make both.

        Args:
            inside: where the tree is to be.
            outside: where the secrets are to be.
            owner: the number of the user.
            make: makes the directory that has the tree in it, and that with the secrets.

        """
        self.owner = owner
        self.tree, self.user = inside / "tree", inside / "tree/user"
        self.outside = outside / "outside"
        #: By number: what the user's directory of that number is exchanged for.
        self.secrets = [self.outside / f"user/d{number}" for number in range(PAIRS)]
        # In the same order and number: on two file systems the inode numbers are the same.
        for top, content in ((self.tree, b"of the user"), (self.outside, SECRET)):
            make(top)
            _furnish(top, content)
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
        subprocess.run(["chown", "-R", "-h", f"{owner}:{owner}", self.user], check=True)
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
    (top / "still").mkdir()
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
        [racer, field.user, str(PAIRS), kinds], user=field.owner, group=field.owner, extra_groups=()
    )
    try:
        yield
        assert process.poll() is None, "the user has given up"
    finally:
        process.kill()
        process.wait()


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
