# SPDX-License-Identifier: MIT
"""The one way to a file, on real file systems: mounts, damage, other users, and who races it."""

import contextlib
import ctypes
import errno
import io
import os
import re
import select
import shutil
import socket
import stat
import struct
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import places
import pytest
from command import run_duet
from exchange import exchange, exchanging
from forbidden import OPENAT2, each_error
from fuse import Fuse
from mounts import MS_BIND, mount
from ordinary import as_user, in_child
from places import USER, Mounted

from pyduet.maintenance.files.mounts import mount_with_id
from pyduet.maintenance.files.page_cache import missing
from pyduet.maintenance.files.statx import Status, status_of
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.work import LeftOut, Problem, ReplacedError, Trouble

each_lookup = each_error(OPENAT2, errno.ENOSYS, errno.EPERM)
_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
_IN_OPEN = 0x20


class Walk:
    """A walk that has ended."""

    def __init__(self, tree: Tree) -> None:
        self.problems: list[Problem] = []
        self.left_out: list[LeftOut] = []
        self.found = {
            one.path: one.status for one in tree.walk(self.problems.append, self.left_out.append)
        }

    @property
    def named(self) -> dict[str, Trouble]:
        assert len({one.path for one in self.problems}) == len(self.problems)
        return {one.path: one.trouble for one in self.problems}


def walk(root: Path) -> Walk:
    with Tree(str(root)) as tree:
        return Walk(tree)


def fill(directory: Path, *names: str, content: bytes = b"public") -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


def content(tree: Tree, path: str, expected: Status | None = None) -> bytes:
    with tree.opened(path, expected) as fd:
        return os.read(fd, 100)


def unmount(path: Path) -> None:
    if _LIBC.umount2(bytes(path), _MNT_DETACH):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


@contextlib.contextmanager
def ended_in(seconds: float, end: Callable[[], object]) -> Iterator[None]:
    """End something if what is done here never ends, so that the test fails in place of hanging."""
    late = threading.Event()
    timer = threading.Timer(seconds, lambda: (late.set(), end()))
    timer.start()
    try:
        yield
        assert not late.is_set(), "it waited for an answer that never came"
    finally:
        timer.cancel()
        timer.join()


# Mounts


@pytest.mark.root
@each_lookup
def test_what_is_mounted_is_left_out(tree: Path, tmp_path: Path) -> None:
    """A bind mount of the same file system as well, of a directory or a file."""
    fill(tree, "a/f", "b/f", "file", "other", "open")
    found = walk(tree).found
    mount(str(tree / "a"), tree / "b", flags=MS_BIND)
    mount(str(tree / "other"), tree / "file", flags=MS_BIND)
    with Tree(str(tree)) as held:
        seen = Walk(held)
        assert set(seen.found) == {"", "a", "a/f", "b", "open", "other"}
        assert set(seen.left_out) == {LeftOut("b", "mount-point"), LeftOut("file", "mount-point")}
        assert not seen.problems
        assert seen.found["b"].is_mount
        for path in ("b/f", "file"):
            for expected in (None, found[path]):
                for way in (held.open, held.hold):
                    with pytest.raises(OSError, match="mounted over") as caught:
                        way(path, expected)
                    assert caught.value.filename == path
            assert not held.is_gone(path, found[path])
        with pytest.raises(OSError, match="mounted over"):
            held.open_directory("b")
        assert content(held, "open", found["open"]) == b"public"


@pytest.mark.root
def test_a_tree_that_is_unmounted_meanwhile(tree: Path) -> None:
    """What is held stays as it is."""
    fill(tree, "d/f")
    (tree / "d" / "e").mkdir()
    mount(str(tree / "d"), tree / "d" / "e", flags=MS_BIND)
    with Tree(str(tree / "d" / "e")) as held:
        unmount(tree / "d" / "e")
        assert set(Walk(held).found) == {"", "e", "f"}
        assert content(held, "f") == b"public"


@pytest.mark.root
@pytest.mark.fs("ext4")
def test_names_of_mount_points(tree: Path) -> None:
    """Of any name that a user may mount something on, /proc tells what other mounts are."""
    names = [f"a{chr(number)}b" for number in range(1, 33)] + ["a\x85b", "a\u2028b", "\\040", "-"]
    for name in names:
        (tree / name).mkdir()
        mount("-", tree / name, "tmpfs")
    (tree / os.fsdecode(b"\xff")).mkdir()
    mount(str(tree / "-"), tree / os.fsdecode(b"\xff"), flags=MS_BIND)
    for name in (*names, os.fsdecode(b"\xff")):
        with Tree(str(tree / name)) as held:
            found = mount_with_id(held.root.mount_id)
            assert found
            assert found[:3] == (str(tree / name), "tmpfs", "-")
    assert {one.path for one in walk(tree).left_out} == {*names, os.fsdecode(b"\xff")}


