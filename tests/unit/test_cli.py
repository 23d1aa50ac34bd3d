# SPDX-License-Identifier: MIT
"""The duet command as a process, on a machine without Duet, and on a real recording."""

import argparse
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import schema
from asleep import wait_until_asleep
from pseudoterminal import terminal

from pyduet import __version__
from pyduet._driver import abi
from pyduet._text.names import printable
from pyduet._text.numbers import age, size
from pyduet.cli import Exit, parser
from pyduet.cli.arguments import size as size_of
from pyduet.cli.text import _end_of, say, warn

TOP = Path(__file__).parents[2]
RECORDING = TOP / "tests/data/first_light.jsonl"


def duet(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyduet", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def in_terminal(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    """Run the command in a terminal of 24 lines; return its status and what it wrote."""
    pid, terminal = pty.fork()
    if not pid:
        os.environ.update({"TERM": "xterm-256color", "LINES": "24", "COLUMNS": "80", **environment})
        command = [sys.executable, "-m", "pyduet", *map(str, arguments)]
        os.execv(sys.executable, command)  # noqa: S606 -- no shell is meant
    written = b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not data:
            break
        written += data
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


@pytest.mark.parametrize(
    "command",
    [
        ["status"], ["start"], ["stop"], ["list"], ["watch", "/"], ["top", "/"], ["cached", "/"],
        ["status", "--json"], ["cached", "/", "--json"], ["set", "--limit", "1M"],
    ],
)  # fmt: skip
def test_not_loaded(command: list[str], tmp_path: Path) -> None:
    done = duet("--device", tmp_path / "duet", *command)
    assert done.returncode == Exit.NOT_LOADED
    assert done.stdout == ""
    assert done.stderr == f"duet: {tmp_path}/duet does not exist; load it: modprobe duet\n"


def test_metrics_say_that_it_is_not_loaded(tmp_path: Path) -> None:
    done = duet("--device", tmp_path / "duet", "metrics")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "duet_loaded 0.0"
    file = tmp_path / "duet.prom"
    assert duet("--device", tmp_path / "duet", "metrics", "--output", file).stdout == ""
    assert file.read_text() == done.stdout
    failed = duet("metrics", "--output", tmp_path / "none/duet.prom")
    assert failed.returncode == Exit.BAD_PATH
    assert failed.stderr.count("\n") == 1
    assert str(tmp_path / "none") in failed.stderr


def test_the_screen_needs_a_terminal() -> None:
    done = duet("tui")
    assert (done.returncode, done.stdout) == (Exit.FAILED, "")
    assert done.stderr.startswith("duet: tui needs a terminal; ")
    assert done.stderr.count("\n") == 1


def test_the_screen_of_what_is_no_recording(tmp_path: Path) -> None:
    """It says so before it takes the terminal."""
    file = tmp_path / "file"
    file.write_text("no recording\n")
    for path, code in ((file, Exit.FAILED), (tmp_path / "none", Exit.BAD_PATH)):
        status, shown = in_terminal("tui", "--replay", path)
        assert status == code
        assert shown.startswith(f"duet: {path}")
        assert shown.count("\n") == 1


def test_the_screen_without_textual() -> None:
    """What is missing, and how it is installed."""
    program = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'textual' else find(name)\n"
        "from pyduet.cli import main\n"
        "sys.exit(main(['tui']))"
    )
    with terminal(sys.executable, "-c", program) as there:
        assert "duet: tui needs textual" in there.until("the Debian package duet-tui")
        assert there.wait() == Exit.FAILED


def test_something_else_than_duet() -> None:
    done = duet("--device", "/dev/null", "status")
    assert done.returncode == Exit.FAILED
    assert done.stderr.startswith("duet: cannot ask how Duet is set: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["nonsense"], "invalid choice"),
        (["watch"], "give either a PATH or --replay"),
        (["watch", "/", "--replay", "x"], "give either a PATH or --replay"),
        (["watch", "/", "--mask", "cached"], "'cached' is none of added, removed"),
        (["watch", "/", "--mask", ""], "is none of"),
        (["watch", "/", "--mask", "exists,added"], "exists excludes"),
        (["watch", "/", "--mask", "modified,flushed"], "modified excludes"),
        (["watch", "/", "--state", "--events"], "not allowed with"),
        (["watch", "/", "--count", "0"], "below 1"),
        (["watch", "/", "--count", "x"], "invalid whole number value: 'x'"),
        (["watch", "/", "--timeout", "-1"], "not within"),
        (["watch", "/", "--timeout", "nan"], "not within"),
        (["watch", "/", "--timeout", "x"], "invalid number of seconds value"),
        (["watch", "/", "--name", "n" * 255], "the name has 255 bytes; 254 are possible"),
        (["top", "/", "--name", "é" * 128], "the name has 256 bytes"),
        (["cached"], "PATH"),
        (["cached", "/", "--rows", "0"], "below 1"),
        (["start", "-n", "0"], "not within 1 to 255"),
        (["start", "-n", "256"], "not within 1 to 255"),
        (["set"], "nothing to set: give --max-tasks, --limit or --task-limit"),
        (["set", "--max-tasks", "256"], "not within 1 to 255"),
        (["set", "--limit", "-1"], "'-1' is no size"),
        (["set", "--limit", "much"], "'much' is no size"),
        (["set", "--task-limit", "8388608T"], "more than there can be"),
        (["completion", "csh"], "invalid choice"),
        (["stop", "now"], "unrecognized arguments"),
        (["help", "nonsense"], "invalid choice"),
        (["help", "run", "nonsense"], "invalid choice"),
        (["run", "scrub", "/", "--rate", "5Q"], "'5Q' is no size: give a number of bytes, or as"),
        (["run", "scrub", "/", "--window", "x"], "'x' is no size: give a number of bytes, or as"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str) -> None:
    done = duet(*arguments)
    assert done.returncode == Exit.USAGE
    assert done.stdout == ""
    assert words in done.stderr


@pytest.mark.parametrize("option", ["-V", "--version"])
def test_version(option: str) -> None:
    done = duet(option)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"duet {__version__}\n", "")


def test_options_before_and_after_a_command(tmp_path: Path) -> None:
    words = f"duet: {tmp_path}/duet does not exist; load it: modprobe duet\n"
    for arguments in (
        ["--device", tmp_path / "duet", "status"],
        ["status", "--device", tmp_path / "duet"],
        ["--device", "/dev/null", "status", "--device", tmp_path / "duet", "-q"],
    ):
        done = duet(*arguments)
        assert (done.returncode, done.stderr) == (Exit.NOT_LOADED, words)


def test_help() -> None:
    """The same as the command's own; and 0 has no driver's default where there is none."""
    for words in (["status"], ["run"], ["run", "scrub"], []):
        done = duet("help", *words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == duet(*words, "--help").stdout
    assert "driver's default" in duet("help", "set").stdout
    assert "driver's default" not in duet("help", "run", "scrub").stdout


def test_help_lists_every_exit_code() -> None:
    done = duet("--help")
    assert done.returncode == 0
    for code in Exit:
        assert f"{code:d} {code.meaning}" in " ".join(done.stdout.split())


def test_the_document_has_the_same_exit_codes() -> None:
    table = re.findall(
        r"^\| (\d+) \| (.*) \|$", (TOP / "docs/command.md").read_text(), re.MULTILINE
    )
    assert table == [(str(code.value), code.meaning) for code in Exit]


def test_the_document_names_every_command() -> None:
    [action] = [one for one in parser()._actions if one.dest == "command" or one.choices]
    text = (TOP / "docs/command.md").read_text()
    assert action.choices
    for name in action.choices:
        assert f"`duet {name}" in text, name


def test_the_installed_command() -> None:
    command = Path(sys.executable).with_name("duet")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"duet {__version__}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    done = duet("completion", shell)
    assert done.returncode == 0
    assert "duet" in done.stdout


def test_completing_in_bash() -> None:
    """What the script asks for: the commands that begin so."""
    program = (
        "complete -p duet; COMP_WORDS=(duet s); COMP_CWORD=1; COMP_LINE='duet s'; COMP_POINT=6; "
    )
    program += "COMP_TYPE=9; _python_argcomplete duet; printf '%s\\n' \"${COMPREPLY[@]}\""
    script = duet("completion", "bash").stdout
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{program}"],
        capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert {"status", "start", "stop", "set"} <= set(done.stdout.split())
    assert "watch" not in done.stdout.split()


def test_watch_as_json() -> None:
    done = duet("watch", "--replay", RECORDING, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        schema.check("item", line)
    assert [
        (Path(line["path"]).name, line["index"], line["pages"], line["state"]) for line in lines
    ][-2:] == [("3.txt", 0, 10, ["removed"]), ("2.txt", 5, 10, ["added", "dirty"])]


def test_watch_as_lines() -> None:
    done = duet("watch", "--replay", RECORDING, "--count", "3")
    assert [line.split()[1:] for line in done.stdout.splitlines()] == [
        ["added", "0", "/mnt/duet/library/novels/0.txt"],
        ["added", "0-1", "/mnt/duet/library/novels/1.txt"],
        ["added", "0-4", "/mnt/duet/library/novels/2.txt"],
    ]


def test_watch_by_file() -> None:
    done = duet("watch", "--replay", RECORDING, "--by-file", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        schema.check("by_file", row)
    one = next(row for row in rows if row["path"].endswith("maps/5.txt"))
    assert {key: one[key] for key in ("cached", "dirty", "added", "dirtied", "flushed")} == {
        "cached": 2, "dirty": 0, "added": 2, "dirtied": 2, "flushed": 2,
    }  # fmt: skip
    text = duet("watch", "--replay", RECORDING, "--by-file").stdout.splitlines()
    assert text[0].split() == ["cached", "dirty", "added", "removed", "dirtied", "flushed", "file"]
    assert len(text) == len(rows) + 1


def test_watch_in_a_terminal() -> None:
    code, text = in_terminal("watch", "--replay", RECORDING)
    assert code == 0
    assert "/mnt/duet/library/novels/5.txt" in text
    assert "61 pages" in text or "cached" in text
    assert "\x1b[1m" in text


def test_no_color() -> None:
    """Nothing but where the cursor goes, and weight."""
    _, text = in_terminal("watch", "--replay", RECORDING, "--by-file", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][;m]", text)


def test_lines_in_a_terminal() -> None:
    code, text = in_terminal("watch", "--replay", RECORDING, "--lines", "--count", "2")
    assert code == 0
    assert "\x1b" not in text
    assert len(text.splitlines()) == 2


def test_top() -> None:
    done = duet("top", "--replay", RECORDING, "--json", "--interval", "60", "--rows", "2")
    [line] = [json.loads(line) for line in done.stdout.splitlines()]
    schema.check("top", line)
    assert line["cached"] == 63
    assert [Path(one["path"]).name for one in line["most_cached"]] == ["5.txt", "4.txt"]
    assert [one["cached"] for one in line["most_cached"]] == [26, 17]
    text = duet("top", "--replay", RECORDING, "--interval", "60").stdout
    assert "63 pages (252.0 KiB) of 8 files cached, 10 dirty" in text


def test_top_in_a_terminal() -> None:
    code, text = in_terminal("top", "--replay", RECORDING, "--interval", "0.5")
    assert code == 0
    assert "most cached" in text
    assert "most changing" in text


def rows_shown(text: str) -> list[str]:
    """The lines of the last picture, without what steers the terminal."""
    last = text.split("\x1b[2K")[-1]
    return [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip() for line in last.splitlines()]


@pytest.mark.parametrize("command", [["top", "--interval", "0.5"], ["watch", "--by-file"]])
@pytest.mark.parametrize("columns", [40, 24])
def test_a_narrow_terminal(command: list[str], columns: int, tmp_path: Path) -> None:
    """Files are told apart by the ends of their paths, and what matters less gives way."""
    recording = tmp_path / "recording"
    recording.write_text(RECORDING.read_text().replace("/mnt/duet/", "/mnt/duet/some/where/"))
    code, text = in_terminal(
        *command, "--replay", recording, COLUMNS=str(columns), LINES="40", NO_COLOR="1"
    )
    assert code == Exit.OK
    rows = rows_shown(text)
    assert max(map(len, rows)) <= columns
    files = [row.split("…")[1] for row in rows if "…" in row]
    by_end = [file for file in files if file.endswith(".txt")]
    assert len(by_end) >= 8
    # Of those of a list, no two are the same.
    assert len(set(by_end[:7])) == 7
    assert any(file.endswith("novels/5.txt") for file in by_end)
    assert heads_of(rows) >= {"cached"}
    assert not heads_of(rows) & {"dirty", "flushed"}
    # What there is room for is there.
    _, wide = in_terminal(*command, "--replay", recording, COLUMNS="100", LINES="40", NO_COLOR="1")
    assert "…" not in wide
    assert heads_of(rows_shown(wide)) >= {"dirty", "flushed"}


def heads_of(rows: list[str]) -> set[str]:
    """The words of the lines that are heads of columns."""
    known = set("cached dirty added removed dirtied flushed most changing file".split())
    return {word for row in rows for word in row.split() if set(row.split()) <= known}


def test_cells_that_lose_their_beginning() -> None:
    """By the columns that letters take; a wide one is not cut in two."""
    assert _end_of("/srv/file", 9) == "/srv/file"
    assert _end_of("/srv/file", 6) == "…/file"
    assert _end_of("/srv/file", 1) == "…"
    assert _end_of("日本語", 6) == "日本語"
    assert _end_of("日本語", 5) == "…本語"
    assert _end_of("日本語", 4) == "…語"
    assert _end_of("e\u0301" * 10, 5) == "…" + "e\u0301" * 4


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), ("", "line 1"), ("{}", "lacks 'duet'")]
)
def test_what_is_no_recording(content: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "recording"
    if content is not None:
        path.write_text(content)
    done = duet("watch", "--replay", path)
    assert done.returncode == (Exit.FAILED if content is not None else Exit.BAD_PATH)
    assert done.stderr.startswith(f"duet: {path}: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("4096", 4096),
        ("64M", 64 << 20),
        ("1.5k", 1536),
        ("2GiB", 2 << 30),
        ("1 t", 1 << 40),
    ],
)
def test_sizes(text: str, number: int) -> None:
    assert size_of(text) == number


def test_units() -> None:
    assert [size(n) for n in (0, 1023, 1536, 1 << 20, 5 << 40)] == [
        "0 bytes", "1,023 bytes", "1.5 KiB", "1.0 MiB", "5.0 TiB",
    ]  # fmt: skip
    assert [age(n) for n in (0, 59.9, 61, 3600, 90000)] == ["0s", "59s", "1m1s", "1h0m", "1d1h"]
    assert printable("a\x1b[2Jb\nü\udcff") == "a\\x1b[2Jb\\nü\\udcff"


def test_words_of_names_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x\x1b]0;title\x07\nduet: all is well"
    say(argparse.Namespace(quiet=False), f"left out: {name}")
    warn(name)
    shown = "x\\x1b]0;title\\x07\\nduet: all is well\n"
    assert capsys.readouterr().err == f"left out: {shown}duet: {shown}"


@pytest.mark.parametrize("command", [["top", "--interval", "0.5"], ["watch", "--by-file"]])
def test_the_path_of_a_recording_steers_no_terminal(command: list[str], tmp_path: Path) -> None:
    header, rest = RECORDING.read_text().split("\n", 1)
    recording = tmp_path / "recording"
    steering = {**json.loads(header), "path": "/x\x1b]0;title\x07\nall is well"}
    recording.write_text(f"{json.dumps(steering)}\n{rest}")
    shown = "/x\\x1b]0;title\\x07\\nall is well: "
    code, text = in_terminal(*command, "--replay", recording, COLUMNS="100", NO_COLOR="1")
    assert (code, shown in text, "\x1b]0" in text) == (Exit.OK, True, False)
    if command[0] == "top":
        assert duet(*command, "--replay", recording).stdout.startswith(shown)


def test_no_command_imports_what_it_does_not_use() -> None:
    """The command starts as fast as its arguments allow."""
    program = (
        "import sys, pyduet.cli\n"
        "try: pyduet.cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    tops = {name.split(".")[0] for name in done.stdout.split()}
    heavy = {"rich", "argcomplete", "prometheus_client", "numpy", "asyncio", "textual"}
    assert not heavy & tops


def test_a_reader_that_went_away() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pyduet", "watch", "--replay", RECORDING],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == Exit.BROKEN_PIPE


@pytest.mark.parametrize("options", [[], ["--by-file"], ["--json"]])
def test_ctrl_c_is_no_traceback(options: list[str], tmp_path: Path) -> None:
    """A recording that would go on for hours; what was added up is still printed."""
    path = tmp_path / "long"
    # All but the last at once: whoever sleeps has told the rest.
    lines = re.sub(r'^{"t":[0-9.]+', '{"t":0', RECORDING.read_text(), flags=re.M).splitlines()
    path.write_text("\n".join([*lines, '{"t":9999,"items":[[1,1,1,0,1,["added"]]]}']) + "\n")
    with subprocess.Popen(
        [sys.executable, "-m", "pyduet", "watch", "--replay", path, *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        if options != ["--by-file"]:
            assert process.stdout
            process.stdout.readline()
        wait_until_asleep(process.pid)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (Exit.INTERRUPTED, "")
    if options == ["--by-file"]:
        assert "novels/5.txt" in out


def test_the_most_tasks_are_the_interfaces() -> None:
    assert duet("start", "-n", str(abi.MAX_TASKS), "--help").returncode == 0


def test_a_task_shows_how_far_it_is(tmp_path: Path) -> None:
    """A bar: the step, what is done of what, how fast, how long still, and what was saved."""
    root = tmp_path / "root"
    root.mkdir()
    for number in range(6):
        with (root / f"file{number}").open("wb") as file:
            file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())
            if number % 2:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    state = ["--state", tmp_path / "state", "--uninformed", "--no-idle", "--no-give-way"]
    code, text = in_terminal(
        "run", "scrub", root, "--rate", "1M", *state, COLUMNS="120", NO_COLOR="1"
    )
    assert code == Exit.OK
    # What it does not know yet it shows as ?, as -:--:--, or not at all.
    bar = r"scrub: (\w+) [━╸╺ ]+ (\S+)/6.0 MiB (?:\?|\S+ [KMG]iB/s) +(\S+) (?:(\S+) MiB saved)?"
    steps, done, left, saved = zip(*re.findall(bar, text), strict=True)
    assert {"working", "done"} <= set(steps)
    # The files lie in any order; each second brings one that was not in memory.
    assert {"1.0", "2.0", "3.0", "4.0", "5.0"} & set(done)
    assert {f"0:00:0{seconds}" for seconds in range(1, 6)} & set(left)
    for numbers in (done, saved):
        assert list(numbers) == sorted(numbers)
    assert (done[-1], left[-1]) == ("6.0", "0:00:00")
    assert saved[-1] in ("1.0", "2.0", "3.0")  # the kernel may take some away meanwhile
    assert "new: 6" in text
