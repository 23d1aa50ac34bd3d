# SPDX-License-Identifier: MIT
"""Copies by Duet and by plain rsync, held against each other; over a real sshd, to a daemon."""

import contextlib
import os
import re
import socket
import subprocess
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import strategies
from changes import Change, apply
from command import run_duet, run_forked
from compare import Difference, differences, look
from hypothesis import Phase, assume, example, given, note, settings
from hypothesis import strategies as st
from mounts import MS_BIND, mount
from places import USER, Mounted
from trees import Node, build, empty_path

from pyduet.maintenance import Frame, Ledger, Options, Problem, Progress, TargetError, Trouble, Use
from pyduet.maintenance.rsync.options import VALUED, OptionError, parse
from pyduet.maintenance.tasks.rsync import Rsync

IS_ROOT = os.geteuid() == 0
BLIND = Options(duet=Use.NEVER, give_way=False)
_LARGEST = 1 << 20


def _small(node: Node) -> Node:
    """Return a node that both programs copy in no time, with its holes."""
    extents = [one for one in node.extents if one.offset + one.length <= _LARGEST]
    return replace(
        node, size=min(node.size, _LARGEST), extents=tuple(extents), depth=min(node.depth, 3)
    )


def _small_ones(changes: list[Change]) -> list[Change]:
    return [one if one.node is None else replace(one, node=_small(one.node)) for one in changes]


def _filters() -> st.SearchStrategy[str]:
    pattern = st.one_of(
        st.sampled_from(
            ["a", "/a", "b/", "/d*", "*", "**/c", "chain*", "/*/", "file*", "[ab]", "/a/***"]
        ),
        st.sampled_from(["a", "b", "c", "e", "file"]).map(lambda name: f"/{name}/*"),
    )
    return st.one_of(
        st.builds("--exclude={}".format, pattern),
        st.builds("--include={}".format, pattern),
        st.builds("--filter={} {}".format, st.sampled_from("+-PHSR"), pattern),
        st.sampled_from(
            ["-F", "-FF", "--filter=:n- .cvsignore", "-C", "--max-size=4K", "--min-size=600"]
        ),
    )


_OTHERS = st.sampled_from([
    "-H", "-A", "-X", "-HAX", "-x", "--delete", "--delete-before", "--delete-after", "--del",
    "--delete-delay", "--delete-excluded", "--delete --max-delete=2", "--delete --force",
    "--force", "--remove-source-files", "-u", "--existing", "--ignore-existing", "--size-only",
    "-m", "-L", "-k", "-K", "--copy-unsafe-links", "--safe-links", "--munge-links", "-S", "-W",
    "--no-W", "-y", "-O", "-J", "--no-perms", "--no-p -E", "--no-o --no-g", "--no-l", "--no-D",
    "--chmod=Dg+s,Fo-rwx", "--chmod=a-w", "--numeric-ids", "--partial-dir=.part", "-T.", "-z",
    "--compare-dest=../before", "--copy-dest=../before", "--link-dest=../before",
    "--inplace", "--append", "--append-verify", "-b", "-b --suffix=.old", "-b --backup-dir=../old",
    "-c", "-I", "--no-t", "-R", "--no-r", "--no-r --dirs", "--delay-updates", "-n", "--super",
    "--fake-super", "--modify-window=1", "-@-1", "--preallocate", "--mkpath", "--no-i-r",
    "--no-implied-dirs", "--no-R", "--fsync", "--old-dirs --no-r",
])  # fmt: skip
#: Files in the tree that options have rsync read.
FILTERS = (".rsync-filter", ".cvsignore")
OPTIONS = st.lists(st.one_of(_filters(), _OTHERS), max_size=5).map(
    lambda options: [
        word
        for option in options
        for word in (
            [option]
            if option.startswith(("--ex", "--in", "--fi")) and option != "--inplace"
            else option.split()
        )
    ]
)


def _now(one: Difference, start: int) -> bool:
    """Return whether it is only that both programs did something now."""
    return one.field == "mtime_ns" and min(one.before, one.after) >= start


def _lost_by_rsync(one: Difference, start: int, options: Sequence[str]) -> bool:
    """Return whether it is a time that rsync set, and changed when it made temporary files there.

    Of several runs the last one puts it right.
    """
    return "-T." in options and one.field == "mtime_ns" and one.before >= start


