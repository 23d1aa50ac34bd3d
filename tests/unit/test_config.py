# SPDX-License-Identifier: MIT
"""The configuration: what it may be, what is said of what it may not, and duet setup --check."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import schema

from pyduet._driver import abi
from pyduet._text.numbers import bytes_of
from pyduet.admin.config import Config, ConfigError, read
from pyduet.cli import Exit

TOP = Path(__file__).parents[2]
EXAMPLE = TOP / "udev/duet.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "duet.toml"


def setup(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyduet", *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def drop_in(file: Path, name: str, text: str) -> Path:
    path = Path(f"{file}.d", name)
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_every_setting(file: Path) -> None:
    file.write_text('[duet]\non = false\nmax_tasks = 255\nlimit = "1.5G"\ntask_limit = 4096\n')
    assert read(file) == Config(
        on=False, max_tasks=255, limit=3 << 29, task_limit=4096, files=(str(file),)
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "[duet]\n"])
def test_what_is_not_set_is_as_without_a_file(file: Path, text: str) -> None:
    file.write_text(text)
    assert read(file) == Config(
        on=True, max_tasks=abi.DEFAULT_TASKS, limit=0, task_limit=0, files=(str(file),)
    )


def test_drop_ins(file: Path) -> None:
    """In the order of their names, each for what it sets; others are none."""
    file.write_text('[duet]\nmax_tasks = 1\nlimit = "1M"\ntask_limit = "1K"\n')
    last = drop_in(file, "90-last.toml", "[duet]\nmax_tasks = 3\n")
    first = drop_in(file, "10-first.toml", '[duet]\nmax_tasks = 2\nlimit = "2M"\n')
    for name in (".95-hidden.toml", "95-old.toml~", "95.toml.dpkg-old"):
        drop_in(file, name, "no TOML")
    found = read(file)
    assert found.files == (str(file), str(first), str(last))
    assert (found.max_tasks, found.limit, found.task_limit) == (3, 2 << 20, 1 << 10)


def test_a_mistake_in_a_drop_in_is_its_own(file: Path) -> None:
    file.write_text("[duet]\n")
    wrong = drop_in(file, "1.toml", "[duet]\nmax_tasks = 0\n")
    with pytest.raises(ConfigError, match=r"max_tasks = 0 is out of range") as error:
        read(file)
    assert error.value.file == str(wrong)
    assert str(error.value).startswith(f"{wrong}: ")


#: What is in the file; what is said of it, after the file's name.
MISTAKES = [
    ("[dute]\non = true\n", "[dute] is an unknown section; use [duet]"),
    ("on = true\n", "on = true is in no section; see [duet]"),
    ("duet = 3\n", "duet = 3 is in no section; see [duet]"),
    (
        "[duet]\nmax_task = 9\n",
        "[duet] max_task = 9 is an unknown key; use on, max_tasks, limit, task_limit",
    ),
    ('[duet]\non = "yes"\n', '[duet] on = "yes" is neither on nor off; give true or false'),
    ("[duet]\non = 1\n", "[duet] on = 1 is neither on nor off; give true or false"),
    (
        "[duet]\nmax_tasks = 256\n",
        "[duet] max_tasks = 256 is out of range; give a whole number from 1 to 255",
    ),
    (
        "[duet]\nmax_tasks = true\n",
        "[duet] max_tasks = true is no whole number; give a whole number from 1 to 255",
    ),
    (
        "[duet]\nmax_tasks = 8.0\n",
        "[duet] max_tasks = 8.0 is no whole number; give a whole number from 1 to 255",
    ),
    *(
        (
            f"[duet]\n{key} = {value}\n",
            f"[duet] {key} = {value} is no size; give a number of bytes below 2^63, "
            'or as "64M", or 0 for the driver\'s default',
        )
        for key in ("limit", "task_limit")
        for value in ('"64X"', "-1", "1.5", "true", '""', '"8388608T"', str(1 << 63), "[1]")
    ),
]


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_a_mistake_is_one_line(file: Path, text: str, words: str) -> None:
    """The file, the key, the value and what to do."""
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read(file)
    assert str(error.value) == f"{file}: {words}"


@pytest.mark.parametrize(
    "content",
    [b"[duet\n", b"\xff\xfe", b"[duet]\non = true\non = true\n", b"a = " + b"[" * 100_000],
    ids=["syntax", "bytes", "twice", "deep"],
)
def test_no_toml(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"this is no TOML: .*; correct it there$"):
        read(file)


@pytest.mark.parametrize(
    "text",
    [
        f"[duet]\nlimit = 0x1{'0' * 9000}\n",
        f"[duet]\nmax_tasks = 0x1{'0' * 9000}\n",
        f'[duet]\nlimit = "{"9" * 9000}"\n',
        f'[duet]\n"{"k" * 9000}" = 1\n',
        f"[{'s' * 9000}]\n",
        '[duet]\n"a\\nb\\u001b" = "\\n"\n',
        "[duet]\non = 2026-11-27T00:00:00\n",
    ],
)
def test_strange_values_stay_on_a_short_line(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read(file)
    said = str(error.value).removeprefix(str(file))
    assert said.isprintable()
    assert len(said) < 250


def test_files_that_cannot_be_read(file: Path) -> None:
    """One that is asked for has to be there; the drop-ins are where it would be."""
    with pytest.raises(FileNotFoundError):
        read(file)
    assert read(file, needed=False) == Config()
    file.mkdir()
    with pytest.raises(IsADirectoryError):
        read(file)
    file.rmdir()
    file.touch()
    drop_in(file, "1.toml", "")
    Path(f"{file}.d/2.toml").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"2\.toml"):
        read(file, needed=False)


def test_the_example_is_the_defaults(file: Path) -> None:
    """As it is, and with every setting taken out of its comment."""
    assert read(EXAMPLE) == Config(files=(str(EXAMPLE),))
    lines = EXAMPLE.read_text().splitlines()
    file.write_text("\n".join(line.removeprefix("#") if " = " in line else line for line in lines))
    assert file.read_text() != EXAMPLE.read_text()
    assert read(file) == Config(files=(str(file),))
    for key in ("on", "max_tasks", "limit", "task_limit"):
        assert [line.split(" = ")[0] for line in lines].count(f"#{key}") == 1


def test_the_library_does_not_bring_it_in() -> None:
    program = (
        "import sys, pyduet; print('pyduet.admin.config' in sys.modules, 'tomllib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("9007199254740993", (1 << 53) + 1), (str((1 << 63) - 1), (1 << 63) - 1),
     ("64M", 64 << 20), ("1.5 GiB", 3 << 29), ("1tb", 1 << 40)],
)  # fmt: skip
def test_sizes(text: str, number: int) -> None:
    assert bytes_of(text) == number


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5000, "9" * 400 + ".5k", str(1 << 63)])
def test_more_than_there_can_be(text: str) -> None:
    with pytest.raises(ValueError, match="more than there can be"):
        bytes_of(text)


# The command, where it needs no Duet


def test_check(file: Path) -> None:
    file.write_text('[duet]\nmax_tasks = 1\nlimit = "64M"\n')
    done = setup("--device", "/nowhere", "setup", "--check", "--config", file)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "fine: on: 1 task at a time, 64.0 MiB for all of them, "
        f"the driver's default unread for each; by {file}\n"
    )
    done = setup("setup", "--check", "--json", "--config", file)
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    schema.check("setup", said)
    assert said == {
        "files": [str(file)],
        "settings": {"on": True, "max_tasks": 1, "limit": 64 << 20, "task_limit": 0},
        "applied": False,
        "left": [],
    }


@pytest.mark.parametrize("check", [["--check"], []])
def test_a_mistake_on_the_command_line(file: Path, check: list[str]) -> None:
    """It is found before anything is asked of Duet."""
    file.write_text("[duet]\nmax_tasks = 0\n")
    done = setup("--device", "/nowhere", "setup", *check, "--config", file)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert done.stderr == (
        f"duet: {file}: [duet] max_tasks = 0 is out of range; give a whole number from 1 to 255\n"
    )


def test_other_errors_of_the_command(file: Path) -> None:
    done = setup("setup", "--check", "--config", file)
    assert (done.returncode, done.stderr) == (
        Exit.BAD_PATH, f"duet: {file}: No such file or directory\n",
    )  # fmt: skip
    file.touch()
    done = setup("--device", f"{file}-device", "setup", "--config", file)
    assert (done.returncode, done.stdout) == (Exit.NOT_LOADED, "")
    assert done.stderr.count("\n") == 1


def test_a_file_that_may_not_be_read(file: Path) -> None:
    """Root may read everything, so as somebody else."""
    file.write_text("")
    file.chmod(0)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            if not os.geteuid():
                os.setgroups([])
                os.setuid(65534)
            read(file)
        except PermissionError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
