# SPDX-License-Identifier: MIT
"""The one way to a file: whatever is done to the tree, nothing but what is in it is reached."""

import contextlib
import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from exchange import exchange, exchanging
from forbidden import OPENAT2, each_error
from hypothesis import given
from hypothesis import strategies as st
from ordinary import in_child

from pyduet.maintenance.files import tree as tree_module
from pyduet.maintenance.files.statx import Status
from pyduet.maintenance.files.tree import LONGEST, Found, Tree
from pyduet.maintenance.work import LeftOut, Problem, ReplacedError, Trouble

each_lookup = each_error(OPENAT2, errno.ENOSYS, errno.EPERM)


@pytest.fixture(autouse=True)
def _nothing_leaks() -> Iterator[None]:
    before = descriptors()
    yield
    assert descriptors() == before


def descriptors() -> dict[str, str]:
    """Return what this process has open."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


class Walk:
    """A walk that has ended."""

    def __init__(self, tree: Tree) -> None:
        self.problems: list[Problem] = []
        self.left_out: list[LeftOut] = []
        self.order = list(tree.walk(self.problems.append, self.left_out.append))
        self.found = {one.path: one.status for one in self.order}
        assert len(self.found) == len(self.order)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    return root


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A directory beside the tree, that looks like `d` in it."""
    secret = tmp_path / "secret"
    (secret / "e").mkdir(parents=True)
    for name in ("f", "e/f"):
        (secret / name).write_bytes(b"secret")
    return secret


def content(tree: Tree, path: str, expected: Status | None = None) -> bytes:
    with tree.opened(path, expected) as fd:
        return os.read(fd, 100)


# What is found


@each_lookup
def test_all_is_found(root: Path) -> None:
    hostile = os.fsdecode(b"\xff\xfe \n\r\t'\"")
    (root / hostile / "-x").mkdir(parents=True)
    (root / hostile / "-x" / hostile).write_bytes(b"data")
    (root / "link").symlink_to(hostile)
    (root / "lost").symlink_to("/nowhere")
    os.mkfifo(root / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(root / "socket"))
    with Tree(str(root)) as tree:
        walk = Walk(tree)
        assert content(tree, f"{hostile}/-x/{hostile}") == b"data"
    assert set(walk.found) == {
        "", hostile, f"{hostile}/-x", f"{hostile}/-x/{hostile}", "link", "lost", "fifo", "socket"
    }  # fmt: skip
    assert not walk.problems
    assert not walk.left_out
    for path, status in walk.found.items():
        plain = os.lstat(root / path)
        for name in ("mode", "nlink", "uid", "gid", "dev", "ino", "size", "blocks", "rdev"):
            assert getattr(status, f"st_{name}") == getattr(plain, f"st_{name}"), (path, name)
        assert status.st_mtime_ns == plain.st_mtime_ns


@given(st.recursive(st.none(), lambda inner: st.dictionaries(st.sampled_from("abcd"), inner)))
def test_a_directory_comes_before_what_is_in_it(plan: object) -> None:
    """Directories that wait come out as from a list of all of them, each in its place."""

    def inside(path: str) -> Iterator[tuple[str, object]]:
        place = plan
        for name in filter(None, path.split("/")):
            assert isinstance(place, dict)
            place = place[name]
        if isinstance(place, dict):
            for name, value in place.items():
                yield f"{path}/{name}" if path else name, value

    def status(path: str) -> Status:
        number = hash(path) % (1 << 64)
        birth = hash(path + "!")
        return Status(*[0] * 5, number, *[0] * 7, birth, 0, False)  # type: ignore[arg-type]

    waiting = tree_module._Waiting()
    expected = [""]
    taken: tuple[str, int, int] | None = ("", status("").st_ino, status("").st_birthtime_ns)
    while expected:
        path = expected.pop()
        assert taken == (path, status(path).st_ino, status(path).st_birthtime_ns)
        for below, _ in inside(path):
            expected.append(below)
            waiting.add(Found(below, status(below)))
        taken = waiting.take()
    assert taken is None


def test_many_directories_in_one_take_little_memory() -> None:
    plain = Status(*[1 << 62] * 15, False)  # type: ignore[arg-type]
    tracemalloc.start()
    waiting = tree_module._Waiting()
    for number in range(50_000):
        waiting.add(Found(f"{number:012}", plain))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 60 * 50_000


@each_lookup
def test_a_link_is_not_followed(root: Path, secret: Path) -> None:
    (root / "d").symlink_to(secret)
    (root / "f").symlink_to(secret / "f")
    with Tree(str(root)) as tree:
        walk = Walk(tree)
        assert set(walk.found) == {"", "d", "f"}
        for path in ("d/f", "d/e/f"):
            for way in (tree.open, tree.hold):
                with pytest.raises(NotADirectoryError) as caught:
                    way(path)
                assert caught.value.filename == path
        with pytest.raises(ReplacedError):
            tree.open("f")
        for path in ("d", "f", "d/e"):
            with pytest.raises(NotADirectoryError):
                tree.open_directory(path)
        with tree.held("d", walk.found["d"]) as fd:
            assert os.readlink("", dir_fd=fd) == str(secret)