def _age(top: Path) -> None:
    """Make all that was just made of another day: rsync takes times of one second for the same."""
    now = time.time_ns()
    for _, directories, names, fd in os.fwalk(os.fsencode(top), topdown=False):
        for name in [*directories, *names, b"."]:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if abs(now - status.st_mtime_ns) < 3600 * 10**9:
                then = status.st_mtime_ns // 10**9 * 10**9 - (86400 + status.st_ino % 999) * 10**9
                with contextlib.suppress(OSError):
                    os.utime(name, ns=(then, then), dir_fd=fd, follow_symlinks=False)


def run(
    source: Path,
    target: str,
    options: Sequence[str],
    said: list[bytes] | deque[bytes] | None = None,
) -> Progress:
    task = Rsync(
        target, options, source=os.fspath(source), stderr=([] if said is None else said).append
    )
    with Ledger(":memory:", task.kind, str(source)) as ledger:
        return Frame(task, str(source), ledger, BLIND).run()


def plain(cwd: Path, *words: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["rsync", "-a", *words], cwd=cwd, capture_output=True, check=False)


@settings(phases=(Phase.explicit, Phase.generate), report_multiple_bugs=False)
@given(
    nodes=strategies.trees(is_root=IS_ROOT).map(lambda nodes: tuple(map(_small, nodes))),
    before=strategies.changes(is_root=IS_ROOT).map(_small_ones),
    after=strategies.changes(is_root=IS_ROOT).map(_small_ones),
    options=OPTIONS,
    filters=st.lists(st.sampled_from(["- a", "+ a", "- *", "+ b/", "- /c", "file"]), max_size=2),
    first=st.booleans(),
)
@example(
    nodes=(Node("directory", b"b"), Node("file", b"c", parent=1, size=1)),
    before=[],
    after=[],
    options=["-T."],
    filters=[],
    first=True,
)
def test_the_result_is_that_of_plain_rsync(
    mounted: Mounted,
    nodes: tuple[Node, ...],
    before: list[Change],
    after: list[Change],
    options: list[str],
    filters: list[str],
    first: bool,
) -> None:
    """Whatever is in the tree and at the target, and with whatever options."""
    places = [mounted.path / name for name in ("plain", "ours")]
    for place in places:
        place.mkdir(exist_ok=True)
        empty_path(place)
    made = places[0] / "source"
    made.mkdir()
    build(made, nodes)
    for name in FILTERS:
        if filters:
            (made / name).write_text("\n".join(filters) + "\n")
    keep = ["-HAX", "--numeric-ids"]
    plain(made, *keep, "./", places[0] / "before")
    if not first:
        for change in before:
            apply(made, change)
        assume(made.is_dir() and not made.is_symlink())
        plain(made, *keep, "./", places[0] / "target")
        for change in after:
            apply(places[0] / "target", change)
    for change in after:
        apply(made, change)
    assume(made.is_dir() and not made.is_symlink())
    # rsync itself waits for ever at a filter file that is a FIFO.
    assume(not any(path.is_fifo() for name in FILTERS for path in made.rglob(name)))
    _age(places[0])
    plain(places[0], *keep, "./", places[1])
    looks = [look(place) for place in places]
    same = differences(*looks)
    note(f"not the same before: {[*map(str, same)]}")
    start = time.time_ns() - 10**9
    theirs = plain(places[0], *options, "source/", "target")
    note(f"rsync {options}: {theirs.returncode} {os.fsdecode(theirs.stderr)[-1000:]}")
    here = os.getcwd()
    os.chdir(places[1])
    said: list[bytes] = []
    try:
        progress = run(Path("source"), "target", options, said)
        code = 23 if progress.problems else 0
        note(f"ours: {progress.problems} {progress.report}")
    except TargetError as error:
        code = int(str(error).split("ended with ")[1].split(":")[0])
    finally:
        os.chdir(here)
    note(os.fsdecode(b"".join(said))[-1500:])
    wrong = differences(*(look(place) for place in places))
    wrong = [
        one
        for one in wrong
        if one not in same
        and one.path
        and not _now(one, start)
        and not _lost_by_rsync(one, start, options)
    ]
    assert not wrong, "\n".join(map(str, wrong))
    assert code == theirs.returncode


