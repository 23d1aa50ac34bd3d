# SPDX-License-Identifier: MIT
"""Archives that are gone on with, their chains, and what restores them on a bad day."""

import errno
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import places
import pytest
import restore
from command import Ran, run_duet, run_forked
from compare import differences, look
from exchange import exchange
from fuse import Fuse
from places import Mounted
from trees import empty_path

from pyduet.maintenance import (
    Frame,
    Inventory,
    Ledger,
    Options,
    Progress,
    Reading,
    Record,
    TargetError,
    Use,
)
from pyduet.maintenance.archive import pax
from pyduet.maintenance.archive.chain import Link, link_of
from pyduet.maintenance.tasks.backup import Backup

DONE, FAILED, NAMED = 0, 1, 12


#: What is asked for, in each state: the archive, and whether an incremental one.
ASKED = [(name, kind) for name in ("a.tar", "b.tar", "full.tar") for kind in (False, True)]
OPTIONS = Options(duet=Use.NEVER, give_way=False)


class EndedError(Exception):
    """Somebody ended the run."""


class Told(Backup):
    """Says which files it has processed, and what it has warned of."""

    def __init__(self, archive: str, *, incremental: bool) -> None:
        super().__init__(archive, incremental=incremental)
        self.done: list[str] = []

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Process a file."""
        self.done.append(reading.work.path)
        return super().process(reading, before)


class Disk:
    """Where archives of a tree go, and the ledger is."""

    def __init__(self, tree: Path, path: Path) -> None:
        self.tree = tree
        self.path = path
        self.path.mkdir()

    def backup(self, name: str, *more: str) -> Ran:
        """Run the command to its end."""
        archive = self.path / name
        return run_forked("run", "backup", self.tree, archive, "--state", self._state, *more)

    def broken_off(self, name: str, *, incremental: bool = False, after: int = 3) -> None:
        """Run the task until so many files are done."""

        def end() -> None:
            raise EndedError

        with pytest.raises(EndedError):
            self.meanwhile(name, end, incremental=incremental, after=after)
        assert (self.path / f"{name}.partial").stat().st_size > 0

    def meanwhile(
        self,
        name: str,
        happens: Callable[[], object],
        *,
        incremental: bool = False,
        after: int = 3,
        step: str = "",
    ) -> tuple[list[str], list[str]]:
        """Run the task, and have something happen once when so many files are done, or at a step.

        Returns:
            The commands that restore, and what is named.

        """
        task = Backup(str(self.path / name), incremental=incremental)
        is_over = False

        def tell(progress: Progress) -> None:
            nonlocal is_over
            is_time = progress.step == step if step else progress.files_done >= after
            if is_time and not is_over:
                is_over = True
                happens()

        with Ledger(str(self._state), task.kind, str(self.tree)) as ledger:
            progress = Frame(task, str(self.tree), ledger, OPTIONS, tell).run()
        assert is_over
        return task.commands(), [str(problem) for problem in progress.problems]

    def tell(self, name: str, *, incremental: bool, dry_run: bool) -> tuple[str, Sequence[str]]:
        """Return which files a run does, or would, and with what warnings, or why it refuses."""
        task = Told(str(self.path / name), incremental=incremental)
        with Ledger(str(self._state), task.kind, str(self.tree), read_only=dry_run) as ledger:
            frame = Frame(task, str(self.tree), ledger, OPTIONS)
            try:
                if dry_run:
                    task.done = [work.path for work, _ in frame.plan()]
                else:
                    frame.run()
            except TargetError as error:
                return str(error), frame.progress.warnings
        return f"did {sorted(task.done)}", frame.progress.warnings

    def content(self) -> dict[Path, tuple[object, ...]]:
        """Return all that is on it, as it would be if nothing was done."""
        found: dict[Path, tuple[object, ...]] = {}
        for path in [self.path, *self.path.iterdir()]:
            status = path.stat()
            data = None if path.is_dir() else path.read_bytes()
            found[path] = status.st_ino, status.st_mtime_ns, status.st_ctime_ns, data
        return found

    def assert_restores(
        self,
        *names: str,
        programs: tuple[Callable[..., Ran], ...] = (restore.gnu_tar, restore.duet),
    ) -> None:
        """Assert that the archives give back what is in the tree."""
        wanted = look(self.tree)
        for program in programs:
            target = self.tree.parent / "restored"
            target.mkdir()
            ran = program([self.path / name for name in names], target)
            lost = restore.lost_by_bsdtar if program is restore.bsdtar else restore.lost_by_gnu_tar
            found = [one for one in differences(wanted, look(target)) if not lost(one)]
            assert not found, (program.__name__, found, ran.words)
            assert ran.status == DONE, ran.words
            empty_path(target)
            target.rmdir()

    @property
    def _state(self) -> Path:
        return self.path / "state"


@pytest.fixture
def disk(tree: Path, tmp_path: Path) -> Disk:
    """A tree with some files of a day ago, and where to back it up."""
    (tree / "d").mkdir()
    for number in range(8):
        (tree / "d" / f"f{number}").write_bytes(os.urandom(50_000 + number))
    (tree / "link").symlink_to("d/f1")
    os.mkfifo(tree / "pipe")
    (tree / "hard").hardlink_to(tree / "d/f2")
    moment = 1_790_000_000_123_456_789
    for path in [*tree.rglob("*"), tree]:
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
    return Disk(tree, tmp_path / "disk")


def test_it_goes_on_with_the_archive_that_it_began(disk: Disk) -> None:
    disk.broken_off("a.tar")
    assert not (disk.path / "a.tar").exists()
    assert disk.backup("a.tar").status == DONE
    assert not (disk.path / "a.tar.partial").exists()
    assert stat.S_IMODE((disk.path / "a.tar").stat().st_mode) == 0o600
    names = [member.name for member in members(disk.path / "a.tar") if member.type == pax.FILE]
    assert len(names) == len(set(names)) == 8
    disk.assert_restores("a.tar", programs=(restore.gnu_tar, restore.bsdtar, restore.duet))


def test_another_name_is_another_archive(disk: Disk) -> None:
    """A1: it is begun anew, so that there is one each night, and nothing of two nights is mixed."""
    disk.broken_off("mon.tar")
    half = (disk.path / "mon.tar.partial").read_bytes()
    write_all(disk.tree, b"later")
    disk.broken_off("tue.tar")
    (disk.path / "wed.tar").write_bytes(b"of last week")
    ran = disk.backup("wed.tar")
    assert ran.status == DONE
    assert "going on" not in ran.words
    assert (
        f"begun anew, and not gone on with: {disk.path / 'wed.tar'}: the run that was broken off "
        f"was writing {disk.path / 'tue.tar'}; {disk.path / 'tue.tar.partial'} is left over, "
        "remove it\n"
    ) in ran.words
    assert (disk.path / "mon.tar.partial").read_bytes() == half
    disk.assert_restores("wed.tar")


def test_another_name_and_another_kind(disk: Disk) -> None:
    """A full archive was broken off; by its rule the next night's is an incremental one."""
    assert disk.backup("a.tar").status == DONE
    write_all(disk.tree, b"later")
    disk.broken_off("b.tar")
    assert disk.backup("c.tar", "--incremental").status == DONE
    disk.assert_restores("a.tar", "c.tar")


