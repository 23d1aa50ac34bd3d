# SPDX-License-Identifier: MIT
"""What imports what: the library little, and no room one that is above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


def modules_after(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_only_ioctl_opt_beyond_the_standard_library() -> None:
    new = modules_after("import pyduet") - modules_after("pass")
    tops = {name.split(".")[0] for name in new}
    assert tops - sys.stdlib_module_names == {"pyduet", "ioctl_opt"}


def test_nothing_that_few_need() -> None:
    heavy = {"argparse", "asyncio", "json", "numpy", "subprocess"}
    assert not heavy & modules_after("import pyduet")


def test_the_command_brings_in_no_screen() -> None:
    """Textual is for duet tui alone."""
    new = modules_after("import pyduet.cli; pyduet.cli.parser()")
    assert not {"textual", "duet_tui", "pyudev", "rich"} & {name.split(".")[0] for name in new}


#: What is below another: what a file of it may not import, not even where it is used.
ABOVE = {
    "pyduet/_text": ("pyduet.cli", "pyduet.maintenance", "duet_tui"),
    "pyduet/_driver": ("pyduet.cli", "pyduet.maintenance", "pyduet.admin", "duet_tui"),
    "pyduet/admin": ("pyduet.cli", "pyduet.maintenance", "duet_tui"),
    "pyduet/maintenance": ("pyduet.cli", "duet_tui"),
    "pyduet/maintenance/files": (
        "pyduet.maintenance.frame",
        "pyduet.maintenance.sharing",
        "pyduet.maintenance.tasks",
    ),
    "tui/duet_tui": ("pyduet.cli",),
}


def imported(file: Path) -> set[str]:
    """The modules that a file imports, wherever in it, and what it takes of them."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} imports relatively"
            found |= {f"{node.module}.{one.name}" for one in node.names}
    return found


@pytest.mark.parametrize(("room", "above"), ABOVE.items())
def test_no_room_imports_what_is_above_it(room: str, above: tuple[str, ...]) -> None:
    """The screen and the command are two programs; the library knows neither."""
    files = sorted((TOP / room).rglob("*.py"))
    assert files
    for file in files:
        names = imported(file)
        wrong = {name for name in names for top in above if f"{name}.".startswith(f"{top}.")}
        assert not wrong, file


def test_what_programs_import_knows_no_program() -> None:
    for file in (TOP / "pyduet").glob("*.py"):
        wrong = {name for name in imported(file) if f"{name}.".startswith("pyduet.cli.")}
        assert not wrong or file.name == "__main__.py", file
