# SPDX-License-Identifier: MIT
"""``duet run`` as a process: what it takes, says, asks Duet for, and how it is ended."""

import json
import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import schema
from asleep import wait_until_asleep

from pyduet.cli import Exit, parser
from pyduet.cli.run import framed
from pyduet.cli.run.state import default_ledger, ledgers
from pyduet.maintenance import LeftOut, Problem, Progress, Trouble

WITHOUT = "duet: working without Duet, in the disk's order: /nowhere does not exist; load it: "


def run(
    tree: Path, *arguments: str | Path, task: str = "scrub", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a task on a tree, without Duet; the ledger is beside it."""
    given = [str(argument) for argument in arguments]
    state = ["--state", str(tree.parent / f"{task}.ledger"), "--device", "/nowhere"]
    return subprocess.run(
        [sys.executable, "-m", "pyduet", "run", task, tree, *state, *given],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, **environment},
    )  # fmt: skip


def last_object(text: str) -> dict[str, object]:
    line = json.loads(text.splitlines()[-1])
    schema.check("run", line)
    assert isinstance(line, dict)
    return line


def test_without_duet_it_works_and_says_so(tree: Path) -> None:
    for quiet in ([], ["-q"]):
        done = run(tree, "--json", *quiet)
        assert done.returncode == Exit.OK
        assert done.stderr.count(WITHOUT) == 1
        end = last_object(done.stdout)
        assert (end["files_done"], end["named"]) == (3, 0)
        assert str(end["blind"]).startswith("/nowhere does not exist")


def test_without_duet_it_fails_where_that_is_required(tree: Path) -> None:
    done = run(tree, "--require-duet")
    assert (done.returncode, done.stdout) == (Exit.NOT_LOADED, "")
    assert done.stderr.splitlines()[-1] == "duet: /nowhere does not exist; load it: modprobe duet"
    # Nothing was done: the pass begins with all files.
    assert last_object(run(tree, "--json").stdout)["report"]["new"] == 3


def test_required_and_not_asked(tree: Path) -> None:
    done = run(tree, "--require-duet", "--uninformed")
    assert done.returncode == Exit.USAGE
    assert "not allowed with" in done.stderr


def test_quiet_says_nothing_when_all_went_well(tree: Path) -> None:
    done = run(tree, "--uninformed", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (Exit.OK, "", "")
    before = subprocess.run(
        [sys.executable, "-m", "pyduet", "--quiet", "run", "scrub", tree, "--uninformed",
         "--state", tree.parent / "scrub.ledger"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (before.returncode, before.stdout, before.stderr) == (Exit.OK, "", "")


def test_what_went_wrong_is_said_in_quiet_as_well(tree: Path) -> None:
    failed = run(tree, tree / "none/archive.tar", "--uninformed", "-q", task="backup")
    assert failed.returncode == Exit.BAD_PATH
    assert failed.stderr.count("\n") == 1
    assert str(tree / "none") in failed.stderr


def test_outside_a_terminal_it_says_at_once_that_it_has_begun(tree: Path) -> None:
    assert run(tree, "--uninformed").stderr.startswith(f"scrub: begun on {tree}\n")


def test_where_the_ledger_is_said(tree: Path) -> None:
    done = run(tree, "--uninformed", "--verbose")
    assert f"what was done is kept in {tree.parent}/scrub.ledger\n" in done.stderr


def test_how_many_more_are_named_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    some = [Problem("a", Trouble.FAILED, "Error"), Problem("b", Trouble.FAILED, "Error")]
    progress = Progress(step="done", problems=some, named=30_002)
    more = "duet: and 30,000 more that something is wrong with, which are not listed"
    for options in ([], ["-q"]):
        code = framed.summary(parser().parse_args(["run", "scrub", "/", *options]), progress)
        err = capsys.readouterr().err.splitlines()
        assert code == Exit.NAMED
        assert err[:3] == ["duet: a: failed: Error", "duet: b: failed: Error", more]
        assert len(err) == (3 if options else 4)
        assert options or err[3].endswith("; 30,002 files named, 2 of them above")


def test_what_is_left_out_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Of each kind how much, or each of it by its name."""
    some = [LeftOut("a\n", "socket"), LeftOut("b", "socket"), LeftOut("c", "mount-point")]
    progress = Progress(step="done", left_out=some, left_out_count=1003)
    for options, words in (
        ([], "left out: 2 sockets, 1 mount-point, 1,000 others; -v names them\n"),
        (["-v"], "left out: a\\n (socket)\nleft out: b (socket)\nleft out: c (mount-point)\n"),
        (["-q"], ""),
    ):
        code = framed.summary(parser().parse_args(["run", "scrub", "/", *options]), progress)
        err = capsys.readouterr().err
        assert code == Exit.OK
        assert words in err
        assert bool(words) == bool(err)


def slow_file(tree: Path) -> None:
    """Leave one file that is not in memory, and so takes its time at a byte a second."""
    for path in tree.iterdir():
        path.unlink()
    with (tree / "slow").open("wb") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize(
    ("number", "code", "by"),
    [
        (signal.SIGTERM, Exit.TERMINATED, "SIGTERM"),
        (signal.SIGINT, Exit.INTERRUPTED, "Ctrl-C"),
    ],
)
def test_it_is_ended(number: signal.Signals, code: Exit, by: str, tree: Path) -> None:
    slow_file(tree)
    options = ["--uninformed", "--no-give-way", "--rate", "1", "--state", tree.parent / "ledger"]
    with subprocess.Popen(
        [sys.executable, "-m", "pyduet", "run", "scrub", tree, *options, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        # It tells how far it is while it waits for its next byte.
        while json.loads(process.stdout.readline())["step"] != "working":
            pass
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    words = f"duet: ended by {by}; run it again, and it goes on where it was\n"
    assert (process.returncode, err) == (code, words)
    assert (128 + number) == code
    again = run(tree, "--uninformed", "--state", tree.parent / "ledger")
    assert "duet: going on where the last run was ended\n" in again.stderr


def test_sigterm_ends_the_others_as_well(tmp_path: Path) -> None:
    recording = Path(__file__).parents[1] / "data/first_light.jsonl"
    path = tmp_path / "long"
    # All but the last at once: whoever sleeps has told the rest.
    text = re.sub(r'^{"t":[0-9.]+', '{"t":0', recording.read_text(), flags=re.MULTILINE)
    path.write_text(text.rstrip() + '\n{"t":9999,"items":[[1,1,1,0,1,["added"]]]}\n')
    with subprocess.Popen(
        [sys.executable, "-m", "pyduet", "watch", "--replay", path, "--by-file"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_until_asleep(process.pid)
        assert process.poll() is None
        process.terminate()
        out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (Exit.TERMINATED, "")
    assert "novels/5.txt" in out


def test_the_idle_classes_are_taken_by_the_command(tree: Path) -> None:
    """And by no library: here they are those of before."""
    slow_file(tree)
    options = ["--uninformed", "--no-give-way", "--rate", "1", "--state", tree.parent / "ledger"]
    for more, wanted in (
        ([], (psutil.IOPRIO_CLASS_IDLE, os.SCHED_IDLE)),
        (["--no-idle"], (psutil.Process().ionice().ioclass, os.sched_getscheduler(0))),
    ):
        with subprocess.Popen(
            [sys.executable, "-m", "pyduet", "run", "scrub", tree, *options, *more, "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            assert process.stdout
            process.stdout.readline()
            found = psutil.Process(process.pid).ionice().ioclass
            assert (found, os.sched_getscheduler(process.pid)) == wanted
            process.kill()


def test_idle_classes_that_are_not_to_be_had(tree: Path) -> None:
    """It is said why, and the work is done."""
    program = (
        "import errno, os, sys\n"
        "def refuse(*_): raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))\n"
        "os.sched_setscheduler = refuse\n"
        "sys.modules['psutil'] = None\n"
        "from pyduet.cli import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "scrub", tree, "--uninformed", "-q",
         "--state", tree.parent / "ledger"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.OK
    first, second = done.stderr.splitlines()
    assert first.startswith("duet: not in the idle class of I/O: psutil is not installed (")
    assert second.startswith("duet: not in the idle class of the processor: Operation not permit")


RSYNC = [
    "SRC TARGET -- --delete -v",
    "SRC TARGET --rate 10M -- --delete -v",
    "--rate 10M SRC TARGET -- --delete -v",
    "SRC --rate 10M TARGET -- --delete -v",
    "SRC TARGET --rate 10M --json -- --delete -v",
]


@pytest.mark.parametrize("line", RSYNC)
def test_options_of_rsync(line: str) -> None:
    found = parser().parse_args(["run", "rsync", *line.split()])
    assert (found.path, found.target) == ("SRC", "TARGET")
    assert found.options == ["--delete", "-v"]
    assert found.rate == (10 << 20 if "--rate" in line else 0)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("SRC TARGET", []),
        ("SRC TARGET --", []),
        ("SRC TARGET -- -- -n", ["--", "-n"]),
        ("SRC TARGET -- --rate 10M -q --help", ["--rate", "10M", "-q", "--help"]),
    ],
)
def test_what_comes_after_the_dashes_is_rsyncs(line: str, options: list[str]) -> None:
    found = parser().parse_args(["run", "rsync", *line.split()])
    assert (found.options, found.rate, found.quiet) == (options, 0, False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("SRC TARGET --delete", "unrecognized arguments: --delete; rsync's own come after --"),
        ("SRC TARGET more", "unrecognized arguments: more; rsync's own come after --"),
        ("SRC --version", "the following arguments are required: TARGET\n"),
        ("SRC -- --version", "the following arguments are required: TARGET\n"),
        ("-- SRC TARGET", "the following arguments are required: PATH, TARGET\n"),
    ],
)
def test_options_that_are_nobodys(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parser().parse_args(["run", "rsync", *line.split()])
    assert end.value.code == Exit.USAGE
    assert words in capsys.readouterr().err


def test_a_dry_run_lists_what_a_run_would_do(tree: Path) -> None:
    """By the ledger, in which nothing is changed."""
    ledger = tree.parent / "backup.ledger"
    options = ["--incremental", "--dry-run", "--json", "--uninformed"]
    planned = run(tree, tree.parent / "b.tar", *options[1:], task="backup")
    assert planned.returncode == Exit.OK
    assert planned.stdout.count("\n") == 3
    refused = run(tree, tree.parent / "b.tar", *options, task="backup")
    assert (refused.returncode, refused.stdout) == (Exit.FAILED, "")
    assert "no full archive" in refused.stderr
    assert not ledger.exists()
    assert run(tree, tree.parent / "a.tar", "--uninformed", task="backup").returncode == Exit.OK
    # A file is believed to be unchanged by its times when they are older than a clock's step.
    for path in tree.iterdir():
        os.utime(path, ns=(0, 0))
    assert run(tree, tree.parent / "a.tar", "--uninformed", task="backup").returncode == Exit.OK
    (tree / "file1").write_text("another content")
    before = ledger.read_bytes()
    planned = run(tree, tree.parent / "b.tar", *options, task="backup")
    assert planned.returncode == Exit.OK
    assert [json.loads(line)["path"] for line in planned.stdout.splitlines()] == ["file1"]
    assert ledger.read_bytes() == before
    assert not (tree.parent / "b.tar").exists()


def test_a_dry_run_says_what_becomes_of_a_damaged_ledger(tree: Path) -> None:
    run(tree)
    ledger = tree.parent / "scrub.ledger"
    ledger.write_bytes(b"damaged" * 1000)
    assert run(tree, "--dry-run").returncode == Exit.FAILED
    options = "--anew", "--json", "--uninformed", "-q"
    planned = run(tree, "--dry-run", *options)
    assert planned.returncode == Exit.OK
    assert len(planned.stdout.splitlines()) == 3
    words = f"duet: {ledger} is damaged: {{}} {ledger}.damaged-1, and {{}}\n"
    assert planned.stderr == words.format("a run would move it to", "begin with an empty one")
    assert ledger.read_bytes() == b"damaged" * 1000
    assert not ledger.with_name("scrub.ledger.damaged-1").exists()
    done = run(tree, *options)
    assert done.stderr == words.format("it was moved to", "an empty one was begun")
    end = last_object(done.stdout)
    assert [f"duet: {one}\n" for one in end["warnings"]] == [done.stderr]
    assert (end["files_done"], end["report"]["new"]) == (3, 3)


def test_json_has_the_same_paths_in_each_locale(tree: Path) -> None:
    name = os.fsdecode("tü😀".encode() + b"\xff")
    (tree / name).write_text("x")
    names = sorted([name, *(f"file{number}" for number in range(3))])
    for locale in ("C", "C.UTF-8"):
        own = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        planned = run(tree, "--anew", "--dry-run", "--json", **own).stdout.splitlines()
        assert sorted(json.loads(line)["path"] for line in planned) == names
        verdicts = tree.parent / "verdicts"
        assert run(tree, "--verdicts", verdicts, **own).returncode == Exit.OK
        told = [json.loads(line)["path"] for line in verdicts.read_text("ascii").splitlines()]
        assert sorted(told) == names


def test_a_dry_run_says_nothing_of_memory_that_it_cannot_know(tree: Path) -> None:
    known = "what of them is cached is not known without Duet\n"
    planned = run(tree, "--dry-run", "--uninformed", task="scrub")
    assert planned.stderr == f"3 files, {known}"
    assert {line.split()[0] for line in planned.stdout.splitlines()} == {"?"}
    planned = run(tree, "--dry-run", "--json", task="scrub")
    assert planned.stderr.endswith(f"\n3 files, {known}")
    lines = [json.loads(line) for line in planned.stdout.splitlines()]
    for line in lines:
        schema.check("planned", line)
    assert [line["cached"] for line in lines] == [None] * 3


@pytest.fixture
def as_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/anna")


def test_ledgers_that_read_well(as_user: None, monkeypatch: pytest.MonkeyPatch) -> None:
    state = "/home/anna/.local/state/duet"
    assert default_ledger("scrub", "/srv/www") == f"{state}/scrub-srv-www.ledger"
    assert default_ledger("scrub", "/srv/a-b") == f"{state}/scrub-srv-a\\x2db.ledger"
    assert default_ledger("scrub", r"/srv/a\x2db") == rf"{state}/scrub-srv-a\x5cx2db.ledger"
    assert default_ledger("scrub", "/") == f"{state}/scrub--.ledger"
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_ledger("backup", "/srv") == "/state/duet/backup-srv.ledger"
    # One that is relative is to be ignored.
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    assert default_ledger("backup", "/srv") == f"{state}/backup-srv.ledger"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_ledger("backup", "/srv") == "/var/lib/duet/backup-srv.ledger"


@pytest.mark.parametrize("part", ["d", "-", "ü", "\udcff", "/" + "x" * 200])
@pytest.mark.parametrize("number", [60, 63, 64, 220, 223, 224, 240, 246, 247, 255, 4000])
def test_ledgers_of_long_directories(part: str, number: int, as_user: None, tmp_path: Path) -> None:
    """Their names can be names of files, also of SQLite's journal, and are no two directories'."""
    roots = [f"/{part * number}{end}" for end in ("", "a", "b", "/a")]
    names = [os.path.basename(default_ledger("btrfs-scrub", root)) for root in roots]
    assert len(set(names)) == len(roots)
    for name in names:
        assert name.startswith("btrfs-scrub-")
        (tmp_path / f"{name}.damaged-999-journal").touch()


def test_ledgers_of_a_directory(
    as_user: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All are found, however long the directory and what else they are kept apart by."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "duet").mkdir()
    parts = ["a", "-" * 30, "-" * 60, "ü" * 130, "x" * 240]
    roots = [f"/{root}{more}" for root in parts for more in ("", "/a", "a", "-a", "@a")]
    made = {
        root: {default_ledger("backup", root, f"/{within}") for within in parts} for root in roots
    }
    for files in made.values():
        for file in files:
            for suffix in ("", "-journal", ".damaged-1"):
                Path(file + suffix).touch()
    assert len(set().union(*made.values())) == len(roots) * len(parts)
    for root in roots:
        assert set(ledgers("backup", root)) == made[root]
        assert ledgers("scrub", root) == []


def test_a_task_on_a_long_directory(tree: Path) -> None:
    long = tree / ("-" * 200) / ("long" * 50)
    long.mkdir(parents=True)
    (long / "file").write_text("x")
    environment = {"XDG_STATE_HOME": str(tree.parent / "state"), "HOME": "/nowhere"}
    for new in (1, 0):
        done = subprocess.run(
            [sys.executable, "-c", AS_USER, "run", "scrub", long, "--uninformed", "--json"],
            capture_output=True, text=True, check=False, env={**os.environ, **environment},
        )  # fmt: skip
        assert done.returncode == Exit.OK, done.stderr
        report = last_object(done.stdout)["report"]
        verified = report["verified_on_disk"] + report["verified_in_memory"]
        assert (report["new"], verified) == (new, 1 - new)
    assert len(list((tree.parent / "state/duet").glob("*.ledger"))) == 1


#: The command, for which the superuser's own place for ledgers is none.
AS_USER = "import os, sys\nos.geteuid = lambda: 4711\nfrom pyduet.cli import main\nsys.exit(main())"


def test_without_a_home(as_user: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made below the working directory, by whatever name."""

    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(ValueError, match=r"user 4711 has no passwd entry; name a file .*--state"):
        default_ledger("scrub", "/srv")
    monkeypatch.setenv("HOME", "relative")
    with pytest.raises(ValueError, match="there is no home directory"):
        default_ledger("scrub", "/srv")


def test_an_empty_home_is_none(as_user: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    bert = pwd.struct_passwd(("bert", "", 4711, 4711, "", "/home/bert", ""))
    monkeypatch.setattr(pwd, "getpwuid", {4711: bert}.__getitem__)
    assert default_ledger("scrub", "/srv") == "/home/bert/.local/state/duet/scrub-srv.ledger"


@pytest.mark.parametrize("words", [["scrub"], ["backup", "--list"]], ids=lambda words: words[-1])
def test_a_place_that_cannot_be_used(words: list[str], tree: Path) -> None:
    """Which also root cannot make, as below a file system that is read-only."""
    done = subprocess.run(
        [sys.executable, "-c", AS_USER, "run", *words, str(tree), "--uninformed"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "HOME": "/dev/null", "XDG_STATE_HOME": ""},
    )  # fmt: skip
    assert done.returncode == Exit.FAILED
    [line] = done.stderr.splitlines()
    assert line.startswith("duet: /dev/null/.local/state/duet")
    assert ("Not a directory" in line, "--state" in line) == (True, True)
