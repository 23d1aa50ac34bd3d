# SPDX-License-Identifier: MIT
"""Maintenance tasks without Duet, on real files: what they do, and what they do not lose."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import schema

from pyduet.maintenance import (
    Frame,
    Ledger,
    LedgerError,
    Maintenance,
    Options,
    Problem,
    Progress,
    Reading,
    Record,
    TargetError,
    Tree,
    Trouble,
    Use,
    Work,
)
from pyduet.maintenance.frame import ledger
from pyduet.maintenance.frame.pace import Throttle
from pyduet.maintenance.tasks.backup import Backup
from pyduet.maintenance.tasks.rsync import Rsync
from pyduet.maintenance.tasks.scrub import Scrub
from pyduet.maintenance.work import problem_of

BLIND = Options(duet=Use.NEVER, give_way=False)
TOP = Path(__file__).parents[2]


def run(task: Maintenance, root: Path, state: Path, options: Options = BLIND) -> Progress:
    """Run a task once."""
    with Ledger(str(state), task.kind, str(root)) as ledger:
        return Frame(task, str(root), ledger, options).run()


def troubles(progress: Progress) -> dict[str, Trouble]:
    return {problem.path: problem.trouble for problem in progress.problems}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with all that a backup has to keep."""
    tree = tmp_path / "tree"
    (tree / "deep/er").mkdir(parents=True)
    (tree / "empty").mkdir(mode=0o700)
    for number in range(20):
        (tree / f"deep/file{number}").write_bytes(os.urandom(5000 * number))
    (tree / "deep/er/large").write_bytes(os.urandom(3 << 20))
    (tree / "hard").hardlink_to(tree / "deep/file7")
    (tree / "soft").symlink_to("deep/file8")
    os.mkfifo(tree / "pipe")
    (tree / "deep/file10").chmod(0o4751)
    (tree / "deep" / os.fsdecode(b"no\xffutf8")).write_text("x")
    (tree / ("long" * 40)).write_text("y")
    os.setxattr(tree / "deep/file11", "user.note", b"kept\0\xff")
    age(tree)
    return tree


def age(tree: Path, days: int = 1) -> None:
    """Make all of it of other days: rsync takes times of the same second for the same."""
    for number, path in enumerate([*sorted(tree.rglob("*"), reverse=True), tree]):
        moment = time.time_ns() - days * 86400 * 10**9 - number * 1_234_567_891
        os.utime(path, ns=(moment, moment), follow_symlinks=False)