@pytest.mark.parametrize("how", ["gone", "another", "changed", "shorter"])
def test_another_file_of_the_name_is_not_gone_on_with(disk: Disk, how: str) -> None:
    disk.broken_off("a.tar")
    half = disk.path / "a.tar.partial"
    content = half.read_bytes()
    if how == "gone":
        half.rename(disk.path / "elsewhere")
    elif how == "another":
        shutil.copy(half, disk.path / "copy")
        os.replace(disk.path / "copy", half)
    elif how == "changed":
        half.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        os.truncate(half, len(content) - 1)
    write_all(disk.tree, b"later")
    ran = disk.backup("a.tar")
    assert ran.status == DONE
    assert f"begun anew, and not gone on with: {half}: what the run" in ran.words
    assert not half.exists()
    disk.assert_restores("a.tar")


def test_what_is_in_the_way_and_not_ours_stays(disk: Disk) -> None:
    half = disk.path / "a.tar.partial"
    half.write_bytes(b"somebody's")
    ran = disk.backup("a.tar")
    assert (ran.status, half.read_bytes()) == (FAILED, b"somebody's")
    assert "not of duet: move it elsewhere" in ran.words
    half.unlink()
    os.mkfifo(half)
    ran = disk.backup("a.tar")
    assert (ran.status, half.is_fifo()) == (FAILED, True)
    half.unlink()
    (disk.path / "dir.tar").mkdir()
    assert "no regular file" in disk.backup("dir.tar").words