@pytest.mark.root
@pytest.mark.fs("ext4")
@each_lookup
def test_an_automatic_mount_is_not_triggered(tree: Path) -> None:
    (tree / "debug").mkdir()
    mount("none", tree / "debug", "debugfs")
    assert (tree / "debug" / "tracing").is_dir()
    seen = walk(tree / "debug")
    assert LeftOut("tracing", "mount-point") in seen.left_out
    assert "tracing" in seen.found
    assert f"{tree}/debug/tracing" not in Path("/proc/self/mounts").read_text()
    # It would have been.
    os.listdir(tree / "debug" / "tracing")
    assert f"{tree}/debug/tracing" in Path("/proc/self/mounts").read_text()


@pytest.mark.root
@pytest.mark.fs("btrfs")
@each_lookup
def test_a_subvolume_is_not_entered(mounted: Mounted) -> None:
    """In it inode numbers are those of the other one; nor is one that comes meanwhile."""
    tree = mounted.path / "tree"
    subprocess.run(["btrfs", "-q", "subvolume", "create", tree], check=True)
    fill(tree, "d/f")
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", tree, mounted.path / "s"], check=True)
    fill(mounted.path / "s", "d/f", content=b"secret")
    with Tree(str(tree)) as held:
        found = Walk(held).found
        shutil.move(mounted.path / "s", tree / "s")
        assert (tree / "s" / "d" / "f").stat().st_ino == found["d/f"].st_ino
        seen = Walk(held)
        assert set(seen.found) == {"", "d", "d/f", "s"}
        assert seen.left_out == [LeftOut("s", "subvolume")]
        exchange(tree / "s", tree / "d")
        for way in (held.open, held.hold):
            with pytest.raises(ReplacedError):
                way("d/d/f", found["d/f"])
        with pytest.raises(FileNotFoundError):
            held.open("d/f/f")


# FUSE


@pytest.mark.root
@pytest.mark.fs("ext4")
@pytest.mark.parametrize("state", ["lives", "silent", "dead"])
@pytest.mark.parametrize("user", [0, USER])
def test_a_mount_of_a_user_stops_nothing(tree: Path, state: str, user: int) -> None:
    """One that root is refused, that never answers, or whose program is gone."""
    fill(tree, "a/f", "z/f")
    (tree / "m").mkdir()
    with Fuse(tree / "m", {"f": b"data"}, user=user) as fuse:
        if state == "silent":
            fuse.silent = True
        elif state == "dead":
            fuse.die()
            with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
                as_user(user, lambda: (tree / "m").stat())
        with ended_in(60, fuse.die):
            seen = walk(tree)
        assert set(seen.found) == {"", "a", "a/f", "m", "z", "z/f"}
        assert seen.left_out == [LeftOut("m", "mount-point")]
        assert not seen.problems
        assert seen.found["m"].is_mount
        assert stat.S_ISDIR(seen.found["m"].st_mode)


@pytest.mark.root
@pytest.mark.fs("ext4")
@pytest.mark.parametrize("user", [0, USER])
@each_lookup
def test_a_mount_that_comes_meanwhile_and_never_answers(tree: Path, user: int) -> None:
    """It is told from the directory that was found, and nobody is asked."""
    fill(tree, "m/f")
    with Tree(str(tree)) as held:
        found = Walk(held).found
        with Fuse(tree / "m", {"f": b"data"}, user=user) as fuse:
            fuse.silent = True
            with ended_in(60, fuse.die):
                for expected in (None, found["m"]):
                    for way in (held.open, held.hold, held.open_directory):
                        with pytest.raises(OSError, match="mounted over"):
                            way("m", expected)


@pytest.mark.root
@pytest.mark.fs("ext4")
@pytest.mark.parametrize("direct", [False, True])
def test_a_tree_of_fuse(tree: Path, direct: bool) -> None:
    """Without generations, holes or pages; with a name that is not there, and a bad file."""
    files = {"file": b"data", "empty": b"", "bad": errno.EIO}
    with Fuse(tree, files, ghosts=("ghost",), direct=direct):
        seen = walk(tree)
        assert seen.named == {"ghost": Trouble.DAMAGED}
        assert set(seen.found) == {"", *files}
        ran = run_duet("run", "scrub", tree, "--state", ":memory:", "--json")
        assert ran.status == 12, ran.words
        ended = ran.objects[-1]
        named = {one["path"]: one["trouble"] for one in ended["problems"]}
        assert named == {"ghost": "damaged", "bad": "damaged"}
        assert ended["files_done"] == 3


