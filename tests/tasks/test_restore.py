# SPDX-License-Identifier: MIT
"""Restores into what users may change meanwhile, and what is large, odd or mounted there."""

import contextlib
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hostile
import pytest
from command import Ran, run_forked
from compare import differences, look
from exchange import exchange, exchanging
from fuse import Fuse
from hypothesis import given
from places import USER, Mounted
from trees import empty_path

from pyduet.maintenance.archive import pax
from pyduet.maintenance.archive.chain import Link
from pyduet.maintenance.archive.restore import Restore, Restored, RestoreError
from pyduet.maintenance.archive.target import Target
from pyduet.maintenance.tasks import backup
from pyduet.maintenance.work import Problem, ReplacedError

DONE, NAMED = 0, 12
ME = os.geteuid()
SECRET = b"root's own"
#: Levels of a tree that nothing may go through by recursion, nor hold.
DEEP = 5000


def member(
    name: str, kind: bytes, mode: int = 0o755, owner: int = ME, data: bytes = b"", **more: Any
) -> bytes:
    """Return a member of an archive, with its data."""
    one = pax.Member(name, kind, mode, owner, owner, 10**18, size=len(data), **more)
    return pax.header(one) + pax.padded(data)


def directory(name: str, *there: str, mode: int = 0o755, owner: int = ME) -> bytes:
    """Return a directory, with the list of what is in it; of directories with a slash."""
    names = [(os.fsencode(one.rstrip("/")), one.endswith("/")) for one in there]
    return member(name, pax.DIRECTORY, mode, owner, records=[pax.dumpdir(names)])


def write(path: Path, *members: bytes, after: Link | None = None) -> Link:
    """Write an archive of some members after the root."""
    link = Link.new(str(path), "/", after)
    content = member(".", pax.DIRECTORY, records=[link.record]) + b"".join(members)
    path.write_bytes(content + pax.ending(len(content)))
    return link


def restored(archives: list[Path], target: Path, *more: str) -> Ran:
    """Run the command."""
    return run_forked("run", "restore", *archives, target, "--json", *more, timeout=60)


def problems(ran: Ran) -> dict[str, str]:
    """Return what is named, and why."""
    return {one["path"]: one["words"] for one in ran.objects[-1]["problems"]}


class Hostile:
    """A user who is quicker than this process: exchanges names before each file that it opens."""

    def __init__(self, home: Path, mine: Sequence[str], root: str) -> None:
        self._home, self._mine, self._root = home, [*mine], root
        self._away: str | None = None
        self.is_at_work = False
        sys.addaudithook(self._hear)

    def __enter__(self) -> None:
        self.is_at_work = True

    def __exit__(self, *_: object) -> None:
        self.is_at_work = False

    def _hear(self, event: str, _: object) -> None:
        """Exchange the next name that is there for root's; the time after, put that back."""
        if event != "open" or not self.is_at_work:
            return
        if self._away is not None:
            exchange(self._home / self._root, self._home / self._away)
            self._away = None
        elif self._mine and os.path.lexists(self._home / self._mine[0]):
            self._away = self._mine.pop(0)
            exchange(self._home / self._root, self._home / self._away)


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        (pax.SYMLINK, {"target": "anywhere"}),
        (pax.FIFO, {}),
        (pax.CHARACTER, {"device": os.makedev(1, 3)}),
    ],
    ids=["links", "fifos", "devices"],
)
def test_what_is_made_is_exchanged_for_a_file_of_others(
    mounted: Mounted, tmp_path: Path, kind: bytes, more: dict[str, Any]
) -> None:
    """The user has their home back, where a file of root's is, and is given links."""
    full = write(
        tmp_path / "full.tar",
        member("./home", pax.DIRECTORY, owner=USER),
        member("./home/root", pax.FILE, 0o600, data=SECRET),
        member("./home", pax.DIRECTORY, owner=USER),
        member(".", pax.DIRECTORY),
    )
    names = [f"n{number}" for number in range(9)]
    write(
        tmp_path / "inc.tar",
        *(member(f"./home/{name}", kind, 0o666, USER, **more) for name in names),
        after=full,
    )
    target = mounted.path / "target"
    with Hostile(target / "home", names, "root"):
        Restore([str(tmp_path / name) for name in ("full.tar", "inc.tar")], str(target)).run()
    [secret] = [one for one in (target / "home").iterdir() if stat.S_ISREG(one.lstat().st_mode)]
    status = secret.lstat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o600)
    assert secret.read_bytes() == SECRET