def listing(tree: Path) -> dict[str, tuple[Any, ...]]:
    """What is to be the same after a restore."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in [tree, *tree.rglob("*")]:
        status = path.lstat()
        plain = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(tree))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_nlink,
            status.st_mtime_ns,
            path.read_bytes() if plain else None,
            os.readlink(path) if path.is_symlink() else None,
            {name: os.getxattr(path, name) for name in os.listxattr(path)} if plain else None,
        )  # fmt: skip
    return found


def restore(target: Path, *archives: Path) -> Path:
    """Extract archives, the later ones as incremental."""
    target.mkdir()
    for number, archive in enumerate(archives):
        incremental = ["--incremental"] if number else []
        subprocess.run(["tar", "-C", target, "--xattrs", *incremental, "-xpf", archive], check=True)
    return target


def test_an_archive_restores(tree: Path, tmp_path: Path) -> None:
    archive = tmp_path / "full.tar"
    progress = run(Backup(str(archive)), tree, tmp_path / "state")
    assert progress.problems == []
    assert listing(restore(tmp_path / "restored", archive)) == listing(tree)


def test_an_incremental_archive_has_what_changed(tree: Path, tmp_path: Path) -> None:
    full, later = tmp_path / "full.tar", tmp_path / "later.tar"
    run(Backup(str(full)), tree, tmp_path / "state")
    (tree / "deep/file3").unlink()
    (tree / "deep/file4").write_text("changed")
    (tree / "empty").rename(tree / "renamed")
    (tree / "deep/er").rename(tree / "er")
    (tree / "new").write_text("new")
    progress = run(Backup(str(later), incremental=True), tree, tmp_path / "state")
    assert progress.problems == []
    assert later.stat().st_size < full.stat().st_size
    assert listing(restore(tmp_path / "restored", full, later)) == listing(tree)


def test_the_archive_is_not_in_itself(tree: Path, tmp_path: Path) -> None:
    archive = tree / "own.tar"
    progress = run(Backup(str(archive)), tree, tree / "own.ledger")
    names = subprocess.run(["tar", "-tf", archive], capture_output=True, text=True, check=True)
    assert "own" not in names.stdout
    assert progress.problems == []


def test_a_scrub_verifies_the_second_time(tree: Path, tmp_path: Path) -> None:
    files = run(Scrub(), tree, tmp_path / "state").report["new"]
    (tree / "deep/file5").write_text("changed by somebody")
    (tree / "deep/file6").unlink()
    progress = run(Scrub(), tree, tmp_path / "state")
    report = progress.report
    verified = report["verified_on_disk"] + report["verified_in_memory"]
    assert files > 20
    assert (verified, report["changed"], report["new"]) == (files - 2, 1, 0)
    assert progress.problems == []
    with Ledger(str(tmp_path / "state"), "scrub", str(tree)) as ledger:
        assert "deep/file6" not in {record.path for record in ledger.files()}


def test_rsync_copies(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    options = ["--delete", "--hard-links", "--xattrs"]
    assert run(Rsync(str(target), options), tree, tmp_path / "state").problems == []
    assert listing(target) == listing(tree)
    (tree / "deep/file3").unlink()
    (tree / "deep/file4").write_text("changed")
    (target / "stray").touch()
    age(tree, days=2)
    assert run(Rsync(str(target), options), tree, tmp_path / "state").problems == []
    assert listing(target) == listing(tree)


def test_rsync_copies_to_another_host(tree: Path, tmp_path: Path) -> None:
    """By rsync's protocol, over what stands for ssh: a shell that leaves the host out."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\necho "$1" >>"$0.hosts"\nshift\nexec "$@"\n')
    shell.chmod(0o755)
    target = tmp_path / "copy"
    options = ["--delete", "--hard-links", "--xattrs", "--rsh", str(shell)]
    progress = run(Rsync(f"elsewhere:{target}", options), tree, tmp_path / "state")
    assert progress.problems == []
    assert listing(target) == listing(tree)
    assert set((tmp_path / "shell.hosts").read_text().split()) == {"elsewhere"}


def test_rsync_that_cannot_is_an_error(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="rsync ended with"):
        run(Rsync("/proc/nowhere/at/all"), tree, tmp_path / "state")


