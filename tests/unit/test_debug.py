# SPDX-License-Identifier: MIT
"""The debug shell where there is no Duet: its lines, its help, scripts, completion, history."""

import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import schema
from pseudoterminal import Terminal, terminal

from pyduet.cli.exits import Exit
from pyduet.cli.shell.completion import complete
from pyduet.cli.shell.grammar import COMMANDS
from pyduet.cli.shell.lines import UsageError, escape, last_word, split
from pyduet.cli.shell.session import Session

NOWHERE = "/nowhere/duet"
NOT_LOADED = f"{NOWHERE} does not exist; load it: modprobe duet\n"
DEBUG = (sys.executable, "-m", "pyduet", "--device", NOWHERE, "debug")


def debug(*arguments: str | Path, script: str | bytes = "") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*DEBUG, *map(str, arguments)],
        input=script if isinstance(script, bytes) else script.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


# Lines


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        (" \t\n", []),
        ("# all of it", []),
        ("list", ["list"]),
        ("  list \n", ["list"]),
        ("set 3 'a b' \"c d\" e\\ f", ["set", "3", "a b", "c d", "e f"]),
        ("set 3 a#b #c 'd", ["set", "3", "a#b"]),
        ("set 3 '#a' \\#b", ["set", "3", "#a", "#b"]),
        ("list#", ["list#"]),
        ("register '' x", ["register", "", "x"]),
        ("a 'b'#c d", ["a", "b#c", "d"]),
        ("check 3 h\u00e9\udcff", ["check", "3", "h\u00e9\udcff"]),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert split(line) == words


@pytest.mark.parametrize("line", ["a 'b", 'a "b', "a b\\"])
def test_words_that_do_not_end(line: str) -> None:
    with pytest.raises(UsageError, match="close the quote"):
        split(line)


@pytest.mark.parametrize("word", ["a", "a b", "it's", '"', "a\\b", "#a", "a#b", "\t", "é"])
def test_a_word_can_be_typed(word: str) -> None:
    assert split(f"x {escape(word)} y") == ["x", word, "y"]
    assert last_word(f"x {escape(word)}") == (2, word)
    assert last_word(f"x {escape(word)} ")[1] == ""


# Help


def test_help_lists_each_command() -> None:
    done = debug("-c", "help")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(COMMANDS)
    wanted = (
        "status start stop list register deregister read items bitmap set reset check getpath "
        "table info hooks rescan mask help quit exit EOF"
    )
    assert set(wanted.split()) == set(COMMANDS)


def test_help_explains_each_command() -> None:
    lines = [word for name in COMMANDS for word in ("-c", f"help {name}")]
    done = debug("--json", *lines)
    assert (done.returncode, done.stderr) == (0, "")
    for name, line in zip(COMMANDS, done.stdout.splitlines(), strict=True):
        schema.check("debug", {"help": json.loads(line)})
        text = json.loads(line)["help"]
        command = COMMANDS[name]
        assert text.startswith(f"usage: {name}")
        assert command.parser.description in " ".join(text.split())
        assert all(option in text for option in command.options)
        assert f"{name} --help" not in text
        for asked in (f"{name} --help", f"{name} -h"):
            assert debug("-c", asked).stdout == text + "\n"


# Scripts