def restored_while(
    archives: list[Path], target: Path, after: int, change: Callable[[], object], **more: bool
) -> dict[str, str]:
    """Restore archives, and let somebody make a change after so many members; return problems."""
    waiting = [change]

    def tell(progress: Restored) -> None:
        if progress.members == after and waiting:
            waiting.pop()()

    done = Restore([str(path) for path in archives], str(target), tell=tell, **more).run()
    assert not waiting, "nobody made the change"
    return {problem.path: problem.words for problem in done.problems}


@pytest.mark.root
def test_a_directory_that_was_made_is_exchanged_for_one_of_others(
    mounted: Mounted, tmp_path: Path
) -> None:
    """It gets neither an owner, nor files, nor is it emptied."""
    full = write(
        tmp_path / "full.tar",
        member("./home", pax.DIRECTORY, owner=USER),
        member("./home/root", pax.DIRECTORY, 0o700),
        member("./home/root/secret", pax.FILE, 0o644, data=SECRET),
        member("./home/mine", pax.DIRECTORY, owner=USER),
        member("./home/root", pax.DIRECTORY, 0o700),
        member("./home/mine", pax.DIRECTORY, owner=USER),
        member("./home", pax.DIRECTORY, owner=USER),
        member(".", pax.DIRECTORY),
    )
    write(
        tmp_path / "inc.tar",
        member("./home/mine", pax.DIRECTORY, owner=USER),
        member("./home/mine/secret", pax.FILE, owner=USER, data=b"the user's"),
        directory("./home/mine", "secret", owner=USER),
        after=full,
    )
    target = mounted.path / "target"
    mine, root = target / "home/mine", target / "home/root"
    # When all of the first archive is restored: its nine members.
    found = restored_while(
        [tmp_path / "full.tar", tmp_path / "inc.tar"], target, 9, lambda: exchange(mine, root)
    )
    assert found.keys() == {"home/mine", "home/mine/secret"}
    assert "replaced" in found["home/mine"]
    status = mine.lstat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o700)
    assert (mine / "secret").read_bytes() == SECRET
    assert list(root.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("name", ["old", "new"])
def test_what_is_removed_is_exchanged_for_a_directory_of_others(
    mounted: Mounted, tmp_path: Path, name: str
) -> None:
    """A user cannot remove what is in it; by its name, or by one that the archive never had."""
    full = write(
        tmp_path / "full.tar",
        member("./home", pax.DIRECTORY, owner=USER),
        member("./home/root", pax.DIRECTORY, 0o700),
        member("./home/root/kept", pax.FILE, 0o644, data=SECRET),
        member("./home/old", pax.DIRECTORY, owner=USER),
        member("./home", pax.DIRECTORY, owner=USER),
    )
    write(tmp_path / "inc.tar", directory("./home", "root/", owner=USER), after=full)
    target = mounted.path / "target"
    root, other = target / "home/root", target / "home" / name

    def change() -> None:
        if name == "new":
            root.rename(other)
        else:
            exchange(root, other)

    found = restored_while([tmp_path / "full.tar", tmp_path / "inc.tar"], target, 6, change)
    assert found.keys() == {f"home/{name}"}
    assert (other / "kept").read_bytes() == SECRET


@pytest.mark.root
def test_a_further_name_is_of_the_file_that_was_restored(mounted: Mounted, tmp_path: Path) -> None:
    """And not of what a user put where that was."""
    write(
        tmp_path / "full.tar",
        member("./home", pax.DIRECTORY, owner=USER),
        member("./home/file", pax.FILE, 0o644, data=SECRET),
        member("./home/file2", pax.FILE, 0o644, data=SECRET),
        member("./home", pax.DIRECTORY, owner=USER),
        member("./etc", pax.DIRECTORY),
        member("./etc/file", pax.LINK, target="./home/file"),
        member("./etc/file2", pax.LINK, target="./home/file2"),
        member("./etc/none", pax.LINK, target="./home/none"),
    )
    target = mounted.path / "target"

    def change() -> None:
        for name in ("file", "none"):
            (target / "home" / name).unlink(missing_ok=True)
            (target / "home" / name).write_bytes(b"the user's")

    found = restored_while([tmp_path / "full.tar"], target, 6, change)
    assert found.keys() == {"etc/file", "etc/none"}
    assert "was not restored" in found["etc/none"]
    assert os.listdir(target / "etc") == ["file2"]
    assert (target / "etc/file2").samefile(target / "home/file2")


@pytest.mark.root
def test_over_gives_nobody_a_directory_of_others(mounted: Mounted, tmp_path: Path) -> None:
    """A user has put it where the archive has one of theirs, or one that all may read."""
    write(
        tmp_path / "full.tar",
        *(
            member(name, pax.DIRECTORY, 0o755, owner)
            for name, owner in (
                ("./home", USER), ("./home/theirs", USER), ("./home/open", 0),
                ("./home/own", USER), ("./home/own/own", USER), ("./other", USER), (".", 0),
            )
        ),
    )  # fmt: skip
    target = mounted.path / "target"
    for name in ("home/theirs", "home/open", "home/own/own", "other"):
        (target / name).mkdir(0o700, parents=True)
        (target / name / "secret").write_bytes(SECRET)
    for name in ("home", "home/own", "home/own/own"):
        os.chown(target / name, USER, USER)
    ran = restored([tmp_path / "full.tar"], target, "--over")
    assert ran.status == NAMED
    assert problems(ran).keys() == {"home/theirs", "home/open"}

    def owner(name: str) -> tuple[int, int]:
        status = (target / name).lstat()
        return status.st_uid, stat.S_IMODE(status.st_mode)

    assert owner("home/theirs") == owner("home/open") == (0, 0o700)
    # That is theirs already; and where root alone writes nobody has put anything.
    assert owner("home/own/own") == owner("other") == (USER, 0o755)


def test_it_is_the_target_that_has_to_be_empty(tmp_path: Path) -> None:
    """Not what has its name a moment before."""
    write(tmp_path / "full.tar", member("./d", pax.DIRECTORY))
    target, other = tmp_path / "target", tmp_path / "other"
    target.mkdir()
    other.mkdir()
    (other / "d").write_bytes(b"in the way")
    empty, full = (os.open(one, os.O_RDONLY) for one in (target, other))
    done = refused = 0
    with exchanging(target, other, tmp_path):
        while done + refused < 300 or not done or not refused:
            try:
                Restore([str(tmp_path / "full.tar")], str(target)).run()
                done += 1
            except RestoreError:
                refused += 1
            # By its descriptor: each name is the other's a moment later.
            with contextlib.suppress(FileNotFoundError):
                os.rmdir("d", dir_fd=empty)
    assert (os.listdir(empty), os.listdir(full)) == ([], ["d"])
    assert stat.S_ISREG(os.stat("d", dir_fd=full).st_mode)
    os.close(empty)
    os.close(full)


def build_deep(path: Path, levels: int) -> None:
    """Make directories in one another, with a file in each."""
    path.mkdir()
    held = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=held)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=held))
        below = os.open("d", os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = below
    os.close(held)


def test_what_is_deep_is_removed(tree: Path, tmp_path: Path) -> None:
    """Neither calls nor descriptors are as many as its levels."""
    full = write(tmp_path / "full.tar", member("./kept", pax.FILE, data=b"kept"))
    write(tmp_path / "inc.tar", directory(".", "kept"), after=full)
    build_deep(tree / "deep", DEEP)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
    try:
        ran = restored([tmp_path / "full.tar", tmp_path / "inc.tar"], tree, "--over")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert ran.status == DONE, ran.words
    assert os.listdir(tree) == ["kept"]
    assert ran.objects[-1]["removed"] == 2 * DEEP + 1


def test_what_is_moved_while_it_is_emptied(tree: Path) -> None:
    """The way back leads where somebody else wants it to lead: it is not gone."""
    inner = tree / "gone/a/b"
    inner.mkdir(parents=True)
    (inner / "f").touch()
    (tree / "other/a").mkdir(parents=True)
    (tree / "other/kept").touch()
    moved = tree / "other/b"

    def removed() -> None:
        if inner.exists():
            inner.rename(moved)

    named: list[Problem] = []
    with (
        Target(str(tree), [], named.append, removed) as target,
        pytest.raises(ReplacedError, match="moved"),
    ):
        target.clear(target.tree.fd, "gone", "gone")
    assert not named
    assert (moved.exists(), (tree / "other/kept").exists(), (tree / "other/a").exists()) == (
        True, True, True,
    )  # fmt: skip


@pytest.mark.root
def test_who_has_mounted_something_is_not_asked(mounted: Mounted, tmp_path: Path) -> None:
    """A user's program that never answers: in the place of files and directories, or a stray."""
    full = write(
        tmp_path / "full.tar",
        member("./file", pax.FILE, data=b"content"),
        member("./link", pax.LINK, target="./file"),
        member("./here", pax.DIRECTORY),
        directory("./listed"),
        member("./after", pax.FILE, data=b"content"),
    )
    write(tmp_path / "inc.tar", directory(".", "file", "link", "here/", "after"), after=full)
    target = mounted.path / "target"
    silent = {name: target / name for name in ("file", "link", "here", "listed", "stray")}
    with contextlib.ExitStack() as stack:
        for place in silent.values():
            place.mkdir(parents=True)
            server = stack.enter_context(Fuse(place, {}, user=USER))
            server.silent = True
            stack.callback(subprocess.run, ["umount", "--lazy", place], check=True)
            stack.callback(server.die)
        ran = restored([tmp_path / "full.tar", tmp_path / "inc.tar"], target, "--over")
    assert ran.status == NAMED, ran.words
    assert problems(ran).keys() == {"file", "link", "listed", "stray"}
    assert (target / "after").read_bytes() == b"content"


@pytest.mark.root
def test_the_top_of_a_file_system(
    mounted: Mounted, new_mount: Callable[..., Mounted], tmp_path: Path
) -> None:
    """It is no mount in the tree, but the tree: it is listed, and has its attributes again."""
    mounted.path.chmod(0o711)
    os.setxattr(mounted.path, "user.a", b"1")
    for name in ("gone", "stays"):
        (mounted.path / name).touch()
    archives = [tmp_path / "full.tar", tmp_path / "inc.tar"]
    command = ("run", "backup", mounted.path)
    state = ("--state", tmp_path / "state")
    assert run_forked(*command, archives[0], *state).status == DONE
    (mounted.path / "gone").unlink()
    assert run_forked(*command, archives[1], *state, "--incremental").status == DONE
    target = new_mount(mounted.kind).path
    ran = restored(archives, target)
    assert ran.status == DONE, ran.words
    assert os.listdir(target) == ["stays"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o711
    assert os.getxattr(target, "user.a") == b"1"


def test_nothing_of_its_own_is_left(tree: Path, tmp_path: Path) -> None:
    """What it makes things in is gone, also where something could not be made."""
    strange = [(pax.attribute(b"user.with\0in it"), b"")]
    write(
        tmp_path / "full.tar",
        member("./d", pax.DIRECTORY),
        member("./d/link", pax.SYMLINK, target="x" * 5000),
        member("./d/pipe", pax.FIFO),
        member("./d/strange", pax.FIFO, records=strange),
    )
    ran = restored([tmp_path / "full.tar"], tree)
    assert ran.status == NAMED
    assert problems(ran).keys() == {"d/link", "d/strange"}
    assert os.listdir(tree / "d") == ["pipe"]


@given(changes=hostile.CHANGES)
@hostile.each_known
def test_a_hostile_archive_leads_nowhere(
    mounted: Mounted, tmp_path: Path, changes: list[hostile.Change]
) -> None:
    """It is refused, or restored as far as it goes; what is beside the target stays."""
    top = mounted.path / "top"
    (top / "outside").mkdir(parents=True)
    (top / "outside/f").write_bytes(SECRET)
    before = look(top)
    (tmp_path / "full.tar").write_bytes(hostile.changed(hostile.members(), changes))
    problems: list[Problem] = []
    with contextlib.suppress(pax.ArchiveError, RestoreError):
        problems = Restore([str(tmp_path / "full.tar")], str(top / "target")).run().problems
    if not changes and ME == 0:
        assert problems == []
    if (top / "target").exists():
        empty_path(top / "target")
        (top / "target").rmdir()
    wrong = [one for one in differences(before, look(top)) if one.path]
    assert not wrong, "\n".join(map(str, wrong))
    empty_path(top)
    top.rmdir()


def test_what_has_very_many_holes_is_archived_with_fewer(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller ones are zeros then, the larger ones stay."""
    monkeypatch.setattr(backup, "_MOST_EXTENTS", 10)
    block, content = 1 << 16, b""
    with (tree / "f").open("wb") as file:
        for number in range(40):
            file.seek((1 + 9 * (number % 8 == 0)) * block, os.SEEK_CUR)
            file.write(bytes([number + 1]) * block)
    content = (tree / "f").read_bytes()
    ran = run_forked("run", "backup", tree, tmp_path / "a.tar", "--state", tmp_path / "state")
    assert ran.status == DONE, ran.words
    with open(tmp_path / "a.tar", "rb") as archive:
        [one] = [one for one in pax.members(archive.fileno(), "") if one.type == pax.FILE]
    assert one.extents is not None
    assert 5 <= len(one.extents) <= 10
    assert one.size - one.stored >= 5 * 9 * block
    target = tree.parent / "target"
    assert restored([tmp_path / "a.tar"], target).status == DONE
    assert (target / "f").read_bytes() == content


def test_what_no_header_takes_is_named(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restore takes no header that is longer: so none is written."""
    monkeypatch.setattr(backup, "_MOST_BYTES", 1000)
    for number in range(100):
        (tree / f"{number:020}").touch()
    for name in ("user.a", "user.b"):
        os.setxattr(tree / f"{0:020}", name, b"x" * 900)
    state = ("--state", tmp_path / "state")
    ran = run_forked("run", "backup", tree, tmp_path / "a.tar", *state, "--json")
    assert problems(ran).keys() == {f"{0:020}"}
    ran = run_forked("run", "backup", tree, tmp_path / "b.tar", *state, "--json", "--incremental")
    assert "the list of what is in it" in problems(ran)[""]
    target = tree.parent / "target"
    assert restored([tmp_path / "a.tar", tmp_path / "b.tar"], target).status == DONE
    assert len(os.listdir(target)) == 100
    assert os.listxattr(target / f"{0:020}") == ["user.a"]


def test_a_directory_has_its_time_whatever_comes_into_it_later(tree: Path, tmp_path: Path) -> None:
    """As tar gives it; what vanished when its archive was finished has no last word there."""
    write(
        tmp_path / "a.tar",
        directory("./d"),
        directory("./d/e"),
        member("./d/e/file", pax.FILE, 0o600, data=b"content"),
        member("./d/link", pax.SYMLINK, target="e"),
    )
    ran = restored([tmp_path / "a.tar"], tree)
    assert ran.status == DONE, ran.words
    for path in (tree, tree / "d", tree / "d/e", tree / "d/e/file"):
        assert path.stat().st_mtime_ns == 10**18, path


@pytest.mark.root
def test_a_later_archive_takes_attributes_away(tree: Path, tmp_path: Path) -> None:
    """Also those that look like a label, but are none that the system itself gives."""
    names = ["security.%", "trusted.a", "user.a"]
    given = [(pax.attribute(name.encode()), b"value") for name in names]
    full = write(tmp_path / "a.tar", member("./d", pax.DIRECTORY, records=given))
    write(tmp_path / "b.tar", directory("./d"), after=full)
    assert restored([tmp_path / "a.tar"], tree / "full").status == DONE
    assert sorted(os.listxattr(tree / "full/d")) == names
    ran = restored([tmp_path / "a.tar", tmp_path / "b.tar"], tree / "both")
    assert ran.status == DONE, ran.words
    assert os.listxattr(tree / "both/d") == []


def test_a_hole_stays_empty(tree: Path, tmp_path: Path) -> None:
    """XFS reserves room behind the end of what is written, as much as was written."""
    data = b"data" * (2 << 18)
    extents = [(0, len(data)), (16 << 20, 4096)]
    content = pax.Member(
        "./file", pax.FILE, 0o600, ME, ME, 10**18, size=(16 << 20) + 4096, extents=extents
    )
    write(tmp_path / "a.tar", pax.header(content) + pax.padded(data + bytes(4096)))
    assert restored([tmp_path / "a.tar"], tree).status == DONE
    assert (tree / "file").stat().st_blocks * 512 < len(data) + (256 << 10)