def test_two_runs_do_not_write_one_archive(disk: Disk) -> None:
    disk.broken_off("a.tar")
    program = f"""
import sys
from pyduet.maintenance.files.output import Output
from pyduet.maintenance.archive import pax
Output({str(disk.path / "a.tar")!r}, pax.BEGINNING)
print("begun", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=places.TOP
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"begun\n"
        ran = disk.backup("a.tar", "--anew")
        assert ran.status == FAILED
        assert "another run is writing it" in ran.words
        other.communicate()


def test_full_and_incremental_never_mix(disk: Disk) -> None:
    """A2."""
    disk.broken_off("full.tar")
    ran = disk.backup("full.tar", "--incremental")
    assert (ran.status, "go on without --incremental" in ran.words) == (FAILED, True)
    assert disk.backup("full.tar").status == DONE
    write_all(disk.tree, b"later")
    disk.broken_off("inc.tar", incremental=True)
    ran = disk.backup("inc.tar")
    assert (ran.status, "go on with --incremental" in ran.words) == (FAILED, True)
    assert disk.backup("inc.tar", "--incremental").status == DONE
    disk.assert_restores("full.tar", "inc.tar")


def test_a_pass_that_was_given_up_counts_for_none(disk: Disk) -> None:
    """A2: what was in half an archive is in no archive."""
    assert disk.backup("full.tar").status == DONE
    write_all(disk.tree, b"later")
    disk.broken_off("inc1.tar", incremental=True)
    (disk.path / "inc1.tar.partial").unlink()
    assert disk.backup("inc2.tar", "--incremental").status == DONE
    disk.assert_restores("full.tar", "inc2.tar")


def test_what_is_begun_anew_counts_from_there(disk: Disk) -> None:
    """A2, by --anew."""
    assert disk.backup("full.tar").status == DONE
    write_all(disk.tree, b"later")
    disk.broken_off("inc.tar", incremental=True)
    assert disk.backup("inc.tar", "--incremental", "--anew").status == DONE
    disk.assert_restores("full.tar", "inc.tar")


@pytest.mark.parametrize("incremental", [False, True])
def test_what_is_away_for_a_moment_is_not_removed(
    disk: Disk, tmp_path: Path, *, incremental: bool
) -> None:
    """Of what is back unchanged the next archive has nothing."""

    class Away(Backup):
        def finish(self, found: Inventory) -> None:
            (disk.tree / "d").rename(disk.tree.parent / "away")
            super().finish(found)
            (disk.tree.parent / "away").rename(disk.tree / "d")

    names = ["a.tar", "b.tar", "c.tar"] if incremental else ["a.tar", "c.tar"]
    if incremental:
        assert disk.backup("a.tar").status == DONE
    task = Away(str(disk.path / names[-2]), incremental=incremental)
    with Ledger(str(disk.path / "state"), task.kind, str(disk.tree)) as ledger:
        Frame(task, str(disk.tree), ledger, Options(duet=Use.NEVER, give_way=False)).run()
    assert disk.backup("c.tar", "--incremental").status == DONE
    disk.assert_restores(*names)


@pytest.mark.parametrize("when", ["last look", "written"])
@pytest.mark.parametrize("incremental", [False, True])
def test_what_is_something_else_for_a_moment(disk: Disk, incremental: bool, when: str) -> None:
    """A directory is exchanged for a file, and back: what is in it is unchanged."""
    tree = disk.tree
    (tree / "d/e").mkdir(parents=True)
    (tree / "d/e/f").write_bytes(b"in it")
    (tree / "file").write_bytes(b"beside it")

    def exchange() -> None:
        (tree / "d").rename(tree / "else")
        (tree / "file").rename(tree / "d")
        (tree / "else").rename(tree / "file")

    class Exchanged(Backup):
        def process(self, reading: Reading, before: Record | None) -> Any:
            """When the last file has been written, have the directory be one, to the archive."""
            note = super().process(reading, before)
            if when == "written" and reading.work.path == "last":
                exchange()
                self._make_way("d")
                exchange()
            return note

        def finish(self, found: Inventory) -> None:
            if when == "last look":
                exchange()
            super().finish(found)
            if when == "last look":
                exchange()

    names = ["a.tar", "b.tar", "c.tar"] if incremental else ["a.tar", "c.tar"]
    if incremental:
        assert disk.backup("a.tar").status == DONE
        (tree / "d/e/f").write_bytes(b"in it, and later")
    task = Exchanged(str(disk.path / names[-2]), incremental=incremental)
    (tree / "last").write_bytes(bytes(100_000))
    with Ledger(str(disk.path / "state"), task.kind, str(tree)) as ledger:
        Frame(task, str(tree), ledger, Options(duet=Use.NEVER, give_way=False)).run()
    assert disk.backup("c.tar", "--incremental").status == DONE
    disk.assert_restores(*names)


def test_another_directory_is_listed(disk: Disk) -> None:
    """One that has a name for a moment: what was in that before is in the archive, or is named."""
    tree = disk.tree
    (tree / "moment").mkdir()
    (tree / "other").mkdir()
    for name in ("old", "other"):
        (tree / "moment" / name).write_bytes(name.encode())
    os.link(tree / "moment/old", tree / "to-old")
    assert disk.backup("a.tar").status == DONE
    (tree / "moment/changed").write_bytes(b"changed")

    class Away(Backup):
        def process(self, reading: Reading, before: Record | None) -> Any:
            exchange(tree / "moment", tree / "other")
            note = super().process(reading, before)
            exchange(tree / "moment", tree / "other")
            return note

    task = Away(str(disk.path / "b.tar"), incremental=True)
    with Ledger(str(disk.path / "state"), task.kind, str(tree)) as ledger:
        frame = Frame(task, str(tree), ledger, Options(duet=Use.NEVER, give_way=False))
        named = {problem.path for problem in frame.run().problems}
    assert disk.backup("c.tar", "--incremental").status == DONE
    disk.assert_restores("a.tar", "b.tar", "c.tar")
    # The other file is a further name, which each archive has of each.
    assert named == {"moment/other"}


@pytest.mark.parametrize("seen", [False, True])
def test_what_is_back_where_it_was(disk: Disk, seen: bool) -> None:
    """What was elsewhere in one archive, and could not be read there, is in the next one.

    Else it is as it was, by its times, and where it was.
    """
    tree = disk.tree
    elsewhere = (tree if seen else tree.parent) / "elsewhere"
    (tree / "d/e").mkdir(parents=True)
    (tree / "d/e/f").write_bytes(b"in it")
    assert disk.backup("a.tar").status == DONE

    def there() -> None:
        (tree / "d").rename(elsewhere)
        (tree / "d").write_bytes(b"a file")

    def back() -> None:
        (tree / "d").unlink()
        elsewhere.rename(tree / "d")

    class Refused(Backup):
        def process(self, reading: Reading, before: Record | None) -> Any:
            if reading.work.path.endswith("e/f"):
                raise OSError(errno.EIO, "it cannot be read", reading.work.path)
            return super().process(reading, before)

    class Meanwhile(Frame):
        def _vanished(self, found: Inventory) -> None:
            """Look for what was not found when it is back, for a moment."""
            back()
            super()._vanished(found)
            there()

    there()
    task = Refused(str(disk.path / "b.tar"), incremental=True)
    with Ledger(str(disk.path / "state"), task.kind, str(tree)) as ledger:
        frame = Frame if seen else Meanwhile
        frame(task, str(tree), ledger, Options(duet=Use.NEVER, give_way=False)).run()
    back()
    assert disk.backup("c.tar", "--incremental").status == DONE
    disk.assert_restores("a.tar", "b.tar", "c.tar")


def test_the_last_archive_stays_until_the_next_is_whole(disk: Disk) -> None:
    """A9."""
    assert disk.backup("a.tar").status == DONE
    first = (disk.path / "a.tar").read_bytes()
    write_all(disk.tree, b"later")
    disk.broken_off("a.tar")
    assert (disk.path / "a.tar").read_bytes() == first
    assert disk.backup("a.tar").status == DONE
    disk.assert_restores("a.tar")


def test_it_is_whole_though_the_ledger_was_not_told(disk: Disk) -> None:
    """The machine fails after the archive was put in its place."""
    disk.broken_off("a.tar")
    state = disk.path / "state"
    saved = disk.path / "saved"
    shutil.copy(state, saved)
    assert disk.backup("a.tar").status == DONE
    saved.rename(state)
    write_all(disk.tree, b"later")
    assert disk.backup("a.tar").status == DONE
    disk.assert_restores("a.tar")


def test_a_chain_has_its_own_ledger_in_each_place(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A8: an archive on another disk in between breaks nothing."""
    monkeypatch.setattr("pyduet.cli.run.state._ROOTS", str(tmp_path / "ledgers"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "ledgers"))
    for name in ("usb", "at home"):
        (tmp_path / name).mkdir()

    def backup(archive: str, *more: str) -> Ran:
        return run_forked("run", "backup", disk.tree, tmp_path / archive, *more)

    assert backup("at home/1.tar").status == DONE
    (disk.tree / "d/f2").write_bytes(b"changed")
    assert backup("usb/1.tar").status == DONE
    ran = backup("at home/2.tar", "--incremental")
    assert ran.status == DONE
    assert f"it comes after {tmp_path / 'at home/1.tar'}" in ran.words
    (tmp_path / "at home/1.tar").rename(disk.path / "1.tar")
    (tmp_path / "at home/2.tar").rename(disk.path / "2.tar")
    disk.assert_restores("1.tar", "2.tar")
    listed = run_forked("run", "backup", disk.tree, "--list", "--json")
    assert listed.status == DONE
    states = {Path(one["archive"]).relative_to(tmp_path): one for one in listed.objects}
    assert {str(path): one["state"] for path, one in states.items()} == {
        "at home/1.tar": "missing", "at home/2.tar": "missing", "usb/1.tar": "there",
    }  # fmt: skip
    assert states[Path("at home/2.tar")]["parent"] == states[Path("at home/1.tar")]["id"]
    words = run_forked("run", "backup", disk.tree, tmp_path / "usb", "--list").stdout
    assert b"no archive" not in words
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        ran = backup(f"{name}/c.tar", "--chain", "mine", *(["--incremental"] * (name == "other")))
        assert ran.status == DONE, ran.words
    assert f"it comes after {tmp_path / 'one/c.tar'}" in ran.words


def test_an_incremental_archive_needs_what_it_comes_after(disk: Disk) -> None:
    ran = disk.backup("a.tar", "--incremental")
    assert ran.status == FAILED
    assert "no full archive" in ran.words
    assert not list(disk.path.glob("a.tar*"))
    assert disk.backup("full.tar").status == DONE
    ran = disk.backup("full.tar", "--incremental")
    assert (ran.status, "name another for this one" in ran.words) == (FAILED, True)