class Meddled(Maintenance):
    """A task in whose way somebody comes."""

    kind = "meddled"

    def __init__(self, meddle: Callable[[str], object]) -> None:
        self.meddle = meddle
        self.seen: list[str] = []
        self.gone: list[str] = []

    def process(self, reading: Reading, before: Record | None) -> None:
        self.seen.append(reading.work.path)
        list(reading.pieces())
        self.meddle(reading.work.path)
        reading.check()

    def vanished(self, before: Record) -> None:
        self.gone.append(before.path)


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Three files."""
    (tmp_path / "three").mkdir()
    for name in "abc":
        (tmp_path / "three" / name).write_text(name * 10000)
    return tmp_path / "three"


def test_a_file_that_changes_once_is_done_again(three: Path, tmp_path: Path) -> None:
    def meddle(path: str) -> None:
        if path == "b" and task.seen.count("b") == 1:
            (three / "b").write_text("another")

    task = Meddled(meddle)
    progress = run(task, three, tmp_path / "state")
    assert sorted(task.seen) == ["a", "b", "b", "c"]
    assert progress.problems == []


def test_a_file_that_never_stands_still_is_named(three: Path, tmp_path: Path) -> None:
    task = Meddled(lambda path: path == "b" and (three / "b").write_text("b" * len(task.seen)))
    progress = run(task, three, tmp_path / "state")
    assert troubles(progress) == {"b": Trouble.UNSTABLE}
    assert {"a", "c"} <= set(task.seen)


def test_a_file_that_changed_later_is_done_again(three: Path, tmp_path: Path) -> None:
    """Also one that is new, and one that was replaced by another of its name."""
    changed: list[str] = []

    def meddle(path: str) -> None:
        if len(task.seen) == 3 and not changed:
            first = task.seen[0]
            changed.append(first)
            (three / "other").write_text("another file")
            (three / "other").rename(three / first)
            (three / "new").write_text("new")

    task = Meddled(meddle)
    progress = run(task, three, tmp_path / "state")
    assert task.seen.count(changed[0]) == 2
    assert "new" in task.seen
    assert progress.again == 2
    assert progress.problems == []


def test_a_file_that_vanishes_is_named(three: Path, tmp_path: Path) -> None:
    def meddle(path: str) -> None:
        for name in "abc":
            if name not in task.seen:
                (three / name).unlink(missing_ok=True)

    task = Meddled(meddle)
    progress = run(task, three, tmp_path / "state")
    [seen] = set(task.seen)
    assert troubles(progress) == {name: Trouble.VANISHED for name in "abc" if name != seen}
    (three / seen).unlink()
    run(task, three, tmp_path / "state")
    assert task.gone == [seen]


def test_a_file_that_cannot_be_read_is_named(three: Path, tmp_path: Path) -> None:
    def meddle(path: str) -> None:
        if path == "b":
            raise PermissionError(13, "Permission denied")

    progress = run(Meddled(meddle), three, tmp_path / "state")
    assert troubles(progress) == {"b": Trouble.REFUSED}
    again = Meddled(lambda _: None)
    run(again, three, tmp_path / "state")
    assert "b" in again.seen


def test_a_full_target_ends_the_run_and_it_goes_on(tree: Path, tmp_path: Path) -> None:
    """The limit of a file's size plays the part of the full disk."""
    archive, state = tmp_path / "archive.tar", tmp_path / "state"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(TargetError) as error:
            run(Backup(str(archive)), tree, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    partial = tmp_path / "archive.tar.partial"
    assert error.value.filename == str(partial)
    assert partial.stat().st_size <= 1 << 20
    assert not archive.exists()
    progress = run(Backup(str(archive)), tree, state)
    assert progress.problems == []
    assert listing(restore(tmp_path / "restored", archive)) == listing(tree)


class Unsecured(Meddled):
    def secure(self) -> None:
        raise TargetError(0, "another", "target")


class Unlisted(Meddled):
    @property
    def problems(self) -> Sequence[Problem]:  # type: ignore[override]
        raise TargetError(0, "another", "target")


@pytest.mark.parametrize("kind", [Unsecured, Unlisted])
@pytest.mark.parametrize("first", [TargetError(0, "the first", "target"), KeyboardInterrupt()])
def test_what_ends_a_run_is_said_and_not_what_comes_of_it(
    three: Path, tmp_path: Path, first: BaseException, kind: type[Meddled]
) -> None:
    def end(_path: str) -> None:
        raise first

    with pytest.raises(type(first)) as error:
        run(kind(end), three, tmp_path / "state")
    assert error.value is first
    with pytest.raises(TargetError, match="another"):
        run(kind(lambda _: None), three, tmp_path / "state")


def test_the_ledger_is_told_of_each_rename_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not of all of them each time that it is written."""
    monkeypatch.setattr(ledger, "_COMMIT", 0.0)

    class Renaming(Backup):
        def process(self, reading: Reading, before: Record | None) -> Any:
            note = super().process(reading, before)
            path = self._tree.path / Path(reading.work.path)
            if path.name == "f":
                path.rename(path.with_name("g"))
            return note

    class Counting(Ledger):
        told = 0

        def remark(self, name: str, value: Any) -> None:
            self.told += len(json.dumps(value))
            super().remark(name, value)

    def told(number: int) -> int:
        place = tmp_path / str(number)
        for one in range(number):
            (place / "tree" / f"{one:0200}").mkdir(parents=True)
            (place / "tree" / f"{one:0200}" / "f").write_bytes(b"data")
        age(place / "tree")
        task = Renaming(str(place / "archive.tar"))
        with Counting(str(place / "state"), "backup", str(place / "tree")) as kept:
            progress = Frame(task, str(place / "tree"), kept, BLIND).run()
            assert progress.again == number
            assert not progress.problems
            # A list for each directory in which a name is gone, and for the root.
            assert (place / "archive.tar").read_bytes().count(b"GNU.dumpdir=") == number + 1
            return kept.told

    assert told(50) < 2.5 * told(25)


@pytest.mark.parametrize("passed", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("moment", [1, 6, 15])
def test_killed_and_run_again_nothing_is_lost(
    tree: Path, tmp_path: Path, moment: int, passed: bool
) -> None:
    """Killed when so many files were done, whether the ledger had been told or not."""
    archive, state = tmp_path / "archive.tar", tmp_path / "state"
    if passed:
        run(Backup(str(archive)), tree, state)
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(TOP)!r})
import pyduet.maintenance.frame.ledger as ledger
ledger._COMMIT = 0 if {moment} % 2 else 1000
from pyduet.maintenance import Frame, Ledger, Options, Use
from pyduet.maintenance.tasks.backup import Backup
def tell(progress):
    if progress.files_done == {moment}:
        os.kill(os.getpid(), signal.SIGKILL)
with Ledger({str(state)!r}, "backup", {str(tree)!r}) as ledger:
    options = Options(duet=Use.NEVER, give_way=False)
    Frame(Backup({str(archive)!r}), {str(tree)!r}, ledger, options, tell).run()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    with Ledger(str(state), "backup", str(tree)) as ledger:
        assert ledger.resumed
    assert run(Backup(str(archive)), tree, state).problems == []
    assert listing(restore(tmp_path / "restored", archive)) == listing(tree)
    with tarfile.open(archive) as tar:
        names = [member.name for member in tar if member.isreg()]
    assert len(names) == len(set(names))


def test_the_ledger_is_for_one(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    with Ledger(state, "scrub", "/a"), pytest.raises(LedgerError, match="using it"):
        Ledger(state, "scrub", "/a")
    with pytest.raises(LedgerError, match="ledger of root /a, not /b"):
        Ledger(state, "scrub", "/b")
    with pytest.raises(LedgerError, match="ledger of kind scrub, not backup"):
        Ledger(state, "backup", "/a")
    (tmp_path / "junk").write_bytes(os.urandom(5000))
    with pytest.raises(LedgerError, match="is no ledger"):
        Ledger(str(tmp_path / "junk"), "scrub", "/a")


def test_what_was_not_committed_is_not_remembered(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    with Tree(str(tmp_path)) as tree:
        status = tree.root
    work = Work.of("file", status, 5, None)
    record = Record("file", work.stamp, 5, True, 1, None)
    with Ledger(state, "scrub", "/a") as ledger:
        ledger.put(work)
        ledger.commit()
        ledger.forget(record, work.born_ns)
        assert ledger.get(status) is None
    with Ledger(state, "scrub", "/a") as ledger:
        assert ledger.get(status) == record


def test_a_throttle_lets_the_rate_through() -> None:
    slept: list[float] = []
    throttle = Throttle(1000, slept.append)
    for _ in range(5):
        throttle.spend(500)
    # Nothing passes while nobody sleeps: the fifth waits for all before it.
    assert slept[-1] == pytest.approx(2.5, abs=0.2)
    unlimited = Throttle(0, slept.append)
    unlimited.spend(1 << 40)
    assert len(slept) == 5


def test_the_command(tree: Path, tmp_path: Path) -> None:
    """Its words, its exit codes and its JSON."""

    def duet(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pyduet", "run", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=TOP)

    state = ["--state", str(tmp_path / "state"), "--uninformed", "--no-idle", "--no-give-way"]
    dry = duet("scrub", str(tree), "--dry-run", *state)
    assert dry.returncode == 0
    assert "deep/er/large" in dry.stdout
    assert not (tmp_path / "state").exists()
    first = duet("scrub", str(tree), "--json", *state)
    assert first.returncode == 0
    last = json.loads(first.stdout.splitlines()[-1])
    schema.check("run", last)
    for line in duet("scrub", str(tree), "--dry-run", "--json", *state).stdout.splitlines():
        schema.check("planned", json.loads(line))
    assert (last["step"], last["problems"]) == ("done", [])
    assert last["files"] == last["files_done"] > 20


def make_cold(root: Path, count: int) -> None:
    """Make a directory with so many files of a MiB, which are not in memory."""
    root.mkdir()
    for number in range(count):
        with (root / f"file{number:02}").open("wb") as file:
            file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("own", [True, False], ids=["idle", "no-idle"])
def test_the_idle_classes(tmp_path: Path, own: bool) -> None:
    """Of I/O and processor, as the kernel has them for the process that runs."""
    root = tmp_path / "root"
    make_cold(root, 8)
    command = [sys.executable, "-m", "pyduet", "run", "scrub", str(root), "--json"]
    command += ["--state", str(tmp_path / "state"), "--uninformed", "--no-give-way"]
    command += ["--rate", "1M", *([] if own else ["--no-idle"])]
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while json.loads(process.stdout.readline())["step"] != "working":
            pass
        ionice = ["ionice", "-p", str(process.pid)]
        io = subprocess.run(ionice, check=True, capture_output=True, text=True).stdout
        cpu = os.sched_getscheduler(process.pid)
        process.kill()
    assert (io.startswith("idle"), cpu == os.SCHED_IDLE) == (own, own)


def test_it_is_paused_by_a_signal(tmp_path: Path) -> None:
    """It does nothing until it is told to go on, and then ends as ever."""
    root, archive = tmp_path / "root", tmp_path / "archive.tar"
    make_cold(root, 16)
    age(tmp_path)
    command = [sys.executable, "-m", "pyduet", "run", "backup", str(root), str(archive)]
    command += ["--state", str(tmp_path / "state"), "--uninformed", "--rate", "4M"]
    command += ["--no-idle", "--no-give-way"]
    with subprocess.Popen(command, cwd=TOP) as process:
        half = tmp_path / "archive.tar.partial"
        while not (half.exists() and half.stat().st_size > 2 << 20):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        size = half.stat().st_size
        time.sleep(1)
        assert half.stat().st_size == size < 14 << 20
        process.send_signal(signal.SIGCONT)
    assert process.returncode == 0
    assert listing(restore(tmp_path / "restored", archive)) == listing(root)


def test_a_limit_of_bytes_a_second(tmp_path: Path) -> None:
    """For what has to be read: it is dropped from the cache first."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(os.urandom(4 << 20))
    fd = os.open(root / "file", os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    begin = time.monotonic()
    options = Options(duet=Use.NEVER, give_way=False, rate=2 << 20)
    run(Scrub(), root, tmp_path / "state", options)
    assert time.monotonic() - begin > 1.4


def test_what_it_alone_brought_in_is_dropped(tmp_path: Path) -> None:
    from pyduet import cached_pages

    root = tmp_path / "root"
    root.mkdir()
    for name in ("cold", "warm"):
        with (root / name).open("wb") as file:
            file.write(os.urandom(64 * 4096))
            file.flush()
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert not cached_pages(root / "cold")
    fd = os.open(root / "warm", os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for page in (3, 4, 9):
        os.pread(fd, 10, page * 4096)
    os.close(fd)
    before = cached_pages(root / "warm")
    assert {3, 4, 9} <= before
    assert len(before) < 64
    run(Scrub(), root, tmp_path / "state")
    assert cached_pages(root / "warm") == before
    assert not cached_pages(root / "cold")


def test_young_files_are_waited_for_together(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(100):
        (tree / f"file{number}").write_text("young")
    task = Meddled(lambda _: None)
    progress = run(task, tree, tmp_path / "state")
    assert sorted(task.seen) == sorted(f"file{number}" for number in range(100))
    assert progress.waited < 1
    with Ledger(str(tmp_path / "state"), task.kind, str(tree)) as ledger:
        assert all(record.settled for record in ledger.files())


def test_what_has_not_settled_is_taken_again(three: Path, tmp_path: Path) -> None:
    task = Meddled(lambda _: None)
    task.always = False  # type: ignore[misc]
    with Ledger(str(tmp_path / "state"), task.kind, str(three)) as ledger:
        Frame(task, str(three), ledger, BLIND).run()
        record = next(one for one in ledger.files() if one.path == "b")
        status = (three / "b").stat()
        born = next(inode[1] for inode, one in ledger.inodes() if one == record)
        work = Work("b", record.stamp, status.st_dev, born, record.generation, None, 1)
        ledger.put(work, settled=False)
        ledger.end()
    again = Meddled(lambda _: None)
    again.always = False  # type: ignore[misc]
    run(again, three, tmp_path / "state")
    assert again.seen == ["b"]


def test_what_a_task_writes_to_is_no_files_problem() -> None:
    """Who names a file and goes on would write after half a member, when there is room again."""
    with pytest.raises(TargetError):
        problem_of("file", TargetError(errno.ENOSPC, "No space left on device", "archive"))
    assert problem_of("file", OSError(errno.EIO, "Input/output error")).trouble is Trouble.DAMAGED