@each_lookup
def test_nothing_leads_out_of_the_tree(root: Path, secret: Path) -> None:
    with Tree(str(root)) as tree:
        for path in ("../secret/f", str(secret / "f"), "..", "/"):
            for way in (tree.open, tree.hold, tree.open_directory):
                with pytest.raises(OSError, match=r"mounted|No such file|regular"):
                    way(path)


@each_lookup
def test_nothing_but_files_is_opened(root: Path) -> None:
    (root / "d").mkdir()
    os.mkfifo(root / "fifo")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(root / "socket"))
    with Tree(str(root)) as tree:
        for path in ("d", "fifo", "socket"):
            with pytest.raises(ReplacedError) as caught:
                tree.open(path)
            assert caught.value.filename == path
        # Who opens a FIFO without waiting wakes those who wait for a reader; nobody did.
        with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
            os.open(root / "fifo", os.O_WRONLY | os.O_NONBLOCK)


@each_lookup
def test_what_is_gone_is_said_to_be(root: Path) -> None:
    (root / "file").touch()
    with Tree(str(root)) as tree:
        found = Walk(tree).found
        assert not tree.is_gone("file", found["file"])
        (root / "file").unlink()
        assert tree.is_gone("file", found["file"])
        with pytest.raises(FileNotFoundError) as caught:
            tree.open("file")
        assert caught.value.filename == "file"
        (root / "file").mkdir()
        assert tree.is_gone("file", found["file"])


@each_lookup
def test_another_file_is_not_taken_for_the_one_that_was_found(root: Path) -> None:
    (root / "file").write_bytes(b"one")
    (root / "other").write_bytes(b"two")
    with Tree(str(root)) as tree:
        found = Walk(tree).found
        exchange(root / "file", root / "other")
        for way in (tree.open, tree.hold):
            with pytest.raises(ReplacedError):
                way("file", found["file"])
        assert content(tree, "other", found["file"]) == b"one"


# What meddles


@pytest.mark.parametrize("kind", ["link", "file", "directory", "gone"])
@each_lookup
def test_a_directory_that_is_replaced_while_it_waits(root: Path, secret: Path, kind: str) -> None:
    for name in ("a", "d"):
        (root / name).mkdir()
        (root / name / "f").touch()
    problems: list[Problem] = []
    with Tree(str(root)) as tree:
        walking = tree.walk(problems.append, lambda _: None)
        assert next(walking).path == ""
        # All of the root is looked at before anything in it is listed.
        first = next(walking)
        other = "d" if first.path == "a" else "a"
        (root / other).rename(root.parent / "aside")
        if kind == "link":
            (root / other).symlink_to(secret)
        elif kind == "file":
            (root / other).touch()
        elif kind == "directory":
            secret.rename(root / other)
        rest = [one.path for one in walking]
    assert rest == [f"{first.path}/f"]
    named = [(one.path, one.trouble) for one in problems]
    assert named == ([] if kind == "gone" else [(other, Trouble.UNSTABLE)])


@each_lookup
def test_a_directory_that_is_moved_while_it_is_walked(root: Path) -> None:
    for path in ("a/b/c", "still"):
        (root / path).mkdir(parents=True)
        (root / path / "f").touch()
    problems: list[Problem] = []
    seen = []
    with Tree(str(root)) as tree:
        for one in tree.walk(problems.append, lambda _: None):
            seen.append(one.path)
            if one.path == "a/b":
                (root / "a").rename(root / "z")
    assert {"still", "still/f", "a/b/c", "a/b/c/f"} <= set(seen)
    assert not problems


@each_lookup
def test_a_directory_that_is_moved_ahead_of_the_walk_comes_once(root: Path) -> None:
    """Whoever moves it again and again cannot have the walk go on for ever."""
    for number in range(50):
        (root / str(number) / "below").mkdir(parents=True)
    pending = {one.stat().st_ino: one for one in root.iterdir()}
    moved, times = 0, 0
    with Tree(str(root)) as tree:
        for path, status in tree.walk(lambda _: None, lambda _: None):
            place = pending.pop(status.st_ino, root / path)
            if path and not moved:
                moved = status.st_ino
            if status.st_ino == moved:
                times += 1
                if pending:
                    place.rename(next(iter(pending.values())) / "moved")
    assert not pending
    assert times == 1


