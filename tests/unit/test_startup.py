# SPDX-License-Identifier: MIT
"""How soon the command begins: it imports only what is used."""

import os
import subprocess
import sys

import pytest

from pyduet.cli import Exit, parser

#: What every command has of its own beside the library: argparse, and what that brings.
OURS = {"pyduet.cli", "pyduet.cli.exits", "pyduet.cli.lazy", "pyduet.cli.streams"}
STATUS = {
    "pyduet.cli.status", "pyduet.cli.text", "pyduet.admin", "pyduet.admin.privilege",
    "pyduet._text", "pyduet._text.jsonable", "pyduet._text.names", "pyduet._text.numbers",
}  # fmt: skip

RUN = "import sys; from pyduet.cli import main; sys.exit(main())"
#: What it may cost beyond what the library does, of a processor's time.
MOST = 1.6
#: So often each is measured at most: the best of all counts, so that it does not matter what else
#: the machine does.
ROUNDS = 60


def modules(program: str, *arguments: str) -> set[str]:
    """The modules that a program has imported at its end."""
    shown = "import atexit, sys; atexit.register(lambda: print('\\n@', *sys.modules))\n"
    done = subprocess.run(
        [sys.executable, "-c", shown + program, *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return set(done.stdout.rpartition("@")[2].split())


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--version"], set()),
        (["nonsense"], set()),
        (["--help"], set()),
        (["status", "--device", "/nowhere"], STATUS),
        (["status", "--help"], STATUS),
    ],
)
def test_what_is_imported(arguments: list[str], more: set[str]) -> None:
    found = modules(RUN, *arguments) - modules("import pyduet")
    assert {name for name in found if name.startswith("pyduet")} - OURS <= more
    others = {name for name in found if not name.startswith("pyduet")}
    assert others
    assert {name.split(".")[0] for name in others} <= sys.stdlib_module_names
    # argparse has gettext, and shutil for the width of the terminal, with what unpacks archives.
    assert len(others) < 20, others


def test_a_task_imports_no_other(tmp_path: str) -> None:
    found = modules(RUN, "run", "scrub", str(tmp_path), "--help")
    assert "pyduet.cli.run.scrub" in found
    others = {"pyduet.cli.run.backup", "pyduet.cli.run.rsync", "pyduet.cli.watch", "rich"}
    assert not others & found
    assert not {name for name in found if name.startswith("pyduet.maintenance")}


def test_what_is_made_of_the_parser_has_all_of_it() -> None:
    """The man page, and completion."""
    made = parser()
    for words in (["watch", "/", "--by-file"], ["run", "send", "/", "a", "b", "--parent", "c"]):
        assert made.parse_args(words).run
    assert "--repair" in str(
        subprocess.run(
            [sys.executable, "-m", "pyduet", "help", "run", "btrfs-scrub"],
            capture_output=True, check=True,
        ).stdout
    )  # fmt: skip


def processor_time(*arguments: str) -> tuple[float, int]:
    """Run Python; return what it took of a processor, in seconds, and its exit code."""
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, *arguments],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)],
    )
    _, status, used = os.wait4(pid, 0)
    return used.ru_utime + used.ru_stime, os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], Exit.OK), (["status", "--device", "/nowhere"], Exit.NOT_LOADED)],
)
def test_what_it_takes_to_begin(arguments: list[str], code: int) -> None:
    """Measured side by side with the import of the library, until both had a quiet moment."""
    library = command = float("inf")
    for _ in range(ROUNDS):
        library = min(library, processor_time("-c", "import pyduet")[0])
        took, ended = processor_time("-c", RUN, *arguments)
        assert ended == code
        command = min(command, took)
        if command <= MOST * library:
            return
    pytest.fail(f"{command * 1000:.1f} ms, and the library takes {library * 1000:.1f} ms")
