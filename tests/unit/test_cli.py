# SPDX-License-Identifier: GPL-2.0-only
"""The duet command as a process, on a machine without Duet."""

import subprocess
import sys
from pathlib import Path

import pytest

from pyduet import __version__


def duet(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyduet", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "command",
    [["status"], ["start"], ["stop"], ["list"], ["watch", "/"], ["status", "--json"]],
)
def test_not_loaded(command: list[str], tmp_path: Path) -> None:
    done = duet("--device", tmp_path / "duet", *command)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr == f"duet: {tmp_path}/duet does not exist; load it: modprobe duet\n"


def test_something_else_than_duet() -> None:
    done = duet("--device", "/dev/null", "status")
    assert done.returncode == 1
    assert done.stderr.startswith("duet: cannot ask whether Duet is on: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["nonsense"], "invalid choice"),
        (["watch"], "PATH"),
        (["watch", "/", "--mask", "cached"], "'cached' is none of added, removed"),
        (["watch", "/", "--mask", ""], "is none of"),
        (["watch", "/", "--mask", "exists,added"], "exists excludes"),
        (["watch", "/", "--mask", "modified,flushed"], "modified excludes"),
        (["watch", "/", "--count", "0"], "below 1"),
        (["watch", "/", "--count", "x"], "invalid whole number value: 'x'"),
        (["watch", "/", "--timeout", "-1"], "not within"),
        (["watch", "/", "--timeout", "nan"], "not within"),
        (["watch", "/", "--timeout", "x"], "invalid number of seconds value"),
        (["start", "-n", "0"], "not within 1 to 255"),
        (["start", "-n", "256"], "not within 1 to 255"),
        (["stop", "now"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str) -> None:
    done = duet(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr


def test_version() -> None:
    done = duet("--version")
    assert (done.returncode, done.stdout) == (0, f"duet {__version__}\n")


def test_help_lists_every_exit_code() -> None:
    done = duet("--help")
    assert done.returncode == 0
    for code in ("0 done", "1 failed", "2 wrong", "3 the", "4 not", "5 Duet", "130 ended"):
        assert code in " ".join(done.stdout.split())


def test_the_installed_command() -> None:
    command = Path(sys.executable).with_name("duet")
    if not command.exists():
        pytest.skip("pyduet is not installed next to this Python")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"duet {__version__}\n")


def test_main_survives_a_reader_that_went_away() -> None:
    """A command that prints for ever, into a pipe that is closed after a line."""
    program = (
        "import itertools, pyduet.cli as cli\n"
        "def status(options):\n"
        "    for line in itertools.count(): print(line)\n"
        "cli.commands.status = status\n"
        "raise SystemExit(cli.main(['status']))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


def test_ctrl_c_is_no_traceback() -> None:
    program = (
        "import os, signal, time, pyduet.cli as cli\n"
        "def status(options):\n"
        "    os.kill(os.getpid(), signal.SIGINT); time.sleep(60)\n"
        "cli.commands.status = status\n"
        "raise SystemExit(cli.main(['status']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")
