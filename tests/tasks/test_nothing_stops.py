# SPDX-License-Identifier: MIT
"""Whatever vanishes, refuses or is damaged: it is named, and all else is done."""

import contextlib
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import restore
from beside import beside
from command import Ran, run_forked
from compare import differences, look
from mounts import MS_BIND, mount
from places import Mounted

from pyduet.cli import progress

DONE, NAMED = 0, 12
#: In the data or the name of what is damaged below the file system.
MARK = b"to-be-damaged"
#: The name of the file that is damaged.
VICTIM = "victim"


def backup(tree: Path, out: Path, *more: str) -> Ran:
    return run_forked("run", "backup", tree, out / "tar", "--state", out / "b", "--json", *more)


def scrub(tree: Path, out: Path) -> Ran:
    return run_forked("run", "scrub", tree, "--state", out / "s", "--json")


def rsync(tree: Path, out: Path) -> Ran:
    return run_forked("run", "rsync", "--state", out / "r", "--json", tree, out / "copy")


def troubles(ran: Ran) -> dict[str, str]:
    """Return what is named, and why."""
    last: dict[str, Any] = ran.objects[-1]
    return {problem["path"]: problem["trouble"] for problem in last["problems"]}


def assert_restored(tree: Path, out: Path) -> None:
    """Assert that an archive has all that stands still; nobody can look at what does not."""
    target = out / "restored"
    target.mkdir()
    ran = restore.gnu_tar([out / "tar"], target)
    wrong = differences(look(tree / "still"), look(target / "still"))
    assert not wrong, (*map(str, wrong), ran.words)


def furnish(tree: Path, count: int = 20) -> None:
    """Make something that stands still."""
    for number in range(count):
        directory = tree / f"still/{number % 4}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file{number}").write_bytes(b"%d" % number * 3000)


def building(tree: Path) -> contextlib.AbstractContextManager[None]:
    """Make and remove directories with files and links in them, until the context ends."""
    tree.mkdir()

    def build() -> None:
        for number in range(20):
            directory = tree / f"{number}/src/deep"
            directory.mkdir(parents=True)
            for name in ("a.c", "a.o", "a.d"):
                (directory / name).write_bytes(b"x" * 10_000)
            (directory / "link").symlink_to("a.c")
            (directory / "other").hardlink_to(directory / "a.c")
            os.mkfifo(directory / "fifo")
            (directory / "a.o").rename(directory.parent / "a.o")
        for number in range(20):
            remove(tree / str(number))

    return beside("building", build)


def remove(top: Path) -> None:
    for directory, _, names in os.walk(top, topdown=False):
        for name in names:
            os.unlink(os.path.join(directory, name))
        for entry in list(os.scandir(directory)):
            if entry.is_symlink():
                os.unlink(entry.path)
        os.rmdir(directory)


@pytest.mark.parametrize("task", [backup, scrub, rsync])
def test_a_build_goes_on(
    task: Callable[[Path, Path], Ran], tree: Path, mounted: Mounted, seconds: float
) -> None:
    furnish(tree)
    end = time.monotonic() + seconds
    number = 0
    with building(tree / "build"):
        while not number or time.monotonic() < end:
            number += 1
            out = mounted.path / f"out{number}"
            out.mkdir()
            ran = task(tree, out)
            assert ran.status in (DONE, NAMED), ran.words
            assert (ran.status == NAMED) == bool(troubles(ran)), ran.words
            assert not [path for path in troubles(ran) if path.startswith("still")], ran.words
            if task is backup:
                assert_restored(tree, out)
            elif task is rsync:
                found = differences(look(tree / "still"), look(out / "copy/still"))
                # rsync 3.5 forgets directories' times now and then while others vanish.
                found = [one for one in found if one.field != "mtime_ns" or b"file" in one.path]
                assert not found, (*map(str, found), ran.words)


@pytest.mark.user
def test_what_a_user_may_not_read(tree: Path, mounted: Mounted) -> None:
    furnish(tree)
    for name in ("listed", "closed", "passed"):
        (tree / name).mkdir()
        (tree / name / "in it").write_text("x")
    (tree / "file").write_text("x")
    (tree / "file").chmod(0)
    for name, mode in (("listed", 0o400), ("closed", 0), ("passed", 0o100)):
        (tree / name).chmod(mode)
    for task in (backup, scrub):
        out = mounted.path / task.__name__
        out.mkdir()
        ran = task(tree, out)
        assert ran.status == NAMED, ran.words
        assert troubles(ran) == dict.fromkeys(
            ("listed/in it", "closed", "passed", "file"), "refused"
        )
        assert len(ran.words.splitlines()) < 20
    out = mounted.path / "backup"
    found = out / "restored"
    found.mkdir()
    assert restore.gnu_tar([out / "tar"], found).status == 0
    wrong = differences(look(tree), look(found), [b"file", b"listed/in it"])
    assert not wrong, [*map(str, wrong)]


def damage(mounted: Mounted, how: Callable[[Path], object]) -> Mounted:
    """Change the image of a file system while that is not mounted."""
    mounted.unmount()
    assert mounted.image
    how(mounted.image)
    return mounted.mount()