@pytest.mark.root
def test_what_rsync_says_and_does_not_count_is_no_problem(mounted: Mounted) -> None:
    """It follows no link of another user to a filter file, says so, and ends with 0."""
    source = mounted.path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    (source / ".rsync-filter").symlink_to("elsewhere")
    os.chown(source / ".rsync-filter", 4002, 4002, follow_symlinks=False)
    theirs = plain(mounted.path, "-FF", "source/", "theirs")
    said: list[bytes] = []
    progress = run(source, os.fspath(mounted.path / "ours"), ["-FF"], said)
    assert theirs.returncode == 0
    assert (progress.problems, b"".join(said)) == ([], theirs.stderr)
    assert (mounted.path / "ours/file").read_bytes() == b"content"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until somebody listens."""
    while True:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)


class Server(NamedTuple):
    """Something real to copy to.

    Attributes:
        options: of rsync, to reach it.
        log: what it says.

    """

    options: list[str]
    port: int
    log: Path

    def logins(self) -> int:
        return self.log.read_text().count("Accepted publickey")


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Server]:
    """A real sshd on the loopback address, of which the key is known."""
    here, log, port = tmp_path / "ssh", tmp_path / "ssh/log", _free_port()
    here.mkdir(mode=0o700)
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", here / name], check=True
        )
    (here / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {here}/host\nPidFile {here}/pid\n"
        f"AuthorizedKeysFile {here}/user.pub\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n"
        "PasswordAuthentication no\nMaxStartups 2\n"
    )
    (here / "known").write_text(f"[127.0.0.1]:{port} {(here / 'host.pub').read_text()}")
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["/usr/sbin/sshd", "-D", "-e", "-f", here / "config"],
            stderr=file,
            stdin=subprocess.DEVNULL,
        )
    try:
        _wait_for(port, process, log)
        shell = (
            f"ssh -F none -p {port} -i {here}/user -o UserKnownHostsFile={here}/known "
            "-o BatchMode=yes -o IdentitiesOnly=yes"
        )
        yield Server(["-e", shell], port, log)
    finally:
        process.terminate()
        process.wait()


def _files(tree: Path, number: int) -> None:
    for at in range(number):
        (tree / f"d{at % 7}").mkdir(exist_ok=True)
        (tree / f"d{at % 7}/f{at}").write_bytes(b"%d" % at * 100)
    _age(tree)


@pytest.mark.root
def test_one_login_for_all_batches(
    tree: Path, tmp_path: Path, sshd: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyduet.maintenance.tasks.rsync._FILES", 10)
    _files(tree, 60)
    target = tmp_path / "with space"
    progress = run(tree, f"127.0.0.1:{target}", [*sshd.options, "--delete", "--mkpath"])
    assert progress.problems == []
    assert progress.report == {"rsync_runs": 8, "files_in_batches": 60}
    assert sshd.logins() == 1
    assert not differences(look(tree), look(target))


@pytest.mark.root
def test_a_connection_that_is_there_is_used(tree: Path, tmp_path: Path, sshd: Server) -> None:
    """Of the user's own, as who has typed a password for it has it."""
    _files(tree, 5)
    shell = f"{sshd.options[1]} -S {tmp_path}/master"
    master = subprocess.Popen([*shell.split(), "-M", "-N", "127.0.0.1"], stdin=subprocess.DEVNULL)
    try:
        while not (tmp_path / "master").exists():
            assert master.poll() is None
            time.sleep(0.05)
        run(tree, f"127.0.0.1:{tmp_path}/copy", ["-e", shell])
        assert master.poll() is None
        assert sshd.logins() == 1
    finally:
        master.terminate()
        master.wait()
    assert not differences(look(tree), look(tmp_path / "copy"))