@pytest.mark.root
@pytest.mark.fs("ext4")
def test_a_file_that_cannot_be_mapped_is_not_in_memory(tree: Path) -> None:
    files = {"file": b"x" * 5000}
    with Fuse(tree, files, direct=True), Tree(str(tree)) as held, held.opened("file") as fd:
        assert missing(fd) == [range(2)]


# Damage, and what may not be read


@pytest.mark.root
@pytest.mark.fs("ext4")
@each_lookup
def test_a_damaged_inode_is_named(mounted: Mounted) -> None:
    fill(mounted.path, "d/bad", "d/good", "gone/f")
    mounted.unmount()
    assert mounted.image
    for path in ("d/bad", "gone"):
        command = ["debugfs", "-w", "-R", f"clri /{path}", mounted.image]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    mounted.mount()
    seen = walk(mounted.path)
    assert seen.named == {"d/bad": Trouble.DAMAGED, "gone": Trouble.DAMAGED}
    assert set(seen.found) - {"lost+found"} == {"", "d", "d/good"}


@pytest.mark.user
@each_lookup
def test_what_may_not_be_read_is_named(tree: Path) -> None:
    fill(tree, "listed/a", "listed/b", "closed/f", "shut/f", "d/f")
    (tree / "listed").chmod(0o444)
    (tree / "closed").chmod(0)
    (tree / "shut").chmod(0o111)
    (tree / "d" / "f").chmod(0)
    with Tree(str(tree)) as held:
        seen = Walk(held)
        assert set(seen.found) == {"", "listed", "closed", "shut", "d", "d/f"}
        assert seen.named == dict.fromkeys(
            ("listed/a", "listed/b", "closed", "shut"), Trouble.REFUSED
        )
        with pytest.raises(PermissionError) as caught:
            held.open("d/f")
        assert caught.value.filename == "d/f"
        # What cannot be seen is not taken to be gone.
        assert not held.is_gone("closed/f", seen.found["d/f"])
        (tree).chmod(0o444)
        with pytest.raises(PermissionError) as root:
            Walk(held)
        assert root.value.filename == str(tree)
        (tree).chmod(0o755)


@pytest.mark.root
def test_without_proc_it_is_said_at_once(tree: Path) -> None:
    fill(tree, "f")

    def look() -> str:
        mount("none", Path("/proc"), "tmpfs")
        try:
            Tree(str(tree))
        except OSError as error:
            return f"{error.filename}: {error.strerror}"
        return ""

    def alone() -> str:
        places.unshare(places.CLONE_NEWNS)
        return look()

    assert re.match("/proc: it is not mounted, .* mount it", in_child(alone))


# What is opened


@contextlib.contextmanager
def watched(*paths: Path) -> Iterator[Callable[[], set[Path]]]:
    """Give a function that returns which of some names, links among them, were opened."""
    fd = _LIBC.inotify_init1(os.O_NONBLOCK)
    dont_follow = 0x02000000
    names = {
        _LIBC.inotify_add_watch(fd, bytes(path), _IN_OPEN | dont_follow): path for path in paths
    }
    assert -1 not in names

    def opened() -> set[Path]:
        found = set()
        while select.select([fd], [], [], 0)[0]:
            events = os.read(fd, 1 << 16)
            while events:
                number, _, _, length = struct.unpack_from("=iIII", events)
                found.add(names[number])
                events = events[16 + length :]
        return found

    yield opened
    os.close(fd)


@each_lookup
def test_nothing_but_files_and_directories_is_opened(tree: Path) -> None:
    fill(tree, "d/f")
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to("d/f")
    special = ["fifo", "link", "socket"]
    if not os.geteuid():
        os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(tree / "loop", stat.S_IFBLK | 0o666, os.makedev(7, 0))
        special += ["null", "loop"]
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        # Its path may be longer than an address.
        there = os.getcwd()
        os.chdir(tree)
        listening.bind("socket")
        os.chdir(there)
    with watched(*(tree / name for name in ("d/f", *special))) as opened:
        with Tree(str(tree)) as held:
            found = Walk(held).found
            assert set(found) == {"", "d", "d/f", *special}
            for name in special:
                with held.held(name, found[name]) as fd:
                    assert status_of(fd).identity == found[name].identity
                with pytest.raises(ReplacedError):
                    held.open(name, found[name])
                with pytest.raises(NotADirectoryError):
                    held.open_directory(name)
        assert not opened()
        ran = run_duet("run", "scrub", tree, "--state", ":memory:")
        assert ran.status == 0, ran.words
        assert opened() == {tree / "d/f"}


