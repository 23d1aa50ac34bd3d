# SPDX-License-Identifier: MIT
"""What importing the library brings in: ioctl-opt, and little of the standard library."""

import subprocess
import sys


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