@pytest.mark.parametrize("lost", ["full.tar", "inc1.tar", "inc2.tar"])
def test_each_archive_before_it_is_looked_for(disk: Disk, lost: str) -> None:
    """Also the full one, of which the last one says nothing; and --quiet says it as well."""
    for name in ("full.tar", "inc1.tar", "inc2.tar"):
        write_all(disk.tree, os.fsencode(name))
        assert disk.backup(name, *["--incremental"] * (name != "full.tar")).status == DONE
    away = disk.path / "elsewhere"
    (disk.path / lost).rename(away)
    for name, more in (("inc3.tar", ["--quiet"]), ("inc4.tar", ["--json"])):
        write_all(disk.tree, os.fsencode(name))
        ran = disk.backup(name, "--incremental", *more)
        assert ran.status == DONE, ran.words
        words = (
            "to restore this archive, bring back what is not there and comes before it, or make a "
            f"full one: {disk.path / lost} (No such file or directory)"
        )
        assert f"duet: {words}\n" in ran.words
        if name == "inc3.tar":
            assert ran.words == f"duet: {words}\n"
        else:
            assert ran.objects[-1]["warnings"] == [words]
    # Others have been put in its place: one of another chain, and what is no archive.
    for other in (disk.path / "inc4.tar", disk.tree / "d/f1"):
        shutil.copy(other, disk.path / lost)
        ran = disk.backup("inc5.tar", "--incremental", "--quiet")
        assert (ran.status, ran.words) == (
            FAILED,
            f"duet: {disk.path / lost}: what comes after this archive cannot be restored, since it "
            "is another one by now: make a full one, without --incremental\n",
        )
        assert not list(disk.path.glob("inc5.tar*"))
    away.rename(disk.path / lost)
    ran = disk.backup("inc5.tar", "--incremental", "--quiet")
    assert (ran.status, ran.words) == (DONE, "")
    disk.assert_restores("full.tar", *(f"inc{number}.tar" for number in range(1, 6)))


def test_each_archive_before_it_is_looked_for_when_it_goes_on(disk: Disk) -> None:
    assert disk.backup("full.tar").status == DONE
    write_all(disk.tree, b"later")
    disk.broken_off("inc.tar", incremental=True)
    content = (disk.path / "full.tar").read_bytes()
    (disk.path / "full.tar").write_bytes(b"another")
    ran = disk.backup("inc.tar", "--incremental")
    assert (ran.status, "make a full one" in ran.words) == (FAILED, True)
    (disk.path / "full.tar").write_bytes(content)
    assert disk.backup("inc.tar", "--incremental", "--quiet") == (DONE, b"", b"")
    disk.assert_restores("full.tar", "inc.tar")


def test_quiet_says_what_is_left_over(disk: Disk) -> None:
    disk.broken_off("mon.tar")
    ran = disk.backup("tue.tar", "--quiet")
    assert (ran.status, ran.words) == (
        DONE,
        f"duet: begun anew, and not gone on with: {disk.path / 'tue.tar'}: the run that was broken "
        f"off was writing {disk.path / 'mon.tar'}; {disk.path / 'mon.tar.partial'} is left over, "
        "remove it\n",
    )


