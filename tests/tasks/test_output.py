# SPDX-License-Identifier: MIT
"""Root names files where a user makes names, too: nobody's file but root's own is written."""

import os
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import places
import pytest
from command import Ran, run_forked
from places import USER

from pyduet._place import Place, open_to_write
from pyduet.maintenance import Ledger, LedgerError
from pyduet.maintenance.archive import pax
from pyduet.maintenance.files.output import OtherOutputError, Output, names_of
from pyduet.maintenance.work import TargetError

DONE, FAILED = 0, 1
SECRET = b"what only root may write\n"

Make = Callable[[Path], object]


class Ground:
    """Where root names files, and a user makes names."""

    def __init__(self, path: Path) -> None:
        self.path = path / "ground"
        self.path.mkdir()
        self.path.chmod(0o1777)
        self.tree = path / "tree"
        self.tree.mkdir()
        (self.tree / "file").write_bytes(b"content")
        self.outside = path / "outside"
        self.outside.mkdir(mode=0o700)
        self.secret = self.outside / "secret"
        self.secret.write_bytes(SECRET)
        self._state = path / "state"

    def link(self, name: str, target: Path, *, user: int = USER) -> Path:
        """Make a link, as a user."""
        link = self.path / name
        link.symlink_to(target)
        os.chown(link, user, user, follow_symlinks=False)
        return link

    def run(self, task: str, *args: str | Path) -> Ran:
        return run_forked("run", task, self.tree, *args, "--state", self._state)

    def assert_untouched(self) -> None:
        """Assert that nothing outside was written, or made."""
        assert self.secret.read_bytes() == SECRET
        assert [*self.outside.iterdir()] == [self.secret]


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.mark.root
@pytest.mark.parametrize("sticky", [True, False], ids=["sticky", "home"])
def test_a_users_link_leads_no_archive_away(ground: Ground, sticky: bool) -> None:
    if not sticky:
        ground.path.chmod(0o755)
        os.chown(ground.path, USER, USER)
    link = ground.link("a.tar", ground.secret)
    ran = ground.run("backup", link)
    assert ran.status != DONE
    assert f"{link}: this link is another user's" in ran.words
    ground.assert_untouched()
    assert [*ground.path.iterdir()] == [link]


@pytest.mark.root
def test_a_users_link_to_a_directory_leads_no_archive_away(ground: Ground) -> None:
    link = ground.link("way", ground.outside)
    ran = ground.run("backup", link / "secret")
    assert ran.status != DONE
    assert f"{link}: this link is another user's" in ran.words
    ground.assert_untouched()


@pytest.mark.root
def test_a_link_that_comes_later_leads_no_archive_away(ground: Ground) -> None:
    """Whatever becomes of the way to it, the file is where it was when that was looked up."""
    way = ground.path / "way"
    way.mkdir()
    os.chown(ground.path, USER, USER)
    output = Output(str(way / "secret"), b"duet")
    output.write(b"duet")
    way.rename(ground.path / "moved")
    ground.link("way", ground.outside)
    output.finish()
    output.close()
    ground.assert_untouched()
    assert (ground.path / "moved/secret").read_bytes() == b"duet"


@pytest.mark.root
def test_a_link_in_the_place_of_the_half_one_is_not_followed(ground: Ground) -> None:
    link = ground.link("a.tar.partial", ground.secret)
    ran = ground.run("backup", ground.path / "a.tar")
    assert (ran.status, "no regular file" in ran.words) == (FAILED, True)
    ground.assert_untouched()
    assert link.is_symlink()


@pytest.mark.root
def test_a_link_of_roots_is_followed(ground: Ground) -> None:
    ground.link("a.tar", ground.outside / "a.tar", user=0)
    assert ground.run("backup", ground.path / "a.tar").status == DONE
    assert (ground.outside / "a.tar").stat().st_size
    assert (ground.path / "a.tar").is_symlink()


@pytest.mark.user
def test_a_link_of_ones_own_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("way/a.tar")
    (tmp_path / "way").mkdir()
    assert names_of(str(tmp_path / "link"))[0] == str(tmp_path / "way/a.tar")


def _verdicts(ground: Ground, file: Path) -> Ran:
    return ground.run("scrub", "--verdicts", file)


def _metrics(ground: Ground, file: Path) -> Ran:
    return run_forked("metrics", "--device", ground.tree / "none", "--output", file)