@pytest.mark.root
@pytest.mark.fs("ext4", "xfs")
def test_access_times_stay(new_mount: Callable[..., Mounted], mounted: Mounted) -> None:
    top = new_mount(mounted.kind, "strictatime").path
    fill(top, "d/e/f")
    paths = [top, *sorted(top.rglob("*"))]
    before = [os.lstat(path).st_atime_ns for path in paths]
    time.sleep(0.05)
    seen = walk(top)
    with Tree(str(top)) as held:
        assert content(held, "d/e/f", seen.found["d/e/f"]) == b"public"
    assert [os.lstat(path).st_atime_ns for path in paths] == before
    # They would have changed.
    os.listdir(top / "d")
    assert os.lstat(top / "d").st_atime_ns != before[1]


# Layers


@pytest.mark.root
@pytest.mark.fs("ext4")
def test_files_of_two_layers_are_two(
    tree: Path, new_mount: Callable[..., Mounted], mounted: Mounted
) -> None:
    """Without times of birth, and with equal inode numbers."""
    layers = [new_mount("ext4", size=16 << 20, mkfs=("-I", "128")).path for _ in range(2)]
    for name, layer in zip("ab", layers, strict=True):
        fill(layer, name)
        assert (layer / name).stat().st_ino == (layers[0] / "a").stat().st_ino
    data = f"lowerdir={layers[0]}:{layers[1]},xino=off"
    mount("none", tree, "overlay", data=data)
    with Tree(str(tree)) as held, Inventory(held.walk(print, print)) as found:
        assert {one.path for one in found.regular()} == {"a", "b"}
        assert not list(found.links())


# Races


def race(tree: Path, secret: Path, place: Path, seconds: float) -> None:
    """Hold that nothing of a directory outside is reached while a link to it comes and goes."""
    fill(tree, "d/f", "d/e/f")
    fill(secret, "f", "e/f", content=b"secret")
    (tree / "x").symlink_to(secret)
    device, inodes = tree.stat().st_dev, {one.lstat().st_ino for one in (tree, *tree.rglob("*"))}
    seen = {"open": 0, "refused": 0, "walk": 0}
    before = len(os.listdir("/proc/self/fd"))
    with Tree(str(tree)) as held, exchanging(tree / "d", tree / "x", place):
        end = time.monotonic() + seconds
        while min(seen.values()) < 500 or time.monotonic() < end:
            for one in held.walk(lambda _: None, lambda _: None):
                assert (one.status.st_dev, one.status.st_ino in inodes) == (device, True), one
                seen["walk"] += one.path.count("/")
                if not stat.S_ISREG(one.status.st_mode):
                    continue
                for expected in (None, one.status):
                    try:
                        assert content(held, one.path, expected) == b"public"
                        with held.held(one.path, expected) as fd:
                            assert os.fstat(fd).st_ino in inodes
                            assert os.fstat(fd).st_dev == device
                        seen["open"] += 1
                    except (FileNotFoundError, NotADirectoryError, ReplacedError):
                        seen["refused"] += 1
    assert len(os.listdir("/proc/self/fd")) == before


@each_lookup
def test_a_race(tree: Path, mounted: Mounted, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    race(tree, mounted.path / "secret", tmp_path, 60 if pytestconfig.getoption("--long") else 0.5)


@pytest.mark.root
@pytest.mark.fs("ext4")
@each_lookup
def test_a_race_to_equal_inode_numbers(
    new_mount: Callable[..., Mounted],
    mounted: Mounted,
    tmp_path: Path,
    pytestconfig: pytest.Config,
) -> None:
    one, other = new_mount("ext4").path, new_mount("ext4").path
    other /= "d"
    race(one, other, tmp_path, 60 if pytestconfig.getoption("--long") else 0.5)
    public = next(path for path in (one / "d", one / "x") if not path.is_symlink())
    assert (other / "f").stat().st_ino == (public / "f").stat().st_ino


def test_a_backup_in_a_race(
    tree: Path, mounted: Mounted, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """What is archived is of the tree, and what stood still is in it."""
    secret = mounted.path / "secret"
    fill(tree, "d/f", "d/e/f", *(f"still/{number}" for number in range(200)))
    fill(secret, "f", "e/f", content=b"secret")
    (tree / "x").symlink_to(secret)
    end = time.monotonic() + (120 if pytestconfig.getoption("--long") else 0)
    with exchanging(tree / "d", tree / "x", tmp_path):
        while True:
            archive = tmp_path / "archive.tar"
            archive.unlink(missing_ok=True)
            ran = run_duet("run", "backup", tree, archive, "--state", ":memory:")
            assert ran.status in (0, 12), ran.words
            with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as tar:
                files = {
                    one.name.removeprefix("./"): tar.extractfile(one) for one in tar if one.isreg()
                }
                read = {name: file.read() for name, file in files.items() if file}
            assert set(read.values()) == {b"public"}
            assert {f"still/{number}" for number in range(200)} <= set(read)
            if time.monotonic() >= end:
                return