@each_lookup
def test_a_race_is_never_won(root: Path, secret: Path, tmp_path: Path) -> None:
    """Whatever comes out is of the tree, while a directory and a link to another are exchanged."""
    for name in ("f", "e/f"):
        (root / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "d" / name).write_bytes(b"public")
    (root / "x").symlink_to(secret)
    inodes = {one.lstat().st_ino for one in (root, *root.rglob("*"))}
    seen = {"open": 0, "refused": 0, "walk": 0}
    with Tree(str(root)) as tree, exchanging(root / "d", root / "x", tmp_path):
        # Until both sides of the race were seen often enough.
        while min(seen.values()) < 500:
            for path in ("d/f", "d/e/f", "x/f", "x/e/f"):
                try:
                    assert content(tree, path) == b"public"
                    seen["open"] += 1
                    with tree.held(path) as fd:
                        assert os.fstat(fd).st_ino in inodes
                except (FileNotFoundError, NotADirectoryError):
                    seen["refused"] += 1
            for one in tree.walk(lambda _: None, lambda _: None):
                assert one.status.st_ino in inodes, one
                seen["walk"] += one.path.count("/")


@each_lookup
def test_no_descriptor_is_left_when_there_are_no_more(root: Path) -> None:
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "f").write_bytes(b"data")
    long = make_long(root, LONGEST - 300)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    used = max(map(int, before)) + 1
    done = 0
    errors: set[int | str | None] = set()
    for more in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))
        problems: list[Problem] = []
        tree = None
        # Those that are free between the used ones are used up, too.
        filled = []
        with contextlib.suppress(OSError):
            while (fd := os.dup(0)) < used:
                filled.append(fd)
            os.close(fd)
        try:
            tree = Tree(str(root))
            walk = list(tree.walk(problems.append, lambda _: None))
            for path in ("d/e/f", long):
                assert content(tree, path) == b"data"
            done += not problems and len(walk) > 5
        except OSError as error:
            errors.add(error.errno)
        finally:
            if tree is not None:
                tree.close()
            for fd in filled:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        errors.update(one.words for one in problems)
        assert descriptors() == before
    assert errors == {errno.EMFILE, os.strerror(errno.EMFILE)}
    assert 0 < done < 12


def test_a_tree_without_descriptors_to_be_had(root: Path) -> None:
    (root / "file").touch()
    with pytest.raises(NotADirectoryError):
        Tree(str(root / "file"))
    tree = Tree(str(root))
    tree.close()
    tree.close()


# Leases


_LEASE = """
import fcntl, os, signal, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
if sys.argv[2] == "lets go":
    signal.signal(signal.SIGIO, lambda *_: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK))
else:
    signal.signal(signal.SIGIO, signal.SIG_IGN)
print("leased", flush=True)
while True:
    signal.pause()
"""


@contextlib.contextmanager
def leased(path: Path, how: str) -> Iterator[None]:
    command = [sys.executable, "-c", _LEASE, str(path), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"leased\n"
        try:
            yield
        finally:
            process.kill()


def test_a_lease_keeps_nobody_waiting(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").write_bytes(b"data")
    (root / "other").write_bytes(b"data")
    monkeypatch.setattr(tree_module, "_LEASES", 1.5)
    with Tree(str(root)) as tree, leased(root / "file", "keeps it"):
        for _ in range(100):
            with pytest.raises(BlockingIOError, match="lease") as caught:
                tree.open("file")
            assert caught.value.filename == "file"
        # All of these together have waited as long as all may; the kernel waits 45 s for each.
        assert tree._patience <= 0
        assert content(tree, "other") == b"data"


def test_who_has_a_lease_is_told(root: Path) -> None:
    (root / "file").write_bytes(b"data")
    with Tree(str(root)) as tree, leased(root / "file", "lets go"):
        deadline = time.monotonic() + 60
        while True:
            try:
                assert content(tree, "file") == b"data"
                break
            except BlockingIOError:  # a machine that is slow
                assert time.monotonic() < deadline


# Long paths


def make_long(root: Path, length: int, name: int = 200) -> str:
    """Make a file whose path is at least so long; return that."""
    parts: list[str] = []
    fd = os.open(root, os.O_RDONLY)
    while sum(map(len, parts)) + len(parts) < length:
        parts.append("n" * name)
        os.mkdir(parts[-1], dir_fd=fd)
        below = os.open(parts[-1], os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    file = os.open("f", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd)
    os.write(file, b"data")
    os.close(file)
    os.close(fd)
    return "/".join((*parts, "f"))


@each_lookup
def test_a_path_of_any_length(root: Path) -> None:
    """Wherever the names of a path end, around the length that the kernel takes at once."""
    for name in range(246, 256):
        (root / str(name)).mkdir()
        make_long(root / str(name), LONGEST - 300, name)
    with Tree(str(root)) as tree:
        walk = Walk(tree)
        assert not walk.problems
        files = [path for path in walk.found if path.endswith("/f")]
        assert len(files) == 10
        for path in files:
            assert content(tree, path, walk.found[path]) == b"data"
            with tree.held(path.rpartition("/")[0]) as fd:
                assert stat.S_ISDIR(os.fstat(fd).st_mode)
            with pytest.raises(FileNotFoundError) as caught:
                tree.open(path + "x")
            assert caught.value.filename == path + "x"
        with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)) as long:
            tree.open("x" * 9000)
        assert long.value.filename == "x" * 9000


@pytest.mark.parametrize("length", range(4090, 4100))
@each_lookup
def test_a_name_at_the_border(root: Path, length: int) -> None:
    above = make_long(root, 3900)[: -len("/f")]
    name = "m" * (length - len(above) - 1)
    with Tree(str(root)) as tree:
        with contextlib.ExitStack() as stack:
            fd = tree.open_directory(above)
            stack.callback(os.close, fd)
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_RDONLY, dir_fd=fd)
            stack.callback(os.close, below)
            stack.callback(os.close, os.open("g", os.O_CREAT, 0o600, dir_fd=below))
        path = f"{above}/{name}"
        assert len(path) == length
        os.close(tree.open_directory(path))
        assert content(tree, path + "/g") == b""