WRITERS = [_verdicts, _metrics]


@pytest.mark.root
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("way", ["link", "directory"])
def test_a_users_link_leads_no_other_file_away(
    ground: Ground, write: Callable[[Ground, Path], Ran], way: str
) -> None:
    if way == "link":
        link = file = ground.link("file", ground.secret)
    else:
        link = ground.link("file", ground.outside)
        file = link / "secret"
    ran = write(ground, file)
    assert ran.status != DONE
    assert f"{link}: this link is another user's" in ran.words
    ground.assert_untouched()
    assert [*ground.path.iterdir()] == [link]


@pytest.mark.root
@pytest.mark.parametrize("write", WRITERS)
def test_a_link_of_roots_leads_to_what_is_written(
    ground: Ground, write: Callable[[Ground, Path], Ran]
) -> None:
    link = ground.link("file", ground.outside / "new", user=0)
    assert write(ground, link).status == DONE
    assert (ground.outside / "new").stat().st_size
    assert link.is_symlink()


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_no_file_is_not_written(
    ground: Ground, write: Callable[[Ground, Path], Ran]
) -> None:
    """And nobody waits for who reads a FIFO."""
    pipe = ground.path / "pipe"
    os.mkfifo(pipe)
    ran = write(ground, pipe)
    assert (ran.status != DONE, pipe.is_fifo()) == (True, True)
    assert f"{pipe}: it is there, and no regular file" in ran.words


@pytest.mark.root
def test_what_is_somebody_elses_is_not_written(ground: Ground) -> None:
    """By a further name a user has put what is root's there."""
    theirs = ground.path / "theirs"
    theirs.write_bytes(b"theirs")
    _give_away(theirs)
    ours = ground.path / "ours"
    os.link(ground.secret, ours)
    for file in (theirs, ours):
        ran = _verdicts(ground, file)
        assert ran.status != DONE
        assert f"{file}: it is there, and another user's, or has another name" in ran.words
    assert theirs.read_bytes() == b"theirs"
    ground.assert_untouched()


def test_verdicts_are_for_their_owner(ground: Ground) -> None:
    file = ground.path / "verdicts"
    for _ in range(2):
        assert _verdicts(ground, file).status == DONE
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(file.read_bytes().splitlines()) == 1


def test_what_is_kept_is_added_to(tmp_path: Path) -> None:
    for text, keep in (("one", False), ("two", True), ("3", True), ("4", False), ("5", True)):
        with open(open_to_write(str(tmp_path / "file"), keep=keep), "w") as file:
            file.write(text)
        if text == "3":
            assert (tmp_path / "file").read_text() == "onetwo3"
    assert (tmp_path / "file").read_text() == "45"


def test_what_is_open_already_is_written(ground: Ground) -> None:
    """As bash's >(...) has it."""
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe:
        fd = open_to_write(f"/dev/fd/{writer}")
        assert fd != writer
        os.close(writer)
        os.write(fd, b"through a pipe")
        os.close(fd)
        assert pipe.read() == b"through a pipe"
    ran = _verdicts(ground, Path("/dev/stdout"))
    assert (ran.status, b'"verdict": "new"' in ran.stdout) == (DONE, True)


def _give_away(path: Path) -> None:
    os.chown(path, USER, USER)


def _ledger(file: Path) -> Ledger:
    return Ledger(str(file), "scrub", "/srv")


def test_a_ledger_is_for_its_owner(tmp_path: Path) -> None:
    with _ledger(tmp_path / "new/ledger") as ledger:
        ledger.keep("fact", "x" * 100_000)
        for file in filter(Path.exists, map(Path, ledger.files_kept)):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.root