@pytest.mark.parametrize(
    "line",
    [
        "status", "start", "start 3", "stop", "list", "register /", "deregister 1", "read 1",
        "items 1", "bitmap 1", "set 1 7:8", "reset 1 7 8", "check 1 7:8", "getpath 1 7:8",
        "table", "table 0 7", "info", "rescan 1",
    ],
)  # fmt: skip
def test_not_loaded(line: str) -> None:
    done = debug("-c", line)
    assert (done.returncode, done.stdout, done.stderr) == (
        Exit.NOT_LOADED, "", f"duet: -c 1: {NOT_LOADED}"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense", "no command 'nonsense'"),
        ("help nonsense", "no command 'nonsense'"),
        ("List", "no command 'List'"),
        ("status now", "status: unrecognized arguments: now; see: help status"),
        ("start 0", "0 is not within 1 to 255"),
        ("start x", "'x' is no whole number"),
        ("register", "PATH"),
        ("register / cached", "'cached' is none of"),
        ("register / exists,added", "exists excludes"),
        ("register / 0xyz", "invalid mask value"),
        ("register / 0x40", "0x40 has bits that mean nothing"),
        ("register / 0x100000001", "0x100000001 has bits that mean nothing"),
        ("register / exists x y", "unrecognized"),
        ("register / --rang", "unrecognized"),
        ("deregister", "ID"),
        ("read -1", "see: help read"),
        ("read 0", "0 is below 1"),
        ("read 1 0", "0 is below 1"),
        ("items x", "invalid whole number value: 'x'"),
        ("set 1", "FILE"),
        ("table -1", "see: help table"),
        ("table 1 0", "before bucket 0"),
        (f"table {2**44}", "is not within 0 and"),
        (f"table 1 {2**64}", "is not within 0 and"),
        ("'", "close the quote"),
    ],
)
def test_wrong_lines(line: str, words: str) -> None:
    done = debug("-c", line)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert done.stderr.startswith("duet: -c 1: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_a_script_stops_at_the_first_error(tmp_path: Path) -> None:
    script = "mask\n\n# a comment\nlist  # another\nmask\n"
    (tmp_path / "script").write_text(script)
    for done, place in (
        (debug("--json", script=script), "line 4"),
        (debug("--json", "-", script=script), "line 4"),
        (debug("--json", tmp_path / "script"), f"{tmp_path}/script, line 4"),
    ):
        assert (done.returncode, done.stderr) == (3, f"duet: {place}: {NOT_LOADED}")
        assert len(done.stdout.splitlines()) == 1


def test_a_script_can_go_on() -> None:
    """The exit code is that of the first error, whatever comes after it."""
    done = debug("--keep-going", "--json", script="nonsense\nlist\nmask\nhelp\n")
    assert done.returncode == 2
    assert [line[:14] for line in done.stderr.splitlines()] == ["duet: line 1: ", "duet: line 2: "]
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("word", ["quit", "exit", "EOF"])
def test_a_script_can_leave(word: str) -> None:
    done = debug("--json", script=f"mask\n{word}\nnonsense\n")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)