def test_a_path_is_the_same_in_each_locale(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """cron's locale is often another than that of whoever looks."""
    tree = disk.tree.rename(disk.tree.with_name("tü😀"))
    disk = Disk(tree, disk.path / "dö")
    utf8 = {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONCOERCECLOCALE": "1"}
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def backup(locale: dict[str, str], *more: str | Path) -> Ran:
        for name, value in locale.items():
            monkeypatch.setenv(name, value)
        return run_duet("run", "backup", tree, "--state", disk.path / "state", *more)

    for here, there in ((utf8, ascii_only), (ascii_only, utf8)):
        full, incremental = disk.path / "full ö.tar", disk.path / "inc ö.tar"
        assert backup(here, full).status == DONE
        whole = full.read_bytes()
        ran = backup(there, full, "--incremental")
        assert (ran.status, "name another for this one" in ran.words) == (FAILED, True), ran.words
        assert full.read_bytes() == whole
        (tree / "d/f3").write_bytes(b"changed")
        ran = backup(there, incremental, "--incremental")
        assert (ran.status, "is not there" in ran.words) == (DONE, False), ran.words
        disk.assert_restores(full.name, incremental.name)
        listed = backup(here, "--list", "--json")
        assert {one["state"] for one in listed.objects[-2:]} == {"there"}
        assert listed.objects[-1]["before"] == os.fspath(full)
    disk.broken_off("full ö.tar")
    ran = backup(ascii_only, disk.path / "full ö.tar")
    assert (ran.status, "going on" in ran.words, "anew" in ran.words) == (DONE, True, False)
    disk.assert_restores("full ö.tar")


def test_what_no_archive_of_the_chain_has_is_in_the_next(disk: Disk) -> None:
    """Also what has not changed: the last full archive has it, and this one could not."""
    (disk.tree / "secret").write_bytes(b"x")
    assert disk.backup("old.tar").status == DONE
    assert disk.backup("full.tar").status == DONE
    with Ledger(str(disk.path / "state"), "backup", str(disk.tree)) as ledger:
        passes = {record.passed for record in ledger.files()}
        assert passes == {2}
    # As if one could not be read while the second was written.
    path = disk.tree / "secret"
    if os.geteuid():
        path.chmod(0)
        assert disk.backup("full.tar").status == NAMED
        path.chmod(0o644)
        assert disk.backup("inc.tar", "--incremental").status == DONE
        disk.assert_restores("full.tar", "inc.tar")


def test_what_has_become_something_else_when_it_goes_on(disk: Disk) -> None:
    """F5: by every program, and as the commands say that are printed."""
    tree = disk.tree
    (tree / "e").mkdir()
    (tree / "e/g").write_bytes(b"in a directory")
    disk.broken_off("a.tar", after=9)
    in_it = {member.name for member in members(disk.path / "a.tar.partial", half=True)}
    assert {"./e", "./e/g"} <= in_it
    shutil.rmtree(tree / "e")
    (tree / "e").write_bytes(b"a file")
    (tree / "d/f1").unlink()
    (tree / "d/f1").mkdir()
    (tree / "d/f1/inner").write_bytes(b"inner")
    (tree / "link").unlink()
    (tree / "link").symlink_to("elsewhere")
    (tree / "pipe").unlink()
    (tree / "pipe").write_bytes(b"was a pipe")
    os.mkfifo(tree / "new pipe")
    ran = disk.backup("a.tar")
    assert ran.status == DONE
    assert "begun anew" in ran.words
    disk.assert_restores("a.tar", programs=(restore.gnu_tar, restore.bsdtar, restore.duet))


def test_what_was_removed_or_renamed_when_it_goes_on(disk: Disk) -> None:
    tree = disk.tree
    disk.broken_off("a.tar", after=8)
    (tree / "d/f3").unlink()
    (tree / "d/f2").unlink()
    (tree / "d").rename(tree / "renamed")
    (tree / "renamed/f4").rename(tree / "f4")
    (tree / "renamed/f5").unlink()
    (tree / "renamed/f5").symlink_to("f6")
    ran = disk.backup("a.tar")
    assert ran.status == DONE
    disk.assert_restores("a.tar")
    assert_commands_restore(disk, ran)


def test_what_was_renamed_between_archives(disk: Disk) -> None:
    """Whose times are what they were, and whose data are in an archive by another name."""
    tree = disk.tree
    assert disk.backup("full.tar").status == DONE
    (tree / "d").rename(tree / "moved")
    (tree / "moved/f1").unlink()
    (tree / "d").write_bytes(b"now a file")
    (tree / "further").hardlink_to(tree / "moved/f6")
    ran = disk.backup("inc.tar", "--incremental")
    assert ran.status == DONE
    disk.assert_restores("full.tar", "inc.tar")
    assert_commands_restore(disk, ran)
    (tree / "moved").rename(tree / "away")
    (tree / "d").unlink()
    (tree / "d").symlink_to("away")
    assert disk.backup("inc2.tar", "--incremental").status == DONE
    disk.assert_restores("full.tar", "inc.tar", "inc2.tar")


def test_what_has_become_a_socket_is_no_more(disk: Disk) -> None:
    assert disk.backup("full.tar").status == DONE
    (disk.tree / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(disk.tree / "pipe"))
        assert disk.backup("inc.tar", "--incremental").status == DONE
        archives = [disk.path / "full.tar", disk.path / "inc.tar"]
        for program in (restore.gnu_tar, restore.duet):
            target = disk.path / program.__name__
            target.mkdir()
            assert program(archives, target).status == DONE
            assert not os.path.lexists(target / "pipe")
        # In place somebody listens.
        ran = run_forked("run", "restore", disk.path / "full.tar", disk.tree, "--over")
        assert ran.status == DONE
        assert (disk.tree / "pipe").is_fifo()
        (disk.tree / "pipe").unlink()
        listener.close()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(disk.tree / "other"))
        (disk.tree / "new").mkdir()
        ran = run_forked("run", "restore", *archives, disk.tree, "--over")
        assert ran.status == DONE
        assert (disk.tree / "other").is_socket()
        assert not (disk.tree / "new").exists()


def test_an_incremental_archive_has_what_changed(disk: Disk) -> None:
    assert disk.backup("full.tar").status == DONE
    (disk.tree / "d/f3").write_bytes(b"changed")
    assert disk.backup("inc.tar", "--incremental").status == DONE
    files = {one.name for one in members(disk.path / "inc.tar") if one.type == pax.FILE}
    assert files == {"./d/f3"}


def test_the_archive_is_not_in_itself(disk: Disk, tmp_path: Path) -> None:
    """F10: by whatever name; and a restore in place leaves it there, though a later one has it."""
    (tmp_path / "way").symlink_to(disk.tree)
    way = tmp_path / "way"

    def backup(name: str, *more: str) -> Ran:
        return run_forked(
            "run", "backup", way, way / "d" / name, "--state", way / "d/ledger", *more
        )

    assert backup("a.tar").status == DONE
    assert backup("b.tar", "--incremental").status == DONE
    for name in ("a.tar", "b.tar"):
        inside = {one.name for one in members(disk.tree / "d" / name)}
        assert not inside & {f"./d/{name}", f"./d/{name}.partial", "./d/ledger"}
    ran = run_forked(
        "run", "restore", disk.tree / "d/a.tar", disk.tree / "d/b.tar", disk.tree, "--over"
    )
    assert ran.status == DONE, ran.words
    assert (disk.tree / "d/ledger").exists()
    assert (disk.tree / "d/b.tar").exists()


def test_the_archives_that_are_restored_from_are_kept(disk: Disk) -> None:
    """In the target, where no archive has them; each is named once, by all names that it has."""
    assert disk.backup("a.tar").status == DONE
    (disk.tree / "d/f1").unlink()
    assert disk.backup("b.tar", "--incremental").status == DONE
    assert disk.backup("c.tar", "--incremental").status == DONE
    (disk.tree / "kept").mkdir()
    archives = [disk.tree / "a.tar", disk.tree / "kept/b.tar", disk.tree / "d/c.tar"]
    for archive in archives:
        shutil.copy(disk.path / archive.name, archive)
    (disk.tree / "d/again").hardlink_to(disk.tree / "a.tar")
    (disk.tree / "kept/stray").write_bytes(b"stray")
    content = [archive.read_bytes() for archive in archives]
    ran = run_forked("run", "restore", *archives, disk.tree, "--over", "--json")
    assert ran.status == NAMED, ran.words
    assert content == [archive.read_bytes() for archive in archives]
    assert not (disk.tree / "kept/stray").exists()
    problems = ran.objects[-1]["problems"]
    words = {one["path"]: one["words"] for one in problems}
    assert len(problems) == len(words) == ran.objects[-1]["named"]
    assert words.keys() == {"a.tar", "kept", "kept/b.tar", "d/c.tar", "d/again"}
    assert all("restored from" in said for path, said in words.items() if path != "kept")


@pytest.mark.root
def test_what_is_mounted_is_there_and_never_removed(disk: Disk, mounted: Mounted) -> None:
    """B6, F4: in the archive, in its lists of names, and when it is restored in place."""
    (disk.tree / "d/m").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", disk.tree / "d/m"], check=True)
    try:
        (disk.tree / "d/m/kept").write_bytes(b"kept")
        if mounted.kind == "btrfs":
            subprocess.run(["btrfs", "-q", "subvolume", "create", disk.tree / "d/sub"], check=True)
            (disk.tree / "d/sub/kept").write_bytes(b"kept")
        ran = disk.backup("full.tar")
        assert ran.status == DONE
        assert "mount-point" in ran.words
        (disk.tree / "d/f1").unlink()
        assert disk.backup("inc.tar", "--incremental").status == DONE
        for name in ("full.tar", "inc.tar"):
            assert "./d/m" in {one.name for one in members(disk.path / name)}
        archives = [disk.path / "full.tar", disk.path / "inc.tar"]
        for program in (restore.gnu_tar, restore.duet):
            (disk.tree / "d/stray").write_bytes(b"stray")
            if program is restore.duet:
                ran = run_forked("run", "restore", *archives, disk.tree, "--over")
            else:
                ran = program(archives, disk.tree)
            assert ran.status == DONE, ran.words
            assert not (disk.tree / "d/stray").exists()
            assert (disk.tree / "d/m/kept").read_bytes() == b"kept"
            if mounted.kind == "btrfs":
                assert (disk.tree / "d/sub/kept").read_bytes() == b"kept"
    finally:
        subprocess.run(["umount", disk.tree / "d/m"], check=True)


@pytest.mark.root
def test_what_is_mounted_where_something_else_is_to_be(disk: Disk) -> None:
    assert disk.backup("full.tar").status == DONE
    target = disk.tree.parent / "target"
    for name in ("d/f1", "gone"):
        (target / name).mkdir(parents=True)
    (disk.tree / "gone").touch()
    (disk.tree / "gone").unlink()
    assert disk.backup("inc.tar", "--incremental").status == DONE
    for name in ("d/f1", "gone"):
        subprocess.run(["mount", "-t", "tmpfs", "none", target / name], check=True)
        (target / name / "kept").write_bytes(b"kept")
    try:
        archives = [disk.path / "full.tar", disk.path / "inc.tar"]
        ran = run_forked("run", "restore", *archives, target, "--over", "--json")
        assert ran.status == NAMED
        assert sorted(one["path"] for one in ran.objects[-1]["problems"]) == ["d/f1", "gone"]
        for name in ("d/f1", "gone"):
            assert (target / name / "kept").read_bytes() == b"kept"
        assert (target / "d/f2").read_bytes() == (disk.tree / "d/f2").read_bytes()
    finally:
        for name in ("d/f1", "gone"):
            subprocess.run(["umount", target / name], check=True)


def test_archives_that_are_no_chain_change_nothing(disk: Disk, tmp_path: Path) -> None:
    assert disk.backup("full.tar").status == DONE
    for name in ("inc1.tar", "inc2.tar"):
        (disk.tree / name).touch()
        assert disk.backup(name, "--incremental").status == DONE
    target = tmp_path / "target"

    def refused(*names: str) -> str:
        ran = run_forked("run", "restore", *(disk.path / name for name in names), target)
        assert ran.status == FAILED
        assert not target.exists()
        return ran.words

    assert f"comes after {disk.path / 'full.tar'}" in refused("inc1.tar")
    assert f"comes after {disk.path / 'inc1.tar'}" in refused("full.tar", "inc2.tar")
    assert f"comes after {disk.path / 'inc1.tar'}" in refused("full.tar", "inc2.tar", "inc1.tar")
    assert "has to be the first" in refused("full.tar", "full.tar")
    subprocess.run(["tar", "-cf", disk.path / "tars.tar", "-C", disk.tree, "."], check=True)
    assert "no archive of duet" in refused("tars.tar")
    subprocess.run(["gzip", "--keep", disk.path / "full.tar"], check=True)
    assert "expanded first" in refused("full.tar.gz")
    (disk.path / "empty.tar").touch()
    assert "no archive of duet" in refused("empty.tar")


def test_a_damaged_archive_changes_nothing(disk: Disk, tmp_path: Path) -> None:
    assert disk.backup("full.tar").status == DONE
    content = (disk.path / "full.tar").read_bytes()
    starts = [member.begin for member in members(disk.path / "full.tar")]
    target = tmp_path / "target"
    damaged = disk.path / "damaged.tar"
    for cut in (len(content) // 2, len(content) - 10240, starts[-1], starts[-1] + 512):
        damaged.write_bytes(content[:cut])
        ran = run_forked("run", "restore", damaged, target)
        assert (ran.status, target.exists()) == (FAILED, False), cut
        assert "too early" in ran.words, cut
    for start in starts[1:]:
        damaged.write_bytes(content[: start + 10] + b"\x7f" + content[start + 11 :])
        ran = run_forked("run", "restore", damaged, target)
        assert (ran.status, target.exists()) == (FAILED, False), start
        assert f"damaged at byte {start}" in ran.words


def test_a_target_that_is_not_empty_is_left(disk: Disk, tmp_path: Path) -> None:
    assert disk.backup("full.tar").status == DONE
    target = tmp_path / "target"
    target.mkdir()
    (target / "d").write_bytes(b"in the way")
    ran = run_forked("run", "restore", disk.path / "full.tar", target)
    assert (ran.status, "not empty" in ran.words) == (FAILED, True)
    assert (target / "d").read_bytes() == b"in the way"
    assert run_forked("run", "restore", disk.path / "full.tar", target, "--over").status == DONE
    assert (target / "d").is_dir()


@pytest.mark.root
@pytest.mark.fs("ext4")
def test_what_lacks_its_attributes_is_named_and_in_the_archive(
    disk: Disk, mounted: Mounted
) -> None:
    """B7: the block that they are in is damaged below the file system."""
    path = disk.tree / "d/f1"
    os.setxattr(path, "user.large", b"x" * 3000)
    content = path.read_bytes()
    assert mounted.image
    mounted.unmount()
    debugfs = ["debugfs", "-R", f"stat /{path.relative_to(mounted.path)}", mounted.image]
    said = subprocess.run(debugfs, check=True, capture_output=True, text=True).stdout
    block = int(said.split("File ACL: ")[1].split()[0])
    with open(mounted.image, "r+b") as image:
        image.seek(block * 4096)
        image.write(bytes(32))
    mounted.mount()
    with pytest.raises(OSError, match="Structure needs cleaning"):
        os.listxattr(path)
    for archive, more in (("full.tar", []), ("inc.tar", ["--incremental"])):
        ran = disk.backup(archive, "--json", *more)
        assert ran.status == NAMED, ran.words
        [problem] = ran.objects[-1]["problems"]
        assert problem["path"] == "d/f1"
        assert "without its extended attributes: Structure needs cleaning" in problem["words"]
        # The next one has it, in case that it is mended.
        [found] = [one for one in members(disk.path / archive) if one.name == "./d/f1"]
        with open(disk.path / archive, "rb") as file:
            assert os.pread(file.fileno(), found.size, found.data) == content


@pytest.mark.root
@pytest.mark.parametrize("error", [errno.EIO, errno.E2BIG, errno.ENODATA])
@pytest.mark.parametrize("what", ["attribute", "flags"])
def test_one_attribute_that_cannot_be_read_is_named(tmp_path: Path, error: int, what: str) -> None:
    """And the others are in the archive, as is the content."""
    place = tmp_path / "tree"
    place.mkdir()
    attributes = {"user.a": b"first", "user.b": b"second", "user.c": b"third"}
    kept: dict[str, bytes | int] = dict(attributes)
    flags = errno.ENOSYS
    if what == "attribute":
        kept["user.b"] = error
        del attributes["user.b"]
        words = "its extended attribute user.b"
    else:
        flags = error
        words = "its file flags"
    archive = tmp_path / "a.tar"
    with Fuse(place, {"file": b"content"}, attributes=kept, flags=flags):
        try:
            ran = run_forked(
                "run", "backup", place, archive, "--state", tmp_path / "state", "--json"
            )
        finally:
            subprocess.run(["umount", place], check=True)
    assert ran.status == NAMED, ran.words
    problems = {one["path"]: one["words"] for one in ran.objects[-1]["problems"]}
    assert problems.keys() <= {"file", ""}
    assert problems["file"] == f"it is in the archive without {words}: {os.strerror(error)}"
    [found] = [one for one in members(archive) if one.name == "./file"]
    assert archive.read_bytes()[found.data :].startswith(b"content")
    for name, value in attributes.items():
        assert found.known[pax.attribute(os.fsencode(name))] == value
    assert pax.attribute(b"user.b") not in found.known or what == "flags"


@pytest.mark.user
def test_a_user_gets_what_a_user_can_have(tmp_path: Path) -> None:
    me, group = os.geteuid(), os.getegid()

    def member(name: str, kind: bytes, mode: int, owner: int = me, **more: Any) -> bytes:
        return pax.header(pax.Member(name, kind, mode, owner, group, 10**18, **more))

    link = Link.new("full.tar", "/", None)
    archive = b"".join([
        member(".", pax.DIRECTORY, 0o755, records=[link.record]),
        member("./d", pax.DIRECTORY, 0o755),
        member("./d/mine", pax.FILE, 0o444, size=1), pax.padded(b"x"),
        member("./d/of root", pax.FILE, 0o4755, 0, size=1), pax.padded(b"y"),
        member("./d/trusted", pax.FILE, 0o644, records=[(pax.attribute(b"trusted.x"), b"1")]),
        member("./null", pax.CHARACTER, 0o666, device=os.makedev(1, 3)),
        member("./d", pax.DIRECTORY, 0o555),
        member(".", pax.DIRECTORY, 0o755),
    ])  # fmt: skip
    (tmp_path / "full.tar").write_bytes(archive + pax.ending(len(archive)))
    target = tmp_path / "target"
    ran = run_forked("run", "restore", tmp_path / "full.tar", target, "--json")
    assert ran.status == NAMED, ran.words
    problems = {one["path"]: one["words"] for one in ran.objects[-1]["problems"]}
    assert problems.keys() == {"d/of root", "d/trusted", "null"}
    assert "its owner 0:" in problems["d/of root"]
    assert "trusted.x" in problems["d/trusted"]
    assert (target / "d/mine").read_bytes() == b"x"
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o555
    assert stat.S_IMODE((target / "d/of root").stat().st_mode) == 0o755
    (target / "d").chmod(0o755)


def test_the_list_of_nothing(disk: Disk) -> None:
    ran = run_forked("run", "backup", disk.tree, "--list", "--state", disk.path / "none")
    assert (ran.status, ran.stdout) == (DONE, b"")
    assert "no archive" in ran.words
    assert not (disk.path / "none").exists()
    ran = run_forked("run", "backup", disk.tree)
    assert "ARCHIVE" in ran.words
    assert ran.status != DONE


def test_the_list_of_a_long_directory(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pyduet.cli.run.state._ROOTS", str(tmp_path / "ledgers"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "ledgers"))
    tree = disk.tree / "/".join(["-" * 60] * 3)
    tree.mkdir(parents=True)
    (tree / "file").write_bytes(b"1")
    assert run_forked("run", "backup", tree, tmp_path / "1.tar").status == DONE
    assert run_forked("run", "backup", tree, tmp_path / "2.tar", "--incremental").status == DONE
    listed = run_forked("run", "backup", tree, "--list", "--json")
    assert [one["state"] for one in listed.objects] == ["there", "there"], listed.words


def test_quiet_says_nothing(disk: Disk) -> None:
    ran = disk.backup("a.tar", "--quiet")
    assert (ran.status, ran.words, ran.stdout) == (DONE, "", b"")
    assert link_of(str(disk.path / "a.tar")).tree == str(disk.tree)


def _nothing(disk: Disk) -> None:
    """No run has been before."""
    del disk


def _full(disk: Disk) -> None:
    assert disk.backup("full.tar").status == DONE
    (disk.tree / "d/f3").write_bytes(os.urandom(10))


def _broken_off(disk: Disk) -> None:
    disk.broken_off("a.tar")


def _partial_gone(disk: Disk) -> None:
    disk.broken_off("a.tar")
    (disk.path / "a.tar.partial").unlink()


def _partial_changed(disk: Disk) -> None:
    disk.broken_off("a.tar")
    with (disk.path / "a.tar.partial").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")


def _in_the_way(disk: Disk) -> None:
    (disk.path / "a.tar.partial").write_bytes(b"somebody's")
    (disk.path / "b.tar").mkdir()


def _directory_replaced(disk: Disk) -> None:
    (disk.tree / "e").mkdir()
    (disk.tree / "e/g").write_bytes(b"in a directory")
    disk.broken_off("a.tar", after=9)
    shutil.rmtree(disk.tree / "e")
    (disk.tree / "e").write_bytes(b"a file")


def _incremental_broken_off(disk: Disk) -> None:
    _full(disk)
    write_all(disk.tree, os.urandom(10))
    disk.broken_off("a.tar", incremental=True)


def _chain_missing(disk: Disk) -> None:
    _incremental_broken_off(disk)
    (disk.path / "full.tar").unlink()


def _chain_replaced(disk: Disk) -> None:
    _incremental_broken_off(disk)
    (disk.path / "full.tar").write_bytes(b"another")


@pytest.mark.parametrize(
    "state",
    [
        _nothing, _full, _broken_off, _partial_gone, _partial_changed, _in_the_way,
        _directory_replaced, _incremental_broken_off, _chain_missing, _chain_replaced,
    ],
)  # fmt: skip
def test_a_dry_run_tells_what_a_run_does(
    disk: Disk, tmp_path: Path, state: Callable[[Disk], None]
) -> None:
    """Which files, or why it refuses; and it changes nothing."""
    for number, (name, incremental) in enumerate(ASKED):
        here = Disk(disk.tree, tmp_path / f"disk{number}")
        state(here)
        before = here.content()
        planned = here.tell(name, incremental=incremental, dry_run=True)
        assert here.content() == before, (name, incremental)
        done = here.tell(name, incremental=incremental, dry_run=False)
        assert planned == done, (name, incremental)
        if (disk.tree / "e").is_file():
            (disk.tree / "e").unlink()


def test_a_dry_run_refuses_as_a_run_does(disk: Disk) -> None:
    disk.broken_off("a.tar")
    for name, words in (("a.tar", "go on without"), ("b.tar", "no full archive")):
        dry = disk.backup(name, "--incremental", "--dry-run", "-q")
        assert (dry.status, dry.stdout, words in dry.words) == (FAILED, b"", True)
        assert disk.backup(name, "--incremental", "-q") == dry
    dry = disk.backup("b.tar", "--dry-run", "--json", "-q")
    assert (dry.status, len(dry.objects)) == (DONE, 8)
    assert "a.tar.partial is left over" in dry.words


def members(archive: Path, *, half: bool = False) -> list[pax.Stored]:
    """Return what is in an archive."""
    with open(archive, "rb") as file:
        end = archive.stat().st_size if half else None
        return list(pax.members(file.fileno(), str(archive), end))


def write_all(tree: Path, content: bytes) -> None:
    """Give all files of the directory other content."""
    for path in (tree / "d").iterdir():
        path.write_bytes(content + os.fsencode(path.name))


def assert_commands_restore(disk: Disk, ran: Ran) -> None:
    """Assert that the commands which a run prints do what it says of them."""
    assert_restored_by(
        disk, [line.strip() for line in ran.words.splitlines() if line.startswith("  ")]
    )


def assert_restored_by(disk: Disk, commands: Sequence[str]) -> None:
    """Assert that commands give back what is in the tree: those of tar, and that of duet."""
    tar = [command for command in commands if command.startswith("tar ")]
    ours = [command for command in commands if command.startswith("duet ")]
    assert len(tar) + len(ours) == len(commands)
    wanted = look(disk.tree)
    for some in (tar, ours):
        target = disk.tree.parent / "by command"
        target.mkdir()
        for command in some:
            words = [str(target) if word == "TARGET" else word for word in shlex.split(command)]
            if words[0] == "duet":
                words = [sys.executable, "-m", "pyduet", *words[1:]]
            done = subprocess.run(words, cwd=places.TOP, capture_output=True, check=False)
            assert (done.returncode, b"unknown" in done.stderr) == (0, False), done.stderr
        found = differences(wanted, look(target))
        assert not [one for one in found if not restore.lost_by_gnu_tar(one)]
        empty_path(target)
        target.rmdir()


#: What something can be, and become.
KINDS: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_bytes(b"of the file"),
    "directory": lambda path: make_directory(path),
    "link": lambda path: path.symlink_to("nowhere"),
    "fifo": os.mkfifo,
}


def make_directory(path: Path) -> None:
    """Make a directory with something of each kind in it."""
    (path / "inner").mkdir(parents=True)
    (path / "g").write_bytes(b"in the directory")
    (path / "inner/g").write_bytes(b"further in")
    (path / "l").symlink_to("nowhere")


def pairs(tree: Path) -> list[tuple[Path, str]]:
    """Return where something is of one kind that becomes another, and which."""
    return [(tree / f"{old} {new}", new) for old in KINDS for new in KINDS if old != new]


def become(tree: Path) -> None:
    """Have each become what it becomes."""
    for path, new in pairs(tree):
        empty_path(path) if path.is_dir() and not path.is_symlink() else None
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        KINDS[new](path)


@pytest.mark.parametrize("chain", ["full", "new", "old"])
def test_what_becomes_something_else_meanwhile(disk: Disk, chain: str) -> None:
    """As the commands say that are printed: what was in this archive before, or in the last."""
    tree = disk.tree / "changes"
    if chain == "new":
        assert disk.backup("full.tar").status == DONE
    tree.mkdir()
    for path, _ in pairs(tree):
        KINDS[path.name.split()[0]](path)
    files = sum(1 for path in disk.tree.rglob("*") if path.is_file() and not path.is_symlink())
    after = files - 1  # one has a further name
    if chain == "new":
        after -= 8
    elif chain == "old":
        assert disk.backup("full.tar").status == DONE
        (tree / "another").write_bytes(b"changed")
        after = 1
    incremental = chain != "full"
    commands, named = disk.meanwhile(
        "last.tar", lambda: become(tree), incremental=incremental, after=after
    )
    assert not named
    assert_restored_by(disk, commands)


@pytest.mark.parametrize("kind", ["link", "fifo", "file"])
def test_what_becomes_something_else_when_it_was_gone_on_with(disk: Disk, kind: str) -> None:
    """Of a full archive: a file comes too early for tar, which is said."""
    directory = disk.tree / "e"
    make_directory(directory)
    disk.broken_off("a.tar", after=10)
    (disk.tree / "late").write_bytes(b"late")

    def happens() -> None:
        shutil.rmtree(directory)
        KINDS[kind](directory)

    commands, named = disk.meanwhile("a.tar", happens, after=1)
    if kind != "file":
        assert not named
        assert_restored_by(disk, commands)
        return
    assert len(named) == 1
    assert "tar cannot restore it, duet run restore does" in named[0]
    disk.assert_restores("a.tar", programs=(restore.duet,))


def test_what_a_further_name_is_of_goes_at_the_end(disk: Disk) -> None:
    """The further name is named; what was in an archive before is restored as it was found."""
    names = {"a/f", "b/f"}
    for name in names:
        (disk.tree / name).parent.mkdir()
        (disk.tree / name).with_name("l").symlink_to("f")
    (disk.tree / "a/f").write_bytes(b"content")
    (disk.tree / "b/f").hardlink_to(disk.tree / "a/f")
    assert disk.backup("full.tar").status == DONE
    with Ledger(str(disk.path / "state"), "backup", str(disk.tree)) as ledger:
        [first] = {record.path for record in ledger.files()} & names
    commands, named = disk.meanwhile(
        "inc.tar", (disk.tree / first).unlink, incremental=True, step="finishing"
    )
    assert len(named) == 1
    assert f"{first}, of which it is another name, is gone" in named[0]
    directory = (disk.tree / first).parent
    then = directory.stat().st_mtime_ns
    [other] = names - {first}
    (disk.tree / first).hardlink_to(disk.tree / other)
    os.utime(directory, ns=(then, then))
    assert_restored_by(disk, commands)


@pytest.mark.parametrize("more", [[], ["--incremental"]])
def test_directories_with_links_that_lead_out_have_their_times(disk: Disk, more: list[str]) -> None:
    """tar makes such links when all else is extracted, also of directories in one another."""
    if more:
        assert disk.backup("full.tar").status == DONE
    for name in ("a", "a/b", "a/b/c", "z"):
        path = disk.tree / name
        path.mkdir()
        (path / "f").write_bytes(b"content")
        (path / "l").symlink_to("/nowhere")
        (path / "m").symlink_to("../f")
        os.mkfifo(path / "p")
    for name in ("a/b/c", "a/b", "a", "z"):
        os.utime(disk.tree / name, (1_600_000_000, 1_600_000_000))
    ran = disk.backup("last.tar", *more)
    assert ran.status == DONE
    assert_commands_restore(disk, ran)