def test_what_is_too_deep_is_named(root: Path) -> None:
    """Once, whatever is in it: directories that anybody makes by the thousand."""
    long = make_long(root, LONGEST + 1000)
    (root / "short").touch()
    with Tree(str(root)) as tree:
        (problem,) = Walk(tree).problems
        with contextlib.ExitStack() as stack:
            fd = tree.open_directory(problem.path)
            stack.callback(os.close, fd)
            for number in range(1000):
                os.mkdir(f"{number:0250}", dir_fd=fd)
            os.close(os.open("f", os.O_CREAT, 0o600, dir_fd=fd))
        walk = Walk(tree)
    assert walk.problems == [problem]
    assert long.startswith(problem.path)
    assert LONGEST - 256 < len(problem.path) <= LONGEST
    assert {"short", f"{problem.path}/f", f"{problem.path}/{0:0250}"} <= set(walk.found)
    assert len([path for path in walk.found if len(path) > LONGEST]) == 1001
    assert long not in walk.found


# What the kernel does not tell


def test_what_is_listed_and_not_there_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a directory that is damaged; one that changed has merely lost it."""
    for name in ("ghost", "real"):
        (root / name).touch()
    while time.time_ns() - root.stat().st_ctime_ns < 200_000_000:
        time.sleep(0.05)
    look = Tree._look

    def blind(self: Tree, fd: int, entry: os.DirEntry[str], above: Status) -> Status:
        if entry.name == "ghost":
            raise FileNotFoundError
        return look(self, fd, entry, above)

    monkeypatch.setattr(Tree, "_look", blind)
    with Tree(str(root)) as tree:
        walk = Walk(tree)
        assert [(one.path, one.trouble) for one in walk.problems] == [("ghost", Trouble.DAMAGED)]
        assert set(walk.found) == {"", "real"}

        def meddle(*args: object) -> Status:
            (root / "further").touch()
            return blind(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(Tree, "_look", meddle)
        assert not Walk(tree).problems


def test_a_signal_does_not_end_a_walk(root: Path) -> None:
    for number in range(2000):
        (root / str(number)).touch()

    def walk() -> tuple[int, int]:
        number = 0

        def count(*_: object) -> None:
            nonlocal number
            number += 1

        signal.signal(signal.SIGALRM, count)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        with Tree(str(root)) as tree:
            found = 0
            while number < 50:
                found = len(Walk(tree).found)
                os.close(tree.open("7"))
        signal.setitimer(signal.ITIMER_REAL, 0)
        return found, number

    found, number = in_child(walk)
    assert found == 2001
    assert number >= 50


def test_who_lets_go_of_many_leases_late_costs_no_more_than_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In time for each file; all of them would be waited for for hours."""
    paths = [tmp_path / f"file{number}" for number in range(100)]
    slept: list[float] = []
    opened = refused = 0

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if sum(slept) - before > 0.9:
            fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    monkeypatch.setattr(tree_module.time, "sleep", sleep)
    # What tells of somebody who opens the file, and would end this process.
    handler = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with Tree(str(tmp_path)) as tree:
            for path in paths:
                before = sum(slept)
                leased = os.open(path, os.O_RDWR | os.O_CREAT)
                fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
                try:
                    os.close(tree.open(path.name))
                    opened += 1
                except BlockingIOError:
                    refused += 1
                os.close(leased)
    finally:
        signal.signal(signal.SIGIO, handler)
    assert sum(slept) <= 30.1
    # As long as there is time they are waited for; then they are named, at once.
    assert 30 < opened < 36
    assert opened + refused == len(paths)
