# SPDX-License-Identifier: MIT
"""What a large tree takes of memory and of the processor: so much a file, and no more."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from places import TOP

#: What a task may take without any file, SQLite's own memory included, and for each.
BASE, EACH = 80 << 20, 220
#: A million files take no more than this.
MILLION = 300 << 20
#: Twice the files may take so many times the processor: more than 2, for what other processes do
#: to its caches; less than the 4 of what is quadratic.
RATIO = 3.0


def made(files: int, problems: int, place: Path) -> dict[str, Any]:
    """Return what a full and an unchanged pass over a made-up tree took."""
    done = subprocess.run(
        [sys.executable, TOP / "tests/tasks/made.py", str(files), str(problems), place / "state"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TOP)},
    )
    (place / "state").unlink()
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_memory_and_time_of_many_files(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = 1_000_000 if request.config.getoption("--long") else 40_000
    half, whole = (made(number, 0, tmp_path) for number in (files // 2, files))
    with capsys.disabled():
        print(
            f"\n{files:,} files: {whole['memory'] / (1 << 20):.0f} MiB; half of them: "
            f"{half['memory'] / (1 << 20):.0f} MiB, {whole['processor']:.0f} and "
            f"{half['processor']:.0f} s of the processor for two passes"
        )
    assert BASE + 1_000_000 * EACH <= MILLION
    assert whole["memory"] <= BASE + files * EACH
    assert whole["processor"] <= RATIO * half["processor"]


def test_memory_and_time_of_many_problems(tmp_path: Path) -> None:
    """Files that cannot be opened are named, at no more cost than others have."""
    half, whole = (made(number, number, tmp_path) for number in (10_000, 20_000))
    assert whole["problems"] == 20_000
    assert whole["processor"] <= RATIO * half["processor"]
    # Each is named with its path and words.
    assert whole["memory"] <= BASE + 20_000 * 1000