@pytest.mark.root
def test_no_login_is_an_error_before_anything_is_done(
    tree: Path, tmp_path: Path, sshd: Server
) -> None:
    _files(tree, 5)
    (sshd.log.parent / "user.pub").write_text("")
    said: list[bytes] = []
    with pytest.raises(TargetError, match=r"rsync ended with (12|255): "):
        run(tree, f"127.0.0.1:{tmp_path}/copy", sshd.options, said)
    assert b"Permission denied (publickey" in b"".join(said)
    assert not (tmp_path / "copy").exists()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Server]:
    """A real rsync daemon."""
    log, port = tmp_path / "log", _free_port()
    (tmp_path / "module").mkdir()
    ids = "uid = root\ngid = root\n" if IS_ROOT else ""
    (tmp_path / "conf").write_text(
        f"use chroot = no\n{ids}log file = {log}\npid file = {tmp_path}/pid\n"
        f"[module]\npath = {tmp_path}/module\nread only = no\n"
    )
    process = subprocess.Popen(
        ["rsync", "--daemon", "--no-detach", "--address=127.0.0.1", f"--port={port}",
         f"--config={tmp_path}/conf"],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait_for(port, process, log)
        yield Server([], port, log)
    finally:
        process.terminate()
        process.wait()


def test_a_daemon_is_asked_three_times(
    tree: Path, tmp_path: Path, daemon: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the list, for a batch as large as the memory allows, and for all."""
    monkeypatch.setattr("pyduet.maintenance.tasks.rsync._FILES", 10)
    _files(tree, 60)
    progress = run(tree, f"rsync://127.0.0.1:{daemon.port}/module/copy", ["--delete", "--mkpath"])
    assert progress.problems == []
    assert progress.report == {"rsync_runs": 3, "files_in_batches": 60}
    assert daemon.log.read_text().count("rsync to module/copy") == 3
    assert not differences(look(tree), look(tmp_path / "module/copy"))


def _shell(path: Path, script: str) -> Path:
    """Make what stands for a remote shell: it is told the host, and then what to run there."""
    path.write_text(f"#!/bin/sh\necho run >>'{path}.runs'\nshift\n{script}\nexec \"$@\"\n")
    path.chmod(0o755)
    return path


def test_a_batch_that_fails_is_said_and_left_to_the_last_run(tree: Path, tmp_path: Path) -> None:
    _files(tree, 20)
    count = f"$(wc -l <'{tmp_path}/shell.runs')"
    shell = _shell(
        tmp_path / "shell", f'[ {count} = 2 ] && {{ echo "no, not now" >&2; exit 255; }}'
    )
    said: list[bytes] = []
    progress = run(tree, f"host:{tmp_path}/copy", ["-e", str(shell)], said)
    assert progress.problems == []
    assert progress.report == {"rsync_runs": 3, "files_in_batches": 0}
    words = b"".join(said).decode()
    assert "no, not now\n" in words
    assert "20 files of a batch left to the last run" in words
    assert not differences(look(tree), look(tmp_path / "copy"))


def test_the_directory_is_held(tree: Path, tmp_path: Path) -> None:
    """What takes its name while rsync runs is not copied."""
    _files(tree, 20)
    before = look(tree)
    (tmp_path / "secret/d1").mkdir(parents=True)
    (tmp_path / "secret/d1/f1").write_text("secret")
    swap = (
        f"[ -h '{tree}' ] || {{ mv '{tree}' '{tree}.away'; ln -s '{tmp_path}/secret' '{tree}'; }}"
    )
    shell = _shell(tmp_path / "shell", swap)
    progress = run(tree, f"host:{tmp_path}/copy", ["-e", str(shell), "--delete"])
    assert progress.problems == []
    assert tree.is_symlink()
    assert not differences(before, look(tmp_path / "copy"))


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "target", "once"),
    [(4001, "/etc", True), (4001, "../..", True), (4001, "below", False), (0, "/etc", False)],
)
def test_links_of_root_that_others_may_move(
    tree: Path, tmp_path: Path, owner: int, target: str, once: bool
) -> None:
    """They would be followed, in the place of a directory, where a name is looked up."""
    _files(tree, 5)
    (tree / "d1/link").symlink_to(target)
    _age(tree)
    os.chown(tree / "d1", owner, owner)
    progress = run(tree, str(tmp_path / "copy"), [])
    assert progress.report["files_in_batches"] == (0 if once else 5)
    assert not differences(look(tree), look(tmp_path / "copy"))


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ("", "/"), ("-H --max-size=2K", "/"), ("-R", "/"), ("-R -q", "/"), ("-R", "/./"),
        ("-R", "relative"), ("-c", "/"), ("-I", "/"), ("-b --suffix=.old", "/"), ("--inplace", "/"),
        ("-R --log-file=LOG", "/"), ("--files-from=NAMES", "/"), ("-n", "/"), ("--list-only", "/"),
        ("--only-write-batch=BATCH", "/"), ("--write-batch=BATCH", "/"),
    ],
)  # fmt: skip
def test_a_dry_run_tells_what_is_copied(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, source: str
) -> None:
    """Also where rsync is run once: into nothing, and when some of it is there."""
    _files(tree, 12)
    (tree / "line\nline").write_bytes(os.urandom(100))
    os.link(tree / "d1/f1", tree / "d2/hard")
    _age(tree)
    (tmp_path / "NAMES").write_text("d1/f1\nd1/f8\n")
    monkeypatch.chdir(tmp_path)
    path = {"/": str(tree), "/./": f"{tree.parent}/./{tree.name}"}.get(source, tree.name)
    if source == "relative":
        monkeypatch.chdir(tree.parent)
    words = options.replace("LOG", str(tmp_path / "log")).replace("BATCH", str(tmp_path / "batch"))
    words = words.replace("NAMES", str(tmp_path / "NAMES"))
    target = tmp_path / "copy"
    run = ["run", "rsync", path, target, "--state", tmp_path / "state"]

    def copies() -> dict[str, int]:
        """Return the names of what is there, which are all different, and their last change."""
        return {one.name: one.stat().st_ctime_ns for one in target.rglob("*") if one.is_file()}

    for _ in range(2):
        before = copies()
        dry = run_forked(*run, "--dry-run", "--json", "--", *words.split())
        assert dry.status == 0, dry.words
        assert {one.name for one in tmp_path.iterdir()} <= {"NAMES", "copy", "state", "batch"}
        assert copies() == before
        done = run_forked(*run, "--", *words.split())
        assert done.status == 0, done.words
        (tmp_path / "log").unlink(missing_ok=True)
        for batch in tmp_path.glob("batch*"):
            batch.unlink()
        after = copies()
        copied = {name for name in after if after[name] != before.get(name)}
        planned = {os.path.basename(one["path"]) for one in dry.objects}
        for names in (copied, planned):
            if "hard" in names:  # a file is told by whichever name is found first
                names.remove("hard")
                names.add("f1")
        # What is kept of a file that was there is none of the tree.
        assert planned == {name for name in copied if not name.endswith(".old")}
        (tree / "d1/f8").write_bytes(b"another")
        (tree / "line\nline").write_bytes(b"another")
    assert copied or "n" in options


@pytest.mark.parametrize("options", [["-i"], ["-v"], ["-ii"], ["-q", "-i"], ["--out-format=%n %l"]])
def test_what_rsync_prints_is_printed(tree: Path, tmp_path: Path, options: list[str]) -> None:
    """Of what is done, each line once, whichever run does it."""
    _files(tree, 20)
    (tree / "line\nline").write_text("x")
    (tree / "link").symlink_to("d1")
    os.link(tree / "d1/f1", tree / "d2/hard")
    for name in ("plain", "ours"):
        (tmp_path / name / "d2/gone").mkdir(parents=True)
        os.utime(tmp_path / name / "d2", (1, 1))
    _age(tree)
    theirs = plain(tree, *options, "-H", "--delete", "./", tmp_path / "plain")
    ran = run_duet(
        "run", "rsync", tree, tmp_path / "ours", "--state", tmp_path / "state",
        "--", *options, "-H", "--delete",
    )  # fmt: skip
    assert ran.status == 0, ran.words
    counts = re.compile(rb"sent |total size is |$")
    lines = [
        sorted(line for line in out.splitlines() if not counts.match(line))
        for out in (theirs.stdout, ran.stdout)
    ]
    if options == ["-ii"]:  # as not changed, in the last run, what a batch has sent
        lines[1] = [line for line in lines[1] if not line.startswith((b".f   ", b".d   "))]
    assert lines[1] == lines[0]


def test_what_failed_is_named_with_its_path(tree: Path, tmp_path: Path) -> None:
    _files(tree, 5)
    (tree / "name\n\xff").write_text("x")
    (tmp_path / "copy/d1/f1/in the way").mkdir(parents=True)
    target = tmp_path / "copy"
    ran = run_duet("run", "rsync", tree, target, "--state", tmp_path / "state", "--json")
    assert ran.status == 12
    end = ran.objects[-1]
    assert [(one["path"], one["trouble"]) for one in end["problems"]] == [
        (f"{target}/d1/f1", "failed")
    ]
    assert end["report"]["rsync_exit_code"] == 23
    assert "could not make way for new regular file: d1/f1\n" in ran.words
    assert "\\n" not in ran.words


@pytest.mark.root
def test_a_name_steers_no_terminal(tree: Path, tmp_path: Path) -> None:
    """With an old rsync it is said of the directory, with a new one of the link."""
    name = "x\033]0;title\007\nduet: all is well"
    (tree / name).mkdir()
    (tree / name / "link").symlink_to("/nowhere")
    os.chown(tree / name, USER, USER)
    ran = run_duet("run", "rsync", tree, tmp_path / "copy", "--state", tmp_path / "state")
    assert ran.status == 0
    assert "because of x\\x1b]0;title\\x07\\nduet: all is well" in ran.words
    assert not {"\x1b", "\x07"} & {*ran.words}
    assert "duet: all is well" not in ran.words.splitlines()


def test_what_a_remote_shell_says_steers_no_terminal(tree: Path, tmp_path: Path) -> None:
    shell = tmp_path / "shell"
    shell.write_text("#!/bin/sh\nprintf 'hello \\033]0;title\\007\\r\\n' >&2\nexit 1\n")
    shell.chmod(0o755)
    ran = run_duet(
        "run", "rsync", tree, "host:/nowhere", "--state", tmp_path / "state", "--", "-e", shell
    )
    assert ran.status == 1
    assert "hello \\x1b]0;title\\x07" in ran.words.splitlines()


@pytest.mark.user
def test_what_cannot_be_read_is_named(tree: Path, tmp_path: Path) -> None:
    """And what is left out and cannot be read is not."""
    _files(tree, 5)
    (tree / "d1/f1").chmod(0)
    (tree / "d2").chmod(0)
    for options, names in ((["--exclude=d2"], ["d1/f1"]), ([], ["d1/f1", "d2"])):
        ran = run_duet(
            "run", "rsync", tree, tmp_path / "copy", "--state", tmp_path / "state", "--json",
            "--", *options,
        )  # fmt: skip
        assert ran.status == 12
        problems = ran.objects[-1]["problems"]
        assert sorted(one["path"] for one in problems) == names
        assert {one["trouble"] for one in problems} == {"refused"}
    (tree / "d2").chmod(0o700)


def test_a_file_that_vanishes(tree: Path, tmp_path: Path) -> None:
    _files(tree, 5)
    shell = _shell(tmp_path / "shell", f"rm -f '{tree}/d1/f1'")
    progress = run(tree, f"host:{tmp_path}/copy", ["-e", str(shell), "--exclude=/d2"])
    assert {one.trouble for one in progress.problems} <= {Trouble.VANISHED}
    assert (tmp_path / "copy/d0/f0").exists()


def test_many_problems_take_no_memory(tree: Path, tmp_path: Path) -> None:
    """As many as there may be: they are counted, and the first of them are named."""
    _files(tree, 5)
    (tmp_path / "copy/d1/f1/in the way").mkdir(parents=True)
    name = f"{'n' * 200}%g"
    words = f'rsync: [sender] send_files failed to open "{tree}/{name}": Permission denied (13)'
    shell = _shell(tmp_path / "shell", f"seq -f '{words}' 50000 >&2")
    tracemalloc.start()
    try:
        progress = run(tree, f"host:{tmp_path}/copy", ["-e", str(shell)], deque(maxlen=1))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert progress.named == 50_001
    assert progress.problems[:2] == [
        Problem(name.replace("%g", number), Trouble.REFUSED, words.replace("%g", number))
        for number in "12"
    ]
    assert len(progress.problems) == 10_000


def test_errors_that_cannot_be_passed_on_end_the_run(tree: Path, tmp_path: Path) -> None:
    """Else rsync would wait for ever for somebody to take what it says."""
    _files(tree, 5)
    shell = _shell(tmp_path / "shell", "timeout 60 seq 100000 >&2 || exit 1")

    def fail(line: bytes) -> None:
        raise BrokenPipeError

    task = Rsync(f"host:{tmp_path}/copy", ["-e", str(shell)], stderr=fail)
    with Ledger(":memory:", task.kind, str(tree)) as ledger, pytest.raises(BrokenPipeError):
        Frame(task, str(tree), ledger, BLIND).run()


def _refused(tree: Path, target: str | Path, *options: str) -> None:
    before = look(tree)
    with pytest.raises(ValueError, match=r"copied into itself"):
        run(tree, str(target), options)
    assert not differences(before, look(tree))


def test_a_target_in_the_source_is_refused(tree: Path, tmp_path: Path) -> None:
    _files(tree, 5)
    (tmp_path / "link").symlink_to(tree / "d1")
    for target in (tree / "copy", tree / "d1/copy/deep", tree, tmp_path / "link/copy", tree / "d1"):
        _refused(tree, target)
    _refused(tree.parent, tree / "copy", "--exclude=/copy")
    _refused(tree, tree / "copy", "--include=/copy/file", "--exclude=/copy/*")
    _refused(tree, tree / "copy", "-R", "--exclude=/copy")
    with pytest.raises(ValueError, match=f"^{tree}/new/deep lies in PATH, as new/deep, and "):
        run(tree, f"{tree}/.//./new/deep/", [])


@pytest.mark.parametrize(("above", "name"), [("", "st"), ("d1/deep", r"o*d[d]\x2d?")])
@pytest.mark.parametrize(
    "options", ["--delete", "--remove-source-files", "--include=*", "-c --delete", "-R --delete"]
)
def test_the_ledger_is_not_copied(
    above: str, name: str, options: str, tree: Path, tmp_path: Path
) -> None:
    """Nor is what has its name at the target deleted, which may be the ledger of a task there."""
    _files(tree, 5)
    state = tree / above / name
    for like in (name, name.replace("*", "x"), name.replace("\\", "")):
        path = tree / "d0" / above / like
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"like it")
    _age(tree)
    target = tmp_path / "copy"
    copied = target / os.fspath(tree).lstrip("/") if "-R" in options else target
    (copied / above).mkdir(parents=True)
    (copied / above / name).write_bytes(b"of the target")
    (copied / "stray").touch()
    wanted = set(_paths(tree))
    with Ledger(os.fspath(state), "rsync", os.fspath(tree)) as ledger:
        task = Rsync(os.fspath(target), options.split(), source=os.fspath(tree))
        progress = Frame(task, os.fspath(tree), ledger, BLIND).run()
        assert progress.problems == []
        # The pages that are in memory only are in none of the files yet.
        ledger.commit()
    assert state.exists()
    assert (copied / above / name).read_bytes() == b"of the target"
    stray = set() if "--delete" in options else {"stray"}
    assert set(_paths(copied)) == wanted | {os.path.join(above, name)} | stray


def _paths(tree: Path) -> Iterator[str]:
    """Yield what is in a directory, but for other directories."""
    return (os.fspath(one.relative_to(tree)) for one in tree.rglob("*") if not one.is_dir())


@pytest.mark.parametrize(
    "options",
    [["--exclude=/copy"], ["--exclude=copy/*"], ["-f- /c*"], ["--exclude-from=list"], ["-n"],
     ["--include=/d*", "--include=/d*/**", "--exclude=*"]],
)  # fmt: skip
def test_a_target_that_is_left_out_is_none_of_the_source(
    tree: Path, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _files(tree, 5)
    (tmp_path / "list").write_text("/copy\n")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run(tree, str(tree / "copy"), options).problems == []
        assert not (tree / "copy/copy/d0").exists()
    if options != ["-n"]:
        assert (tree / "copy/d0/f0").exists()


@pytest.mark.root
def test_a_target_that_is_mounted_in_the_source(
    tree: Path, tmp_path: Path, mounted: Mounted, new_mount: Callable[..., Mounted]
) -> None:
    _files(tree, 5)
    other = new_mount(mounted.kind)
    for name in ("bound", "further"):
        (tmp_path / name).mkdir()
    (tree / "mounted").mkdir()
    mount(str(tree / "d1"), tmp_path / "bound", flags=MS_BIND)
    mount(str(other.path), tree / "mounted", flags=MS_BIND)
    try:
        _refused(tree, tmp_path / "bound/copy")
        _refused(tree, tree / "mounted/copy")
        _refused(tree, other.path / "copy")
        _refused(tree, other.path / "copy", "--exclude=/mounted/x")
        # As the whole system is copied to a disk of its own.
        assert run(tree, str(tree / "mounted/copy"), ["-x"]).problems == []
        assert run(tree, str(other.path / "copy2"), ["--exclude=/mounted/*"]).problems == []
        for name in ("copy", "copy2"):
            assert (other.path / name / "d1/f1").exists()
            assert not list((other.path / name / "mounted").iterdir())
    finally:
        for path in (tmp_path / "bound", tree / "mounted"):
            subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("target", ["-x", "--delete", "-oProxyCommand=touch hacked", ":"])
def test_a_target_is_no_option(
    tree: Path, tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _files(tree, 5)
    monkeypatch.chdir(tmp_path)
    assert run(tree, target, []).problems == []
    assert not differences(look(tree), look(tmp_path / target))


def test_a_host_is_no_option_of_ssh(tree: Path, tmp_path: Path) -> None:
    for target in ("-oProxyCommand=touch hacked:x", "user@-oProxyCommand=x:y", "rsync://-x/y", ""):
        with pytest.raises(ValueError, match=r"host|no name"):
            Rsync(target)


def test_options_before_and_after(tree: Path, tmp_path: Path) -> None:
    _files(tree, 5)
    (tmp_path / "copy/stray").mkdir(parents=True)
    ran = run_duet(
        "run", "rsync", tree, tmp_path / "copy", "--rate", "10M", "--state", tmp_path / "state",
        "--", "--delete",
    )  # fmt: skip
    assert ran.status == 0, ran.words
    assert not differences(look(tree), look(tmp_path / "copy"))


def test_files_that_options_name_are_found_from_where_they_were_written(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _files(tree, 14)
    (tmp_path / "list").write_text("f3\n")
    (tree.parent / ".rsync-filter").write_text("- f4\n")
    monkeypatch.chdir(tmp_path)
    progress = run(tree, "copy", ["--exclude-from=list", "-F", "--log-file=log"])
    (tree.parent / ".rsync-filter").unlink()
    assert progress.report["files_in_batches"] == 12
    assert (tmp_path / "log").exists()
    gone = {path.name for path in tree.rglob("f*")} - {p.name for p in tmp_path.glob("copy/*/*")}
    assert gone == {"f3", "f4"}


@pytest.mark.parametrize(
    "words",
    ["--version", "--help", "--daemon", "--server", "--read-batch=x", "x", "--delete x", "--",
     "--exclude", "-av -e", "-", "--nothing x"],
)  # fmt: skip
def test_what_is_no_option_for_a_copy_is_refused(words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(words.split()[-1].partition("=")[0])):
        parse(words.split())


@pytest.mark.parametrize(
    "words",
    ["-R", "-c", "-n", "-d", "--no-r", "-aIz", "--backup", "--inplace", "--files-from=x",
     "--files-from x", "--no-times", "-H --ignore-existing", "-X -F", "-XH -f :_x", "-f._x",
     "-f merge,s_x", "--exclude-from=-", "--exclude-from -", "--delete=x", "--nothing", "-9",
     "--iconv=.", "-M--fake-super", "-e ./shell", "--out-format=a\nb", "-avR"],
)  # fmt: skip
def test_options_that_make_one_run(words: str) -> None:
    given = parse([word.replace("_", " ") for word in words.split(" ")])
    assert given.once


def test_options_for_each_run() -> None:
    given = parse(
        ["-avHe", "ssh -p 22", "--delete", "--exclude", "a b", "-P", "-fR x", "-T.", "-qh"]
    )
    assert given.once is None
    assert given.rsh == "ssh -p 22"
    assert given.names is None
    common = [
        "--archive",
        "--hard-links",
        "--exclude=a b",
        "--partial",
        "--filter=R x",
        "--temp-dir=.",
    ]
    assert given.list_only == given.batch == common
    assert [word for word in given.last if word not in common] == [
        "--verbose", "--delete", "--progress", "--quiet", "--human-readable",
    ]  # fmt: skip


def test_all_options_of_this_rsync_are_known() -> None:
    """Or it is known that they are not: there is one run then, as without Duet."""
    told = subprocess.run(["rsync", "--help"], capture_output=True, check=True, text=True).stdout
    unknown = set()
    for name, value in re.findall(r"^--([\w-]+)(?:, -\S+)?(=?)", told, re.MULTILINE):
        assert (name in VALUED) == bool(value), name
        with contextlib.suppress(OptionError):
            once = parse([f"--{name}", "x"] if value else [f"--{name}"]).once
            if once and once.endswith("is not known"):
                unknown.add(name)
    assert unknown <= {
        "copy-as", "crtimes", "delete-missing-args", "early-input", "ignore-missing-args",
        "no-OPTION", "no-implied-dirs", "old-args",
    }  # fmt: skip
