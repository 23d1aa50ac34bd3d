# SPDX-License-Identifier: MIT
"""Standard streams that are closed, full, slow, or know few letters."""

import fcntl
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from asleep import wait_until_asleep

from pyduet.cli import Exit

TOP = Path(__file__).parents[2]
RECORDING = TOP / "tests/data/first_light.jsonl"

#: Commands that print, each in a way of its own.
PRINT = [
    "--version", "--help", "help run", "run scrub --help", "completion fish", "metrics", "doctor",
    "doctor --json", "debug -c mask", "debug --json -c mask",
    f"watch --replay {RECORDING}", f"watch --json --replay {RECORDING}",
    f"watch --by-file --replay {RECORDING}", f"top --interval 0 --replay {RECORDING}",
    f"top --json --interval 0 --replay {RECORDING}",
    "run scrub TREE --uninformed --json --state LEDGER",
    "run scrub TREE --uninformed --dry-run --state LEDGER",
    "run scrub TREE --uninformed --dry-run --json --state LEDGER",
    *(
        f"run rsync TREE LEDGER.copy --uninformed --quiet --state LEDGER -- {options}"
        for options in ("-v", "--stats", "--list-only")  # in a batch, at the end, and alone
    ),
]  # fmt: skip


def duet(
    command: str, tree: Path, *, stdout: int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command by a shell, which redirects its streams; in what is shown is the rest."""
    command = command.replace("TREE", str(tree)).replace("LEDGER", str(tree.parent / "ledger"))
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pyduet {command}"],
        stdout=stdout, stderr=subprocess.PIPE, text=True, errors="surrogateescape", check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("command", PRINT)
@pytest.mark.parametrize(
    ("to", "why"), [(">&-", "it is closed"), (">/dev/full", "No space left on device")]
)
def test_output_that_cannot_be_written(command: str, to: str, why: str, tree: Path) -> None:
    done = duet(f"{command} {to}", tree)
    words = f"duet: cannot write to standard output: {why}\n"
    assert (done.returncode, done.stderr) == (Exit.FAILED, words)


@pytest.mark.parametrize("command", PRINT)
def test_output_that_nobody_reads(command: str, tree: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = duet(command, tree, stdout=writes)
    os.close(writes)
    assert (done.returncode, done.stderr) == (Exit.BROKEN_PIPE, "")


@pytest.mark.parametrize("command", ["status", "start", "run scrub NOWHERE --uninformed"])
@pytest.mark.parametrize("to", [">&-", ">/dev/full"])
def test_what_prints_nothing_does_not_mind(command: str, to: str, tree: Path) -> None:
    """What is wrong is another thing."""
    done = duet(f"{command} --device /nowhere {to}", tree)
    assert done.returncode in (Exit.NOT_LOADED, Exit.BAD_PATH)
    assert done.stderr.count("\n") == 1
    assert "standard output" not in done.stderr


@pytest.mark.parametrize("streams", ["", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_work_is_done_whatever_the_streams_are(streams: str, tree: Path) -> None:
    """And nothing that is said gets into a file that was opened in the place of a stream."""
    archive = tree.parent / "archive.tar"
    done = duet(f"run backup TREE {archive} --device /nowhere --state LEDGER {streams}", tree)
    assert (done.returncode, done.stdout) == (Exit.OK, "")
    assert ("without Duet" in done.stderr) == ("2>" not in streams)
    with tarfile.open(archive) as content:
        names = {os.path.basename(name) for name in content.getnames()}
    assert {f"file{number}" for number in range(3)} <= names
    with (tree.parent / "ledger").open("rb") as ledger:
        assert ledger.read(15) == b"SQLite format 3"


def test_a_standard_error_that_is_closed_says_it_by_the_exit_code(tree: Path) -> None:
    for streams in ("2>&-", ">&- 2>&-"):
        done = duet(f"status --device /nowhere {streams}", tree)
        assert (done.returncode, done.stdout, done.stderr) == (Exit.NOT_LOADED, "", "")


def test_output_that_somebody_made_non_blocking() -> None:
    """Of a pipe that is full one waits, as everywhere, and loses nothing."""
    program = "from pyduet.cli import streams; streams.take(); print('0123456789' * 50_000)"
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETFL, os.O_NONBLOCK)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=writes, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writes)
        wait_until_asleep(process.pid)
        with open(reads) as output:
            assert output.read() == "0123456789" * 50_000 + "\n"
        assert process.stderr
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 0


@pytest.mark.parametrize("options", ["--lines", "--by-file", "--json"])
@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_names_that_the_locale_does_not_have(
    options: str, locale: dict[str, str], tmp_path: Path
) -> None:
    recording = tmp_path / "recording"
    text = RECORDING.read_text()
    assert "novels" in text
    recording.write_text(text.replace("novels", "\N{WHITE SMILING FACE}\N{SNOWMAN}"))
    done = duet(f"watch --replay {recording} {options}", tmp_path, **locale)
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    assert "\\u263a\\u2603/5.txt" in done.stdout


def test_names_in_messages_stay_on_one_line(tmp_path: Path) -> None:
    hostile = tmp_path / "a\nb\x1b[2J"
    done = subprocess.run(
        [sys.executable, "-m", "pyduet", "run", "scrub", hostile],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == Exit.BAD_PATH
    assert done.stderr == f"duet: {tmp_path}/a\\nb\\x1b[2J: No such file or directory\n"


def test_the_file_of_metrics_is_for_its_reader(tmp_path: Path) -> None:
    """Who is another user, as node_exporter is; and it is named as it was wanted."""
    file = tmp_path / "duet.prom"
    done = duet(f"metrics --device /nowhere --output {file}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.OK, "", "")
    assert [path.name for path in tmp_path.iterdir()] == ["duet.prom"]
    before = file.stat()
    program = f"umask 077; exec {sys.executable} -m pyduet metrics --device /nowhere"
    subprocess.run(["sh", "-c", f"{program} --output {file}"], check=True)
    assert file.stat().st_ino != before.st_ino
    assert file.stat().st_mode & 0o777 == 0o644
    failed = duet(f"metrics --output {tmp_path}/none/duet.prom", tmp_path)
    words = f"duet: {tmp_path}/none: No such file or directory\n"
    assert (failed.returncode, failed.stderr) == (Exit.BAD_PATH, words)
    (tmp_path / "directory").mkdir()
    failed = duet(f"metrics --output {tmp_path}/directory", tmp_path)
    assert re.fullmatch(rf"duet: {tmp_path}/directory: .*\n", failed.stderr)
    assert {path.name for path in tmp_path.iterdir()} == {"duet.prom", "directory"}


def test_json_keeps_the_bytes_of_a_name(tree: Path) -> None:
    name = os.fsdecode(b"no\xffutf8")
    (tree / name).write_text("x")
    done = duet("run scrub TREE --uninformed --dry-run --json --state LEDGER", tree, LC_ALL="C")
    paths = {json.loads(line)["path"] for line in done.stdout.splitlines()}
    assert name in paths