def test_lines_are_answered_as_they_come() -> None:
    """A program can ask and wait for the answer."""
    with subprocess.Popen(
        [*DEBUG, "--json"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stdin
        assert process.stdout
        for _ in range(3):
            process.stdin.write("mask\n")
            answer = json.loads(process.stdout.readline())
            schema.check("debug", {"mask": answer})
            assert len(answer) == 6
        process.stdin.close()
        assert process.wait(60) == 0


def test_bytes_that_are_no_text() -> None:
    done = debug(script=b"help \xff\n")
    assert done.returncode == 2
    assert "no command" in done.stderr


def test_a_script_that_cannot_be_read(tmp_path: Path) -> None:
    for path, number in ((tmp_path, errno.EISDIR), (tmp_path / "none", errno.ENOENT)):
        done = debug(path)
        words = f"duet: {path}: {os.strerror(number)}\n"
        assert (done.returncode, done.stdout, done.stderr) == (Exit.BAD_PATH, "", words)


def test_a_reader_that_went_away() -> None:
    with subprocess.Popen(
        DEBUG, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stdin.write("mask\n" * 3)
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141


def test_a_file_or_lines_but_not_both(tmp_path: Path) -> None:
    assert debug(tmp_path / "script", "-c", "list").returncode == 2


def test_the_masks() -> None:
    done = debug("-c", "mask")
    for name, value in (("added", "0x0001"), ("exists", "0x0020")):
        assert f"{name:8}  {value}  " in done.stdout
    assert "exists excludes added and removed" in done.stdout


# Completion


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, with files in it."""
    for name in ("one", "a b", "it's", ".hidden", "two\n"):
        (tmp_path / name).touch()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/in").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "start", "words"),
    [
        ("", 0, [f"{name} " for name in sorted(COMMANDS) if name != "EOF"]),
        ("re", 0, ["read ", "register ", "rescan ", "reset "]),
        ("nonsense ", 9, []),
        ("help de", 5, ["deregister "]),
        ("help read ", 10, []),
        ("status ", 7, []),
        ("register ", 9, ["a\\ b ", "dir/", "it\\'s ", "one "]),
        ("register d", 9, ["dir/"]),
        ("register dir/", 9, ["dir/in "]),
        ("register ./o", 9, ["./one "]),
        ("register .h", 9, [".hidden "]),
        ("register a\\ ", 9, ["a\\ b "]),
        ("register none/", 9, []),
        ("register 'a", 9, []),
        ("register --", 9, ["--no-scan ", "--ranges ", "--snapshot "]),
        ("register --ranges d", 18, ["dir/"]),
        ("register dir e", 13, ["exists"]),
        ("register dir exists,mo", 13, ["exists,modified"]),
        ("register dir exists,e", 13, []),
        ("register dir exists ", 20, []),
        ("set 3 o", 6, ["one "]),
        ("set 3 one a", 10, ["a\\ b "]),
        ("list 'unclosed x", 15, []),
        ("deregister ", 11, []),  # there is no device to ask for the tasks
    ],
)
def test_completion(tree: Path, line: str, start: int, words: list[str]) -> None:
    assert complete(Session(NOWHERE), line) == (start, words)


# On a terminal


def talk(state: Path) -> "contextlib.AbstractContextManager[Terminal]":
    return terminal(*DEBUG, XDG_STATE_HOME=str(state))


PROMPT = "duet> "


def test_errors_and_ctrl_c_do_not_end_it(tmp_path: Path) -> None:
    with talk(tmp_path) as there:
        there.until(PROMPT)
        there.type("list\n")
        assert f"duet: {NOT_LOADED.rstrip()}" in there.until(PROMPT)
        there.type("nonsense\n")
        assert "no command 'nonsense'" in there.until(PROMPT)
        there.type("\n")
        assert there.until(PROMPT).strip() == ""
        there.type("quit")
        there.until("quit")  # readline has it
        there.interrupt()
        there.until(PROMPT)
        there.type("mask\n")
        assert "exists excludes" in there.until(PROMPT)
        there.type("\x04")
        assert there.wait() == 0


def test_tab_completes(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with talk(tmp_path) as there:
        there.until(PROMPT)
        there.type("he\tder\t\n")
        assert "help deregister" in there.until("usage: deregister ID")
        there.until(PROMPT)
        there.type(f"set 1 {tmp_path}/a\t7:8\n")
        assert f"{tmp_path}/a\\ file 7:8" in there.until("duet: ")
        there.until(PROMPT)
        there.type("quit\n")
        assert there.wait() == 0


def test_history(tmp_path: Path) -> None:
    """What was typed comes back in the next shell; nobody else may read it."""
    file = tmp_path / "state/duet/history"
    umask = os.umask(0)
    try:
        for turn in range(2):
            with talk(tmp_path / "state") as there:
                there.until(PROMPT)
                if turn:
                    there.type("\x10\x10\n")  # Ctrl-P: the line before the last
                    there.until("help mask")
                else:
                    there.type("help mask\n")
                there.until("usage: mask")
                there.until(PROMPT)
                there.type("quit\n")
                assert there.wait() == 0
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert file.read_text() == "help mask\nquit\n" * (turn + 1)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_history_that_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "duet").touch()
    with talk(tmp_path) as there:
        assert f"{tmp_path}/duet/history: " in there.until(PROMPT)
        there.type("quit\n")
        assert there.wait() == 0


def test_without_readline(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['readline'] = None\n"
        "from pyduet.cli import main\n"
        f"sys.exit(main(['--device', {NOWHERE!r}, 'debug']))"
    )
    with terminal(sys.executable, "-c", program, XDG_STATE_HOME=str(tmp_path)) as there:
        there.until(PROMPT)
        there.type("mask\n")
        assert "exists excludes" in there.until(PROMPT)
        there.type("quit\n")
        assert there.wait() == 0
    assert list(tmp_path.iterdir()) == []