@pytest.mark.parametrize("way", ["file", "directory"])
def test_a_users_link_leads_no_ledger_away(tmp_path: Path, way: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "link"
    link.symlink_to(outside if way == "directory" else outside / "ledger")
    os.chown(link, USER, USER, follow_symlinks=False)
    with pytest.raises(LedgerError, match=f"{link}: this link is another user's"):
        _ledger(link / "new/ledger" if way == "directory" else link)
    assert not [*outside.iterdir()]


def _everybodys(path: Path) -> None:
    path.chmod(0o777)


def _of_a_group(path: Path) -> None:
    os.chown(path, 0, USER)
    path.chmod(0o770)


def _plant_journal(ledger: Path, victim: Path) -> None:
    """Put a journal beside a ledger by which SQLite removes a file."""
    magic, size = bytes.fromhex("d9d505f920a163d7"), 4096
    pages = ledger.stat().st_size // size
    name = os.fsencode(victim)
    journal = (magic + struct.pack(">5I", 0, 0, pages, 512, size)).ljust(512, b"\0")
    journal += struct.pack(">I", (1 << 30) // size + 1) + name
    journal += struct.pack(">2I", len(name), sum(name)) + magic
    Path(f"{ledger}-journal").write_bytes(journal)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory where there is a ledger, and somebody else's journal beside it; and a victim."""
    place = tmp_path / "place"
    place.mkdir()
    with _ledger(place / "ledger") as ledger:
        ledger.keep("fact", "kept")
        ledger.commit()
    victim = tmp_path / "victim"
    victim.write_bytes(SECRET)
    _plant_journal(place / "ledger", victim)
    return place


@pytest.mark.root
@pytest.mark.parametrize("change", [_everybodys, _of_a_group, _give_away])
def test_no_ledger_is_where_others_may_exchange_it(shared: Path, change: Make) -> None:
    change(shared)
    for read_only in (False, True):
        with pytest.raises(LedgerError, match=r"others may make files in .* with --state"):
            Ledger(str(shared / "ledger"), "scrub", "/srv", read_only=read_only)
    assert (shared.parent / "victim").read_bytes() == SECRET


def test_no_journal_of_a_user_is_believed(shared: Path) -> None:
    """As in /tmp, where anybody may put one."""
    shared.chmod(0o1777)
    names = {path.name for path in shared.iterdir()}
    for read_only in (True, False):
        with Ledger(str(shared / "ledger"), "scrub", "/srv", read_only=read_only) as ledger:
            assert ledger.fact("fact") == "kept"
    with _ledger(shared / "ledger") as ledger:
        ledger.keep("fact", "later")
        ledger.commit()
        there = {str(path) for path in (shared / "ledger.private").rglob("*")}
        assert there <= {*ledger.files_kept}
        with pytest.raises(LedgerError, match="another task is using it"):
            _ledger(shared / "ledger")
        with pytest.raises(LedgerError, match="another task is using it"):
            Ledger(str(shared / "ledger"), "scrub", "/srv", read_only=True)
        ledger.keep("fact", "last")
        ledger.commit()
    assert {path.name for path in shared.iterdir()} == names
    assert (shared.parent / "victim").read_bytes() == SECRET
    (shared / "ledger-journal").unlink()
    shared.chmod(0o755)
    with _ledger(shared / "ledger") as ledger:
        assert ledger.fact("fact") == "last"


def test_what_a_crash_left_where_others_make_files(shared: Path) -> None:
    """It is taken back; and of a ledger that was removed since, or exchanged, nothing is left."""
    shared.chmod(0o1777)
    program = f"""
import os
from pyduet.maintenance import Ledger
ledger = Ledger({str(shared / "ledger")!r}, "scrub", "/srv")
ledger._data.execute("pragma cache_size = 1")
for number in range(1000):
    ledger.keep(str(number), "x" * 1000)
os._exit(0)
"""
    python = [sys.executable, "-c", program]

    def crash() -> None:
        subprocess.run(python, check=True, cwd=places.TOP)
        assert (shared / "ledger.private/ledger-journal").stat().st_size > 0

    crash()
    with _ledger(shared / "ledger") as ledger:
        assert (ledger.fact("fact"), ledger.fact("999")) == ("kept", None)
    assert not (shared / "ledger.private").exists()
    crash()
    (shared / "ledger").unlink()
    with _ledger(shared / "ledger") as ledger:
        assert (ledger.fact("fact"), ledger.fact("999")) == (None, None)
    assert not (shared / "ledger.private").exists()


@pytest.mark.root
def test_nobody_elses_ledger_is_taken_where_others_make_files(shared: Path) -> None:
    shared.chmod(0o1777)
    _give_away(shared / "ledger")
    with pytest.raises(LedgerError, match=r"another user's.*--state"):
        _ledger(shared / "ledger")
    os.chown(shared / "ledger", 0, 0)
    (shared / "ledger.private").mkdir(mode=0o700)
    _give_away(shared / "ledger.private")
    with pytest.raises(LedgerError, match=r"ledger\.private: it is in the way.*--state"):
        _ledger(shared / "ledger")


def half(path: Path) -> object:
    """Begin a file, and be broken off; returns what the ledger knows of it."""
    output = Output(str(path), pax.BEGINNING)
    output.write(pax.BEGINNING + b"the beginning that everybody knows")
    output.sync()
    written = output.written
    output.close()
    return written


def _open_to_all(path: Path) -> None:
    path.chmod(0o644)


def _have_another_name(path: Path) -> None:
    os.link(path, path.with_name("another"))


@pytest.mark.root
@pytest.mark.parametrize("change", [_give_away, _open_to_all, _have_another_name])
@pytest.mark.parametrize("whole", [False, True], ids=["half", "whole"])
def test_only_a_file_of_its_own_is_gone_on_with(ground: Ground, change: Make, whole: bool) -> None:
    """The inode and the content are those of the ledger, as a user can have them, too."""
    path = ground.path / "a.tar"
    partial = ground.path / "a.tar.partial"
    written = half(path)
    if whole:
        partial.rename(path)
    change(path if whole else partial)
    with pytest.raises(OtherOutputError, match="another file"):
        Output(str(path), pax.BEGINNING, written)


@pytest.mark.root
@pytest.mark.parametrize("change", [_give_away, _have_another_name])
def test_a_half_one_that_may_be_anothers_stays(ground: Ground, change: Make) -> None:
    partial = ground.path / "a.tar.partial"
    half(ground.path / "a.tar")
    content = partial.read_bytes()
    change(partial)
    ran = ground.run("backup", ground.path / "a.tar")
    assert (ran.status, f"{partial}: it is in the way, and another user's" in ran.words) == (
        FAILED, True,
    )  # fmt: skip
    assert partial.read_bytes() == content
    partial.unlink()
    assert ground.run("backup", ground.path / "a.tar").status == DONE
    assert {one.name for one in ground.path.iterdir()} <= {"a.tar", "another"}


@pytest.mark.root
def test_what_is_ours_where_root_is_squashed(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made belongs to another than who makes it: here to root, whom USER takes for that."""
    monkeypatch.setattr(os, "geteuid", lambda: USER)
    path, verdicts = ground.path / "a.tar", ground.path / "verdicts"
    partial = ground.path / "a.tar.partial"
    written = half(path)
    Output(str(path), pax.BEGINNING, written).close()
    Output(str(path), pax.BEGINNING).close()
    for _ in range(2):
        os.close(open_to_write(str(verdicts)))
    for file in (partial, verdicts):
        os.chown(file, USER + 1, USER + 1)
    with pytest.raises(TargetError, match="another user's"):
        Output(str(path), pax.BEGINNING)
    with pytest.raises(PermissionError, match="another user's"):
        open_to_write(str(verdicts))
    assert {one.name for one in ground.path.iterdir()} == {partial.name, verdicts.name}


def test_a_path_is_looked_up_as_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for links of others."""
    deep = tmp_path / "real/deep"
    deep.mkdir(parents=True)
    (tmp_path / "absolute").symlink_to(deep)
    (tmp_path / "relative").symlink_to("real/../real/./deep/")
    (tmp_path / "chain").symlink_to("relative")
    (tmp_path / "dangling").symlink_to("chain/new")
    (tmp_path / "above").symlink_to("chain/..")
    monkeypatch.chdir(tmp_path)
    for way in (
        "real/deep/new", "absolute/new", "relative//./new", "chain/new", "dangling",
        "above/deep/new", "chain/../deep/new", f"{tmp_path}/chain/new", "/../" * 3 + f"{deep}/new",
    ):  # fmt: skip
        with Place(way) as place:
            assert (place.path, place.name) == (os.path.realpath(way), "new")
            assert os.path.samestat(os.fstat(place.fd), deep.stat())
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    for way, wrong in (
        ("loop", OSError), ("none/new", FileNotFoundError), ("file/new", NotADirectoryError),
        ("real/", IsADirectoryError), ("real/..", IsADirectoryError), ("/", IsADirectoryError),
        ("", IsADirectoryError),
    ):  # fmt: skip
        with pytest.raises(wrong):
            Place(way)
    with pytest.raises(TargetError, match="No such file") as error:
        names_of("none/new")
    assert error.value.filename == str(tmp_path / "none")


def test_what_is_made_is_for_its_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        half(tmp_path / "a.tar")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.tar.partial").stat().st_mode) == 0o600
