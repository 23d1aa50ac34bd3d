# SPDX-License-Identifier: MIT
"""That each file has a licence, and the right one: as the REUSE tool reads them."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[2]
#: What is built against the kernel; all else runs in user space.
KERNEL = re.compile(
    r"driver/|tests/bench/probe/|tests/bounds/sections/|tests/bench/bpf/peers\.bpf\.c$"
)
HEADER = "driver/uapi/duet.h"


@pytest.fixture(scope="module")
def lint() -> dict[str, Any]:
    """What the tool says of all files under version control."""
    done = subprocess.run(
        [sys.executable, "-m", "reuse", "lint", "--json"],
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_file_has_a_licence_whose_text_is_here(lint: dict[str, Any]) -> None:
    assert not {key: value for key, value in lint["non_compliant"].items() if value}


def test_each_file_has_the_right_licence(lint: dict[str, Any]) -> None:
    wrong = {}
    assert len(lint["files"]) > 400
    for file in lint["files"]:
        path = file["path"]
        found = {one["value"] for one in file["spdx_expressions"]}
        right = "GPL-2.0-only" if KERNEL.match(path) else "MIT"
        right += " WITH Linux-syscall-note" if path == HEADER else ""
        if found != {right}:
            wrong[path] = found
    assert not wrong


def test_the_module_says_so_itself() -> None:
    """In the kernel's way, whatever REUSE.toml says."""
    files = subprocess.run(
        ["git", "ls-files", "driver"], cwd=TOP, capture_output=True, text=True, check=True
    ).stdout.split()
    assert HEADER in files
    for file in files:
        # In two parts: the tool would take it for this file's own.
        tag = re.search(r"SPDX-License-" r"Identifier: ([^*\n]*)", (TOP / file).read_text())
        assert tag, file
        note = " WITH Linux-syscall-note" if file == HEADER else ""
        assert tag[1].strip() in (f"GPL-2.0{note}", f"GPL-2.0-only{note}"), file