def overwrite(image: Path) -> None:
    """Change what is marked, wherever that is on the disk."""
    step = 8 << 20
    with image.open("r+b") as file:
        size, at, count = image.stat().st_size, 0, 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            piece = os.pread(file.fileno(), step + len(MARK), at)
            place = piece.find(MARK)
            while place >= 0:
                os.pwrite(file.fileno(), b"\xff" * len(MARK), at + place)
                count += 1
                place = piece.find(MARK, place + 1)
            at += step
    assert count


def clear_inode(image: Path) -> None:
    """Make zeros of the inode of a file of ext4."""
    command = ["debugfs", "-w", "-R", f"clri /tree/still/1/{VICTIM}", image]
    subprocess.run(command, check=True, capture_output=True)


def spoil_inode(image: Path) -> None:
    """Make an inode of XFS one that its checksum is not of."""
    commands = ["-c", f"path /tree/still/1/{VICTIM}", "-c", "write -d core.magic 0"]
    subprocess.run(["xfs_db", "-x", *commands, image], check=True, capture_output=True)


def is_damaged(path: Path) -> bool:
    """Return whether the file system refuses to say what something is, or what is in it."""
    try:
        kind = path.lstat().st_mode
        if stat.S_ISREG(kind):
            path.read_bytes()
        elif stat.S_ISDIR(kind):
            os.listdir(path)
    except OSError:
        return True
    return False


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "how"),
    [("ext4", clear_inode), ("xfs", spoil_inode), ("xfs", overwrite), ("btrfs", overwrite)],
)
def test_what_is_damaged(
    kind: str, how: Callable[[Path], object], new_mount: Callable[..., Mounted], tmp_path: Path
) -> None:
    """An inode, a directory (XFS) or data (btrfs) of which the checksum is wrong."""
    mounted = new_mount(kind)
    tree = mounted.path / "tree"
    furnish(tree)
    victim = tree / "still/1" / VICTIM
    # XFS takes inodes that were made together for one piece.
    for number in range(100):
        (victim.parent / f"before{number}").touch()
    victim.write_bytes(MARK * 5000)
    for number in range(100):
        (victim.parent / f"after{number}").touch()
    if how is overwrite and kind == "xfs":
        # A directory of whole blocks, in which the name is; what is in it is lost with it.
        victim.unlink()
        victim = tree / "still/directory"
        victim.mkdir()
        for number in range(200):
            (victim / f"{MARK.decode()}{number:050}").touch()
    contents = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    os.sync()
    mounted = damage(mounted, how)
    damaged = {path for path in (*contents, victim) if is_damaged(path)}
    assert victim in damaged
    assert tree / "still/0/file0" not in damaged
    # What is in a directory that cannot be read is not known of.
    lost = {path for path in damaged if path != victim and victim in path.parents}
    for task in (backup, scrub):
        ran = task(tree, tmp_path)
        assert ran.status == NAMED, ran.words
        names = [str(path.relative_to(tree)) for path in damaged - lost]
        assert troubles(ran) == dict.fromkeys(names, "damaged"), ran.words
    target = tmp_path / "restored"
    target.mkdir()
    restore.gnu_tar([tmp_path / "tar"], target)
    for path in contents.keys() - damaged:
        assert (target / path.relative_to(tree)).read_bytes() == contents[path]


@pytest.mark.root
def test_a_file_system_whose_server_has_died(tree: Path, tmp_path: Path) -> None:
    furnish(tree)
    place = tree / "still/1/mounted"
    place.mkdir()
    fuse = os.open("/dev/fuse", os.O_RDWR)
    mount("nobody", place, "fuse", data=f"fd={fuse},rootmode=40000,user_id=0,group_id=0")
    os.close(fuse)
    with pytest.raises(OSError, match="not connected"):
        place.stat()
    for task in (backup, scrub):
        ran = task(tree, tmp_path)
        last = ran.objects[-1]
        named = {one["path"] for one in (*last["problems"], *last["left_out"])}
        assert named == {"still/1/mounted"}, ran.words
        assert ran.status == (NAMED if last["problems"] else DONE), ran.words
    target = tmp_path / "restored"
    target.mkdir()
    restore.gnu_tar([tmp_path / "tar"], target)
    assert (target / "still/1/mounted").is_dir()
    for path in (tree / "still").glob("*/file*"):
        assert (target / path.relative_to(tree)).read_bytes() == path.read_bytes()


@pytest.mark.root
def test_lists_come_with_the_result_alone(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is told how far the work is; what is in them is counted before."""
    monkeypatch.setattr(progress, "_OBJECTS", 0.0)
    (tree / "a").mkdir()
    (tree / "mounted").mkdir()
    (tree / "file").write_text("x")
    (tmp_path / "copy/file/in the way").mkdir(parents=True)
    mount(str(tree / "a"), tree / "mounted", flags=MS_BIND)
    for task in (["scrub", tree], ["rsync", tree, tmp_path / "copy"]):
        ran = run_forked("run", *task, "--json", "--state", tmp_path / str(task[0]))
        *objects, last = ran.objects
        assert {one["step"] for one in objects} > {"looking for work", "done"}
        assert not any(one["problems"] or one["left_out"] for one in objects)
        assert last["named"] == len(last["problems"]) == (task[0] == "rsync")
        assert last["left_out_count"] == len(last["left_out"]) == (task[0] == "scrub")
        assert max(one["left_out_count"] for one in objects) == 1
