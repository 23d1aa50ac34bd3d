# SPDX-License-Identifier: MIT
"""The man pages: they are built, read well in 80 columns, and leave nothing out."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyduet.cli import Exit, parser

TOP = Path(__file__).parents[2]
PAGES = ["duet.4", "duet.8"]


def build(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, TOP / "docs/man/build.py", directory],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    done = build(directory)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return directory


def shown(page: Path) -> str:
    """The text of a page on a terminal of 80 columns."""
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-Kutf8", "-ww", "-P-c", "-P-b", "-P-u", "-rLL=80n", page],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout


def sections(page: Path) -> dict[str, str]:
    _, *rest = re.split(r"^(?=\S)", shown(page), flags=re.MULTILINE)
    named = (section.split("\n", 1) for section in rest)
    return dict(named)


def terms(text: str, indent: int = 7) -> set[str]:
    """The lines that stand so far to the right, without what follows in the line."""
    return {
        line.strip().split("  ")[0]
        for line in text.splitlines()
        if re.match(rf" {{{indent}}}\S", line)
    }


@pytest.mark.parametrize("page", PAGES)
def test_it_reads_well(page: str, pages: Path) -> None:
    text = shown(pages / page)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    # What is left of Markdown, and of HTML, was not understood.
    assert re.findall(r"``|\*\*|\]\(|\|--|<!--|\\_", text) == []
    assert {"NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "SEE ALSO"} <= sections(pages / page).keys()


def test_every_call_is_described(pages: Path) -> None:
    header = (TOP / "driver/uapi/duet.h").read_text()
    calls = set(re.findall(r"^#define\s+(DUET_IOC_\w+)\s+_IO", header, re.MULTILINE))
    assert len(calls) >= 14
    found = sections(pages / "duet.4")
    assert {term.split()[0] for term in terms(found["IOCTLS"])} >= calls
    assert set(re.findall(r"ioctl\(int fd, (\w+), struct ", found["SYNOPSIS"])) == calls
    assert '#include "duet.h"' in found["SYNOPSIS"]


def test_every_file_of_sysfs_is_described(pages: Path) -> None:
    abi = (TOP / "docs/ABI/testing/sysfs-class-misc-duet").read_text()
    what = re.findall(r"^What:\s+(\S+)$", abi, re.MULTILINE)
    assert len(what) > 30
    found = sections(pages / "duet.4")["SYSFS"]
    assert terms(found) == set(what)
    words = " ".join(found.split())
    for text in ("1 while Duet is switched on", "silent it could not be attached", "no task needs"):
        assert text in words


def test_every_error_is_described(pages: Path) -> None:
    interface = (TOP / "docs/interface.md").read_text()
    table = interface.split("\n## Errors\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) > 20
    wanted = {f"{error.strip()} ({where.strip()})".replace("`", "") for error, where in rows}
    assert terms(sections(pages / "duet.4")["ERRORS"]) == wanted


def all_commands(
    made: argparse.ArgumentParser, before: str
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands, and those within commands, by their names."""
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield f"{before}{name}", command
                yield from all_commands(command, f"{before}{name} ")


def test_every_command_and_its_options_are_described(pages: Path) -> None:
    found = sections(pages / "duet.8")["COMMANDS"]
    commands = dict(all_commands(parser(), ""))
    assert len(commands) > 14
    assert terms(found, 3) == {f"duet {name}" for name in commands}
    for name, command in commands.items():
        text = re.split(r"^   \S", found.split(f"   duet {name}\n", 1)[1], flags=re.MULTILINE)[0]
        options = {option for action in command._actions for option in action.option_strings}
        assert {option for option in options if option not in text} <= {"--help"}
        words = " ".join(text.split())
        assert f"duet {name} [-h]" in words
        for sentence in (command.description or "", command.epilog or ""):
            assert " ".join(sentence.split()) in words


def test_every_exit_code_is_described(pages: Path) -> None:
    lines = sections(pages / "duet.8")["EXIT STATUS"].splitlines()
    found = dict(line.split(maxsplit=1) for line in lines if line)
    assert found == {f"{code:d}": code.meaning for code in Exit}


def test_the_same_twice(tmp_path: Path) -> None:
    """What says when it was built can be told when that was; the terminal's width is none of it."""
    for name, columns in (("one", "50"), ("two", "200")):
        done = build(tmp_path / name, SOURCE_DATE_EPOCH="86400", COLUMNS=columns)
        assert (done.returncode, done.stderr) == (0, "")
    for page in PAGES:
        one, two = ((tmp_path / name / page).read_text() for name in ("one", "two"))
        assert one == two
        assert "1970-01-02" in one


def test_without_pandoc(tmp_path: Path) -> None:
    done = build(tmp_path, PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "man: pandoc is not installed; run: make setup\n"
