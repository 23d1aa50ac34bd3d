# SPDX-License-Identifier: MIT
"""The command, run as people run it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from places import TOP

#: Tasks that know these: to be compared with, and not to wait for others on this machine.
_PLAIN = ("--uninformed", "--no-idle", "--no-give-way")
_TASKS = ("backup", "defrag", "rsync", "scrub")


class Ran(NamedTuple):
    """A run of the command that has ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def objects(self) -> list[Any]:
        """What it printed with ``--json``, line by line."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def words(self) -> str:
        """What it said to people."""
        return os.fsdecode(self.stderr)


def run_duet(
    *args: str | Path, user: int | None = None, cwd: Path | None = None, timeout: float = 300
) -> Ran:
    """Run the command, and return how that went.

    Args:
        args: of the command. A task is run without Duet: this machine has no module.
        user: number of the user who runs it, when that is another.
        cwd: where.
        timeout: seconds that it may take at most.

    """
    process = start_duet(*args, user=user, cwd=cwd)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.wait()
    return Ran(process.returncode, stdout, stderr)


def start_duet(
    *args: str | Path, user: int | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start the command; see :func:`run_duet`. Its output is in pipes."""
    return subprocess.Popen(
        command(*args),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        user=user,
        group=user,
        extra_groups=None if user is None else (),
        env={**os.environ, "PYTHONPATH": str(TOP), "PYTHONDONTWRITEBYTECODE": "1"},
    )


def command(*args: str | Path) -> Sequence[str | Path]:
    """Return the command line."""
    plain: tuple[str, ...] = ()
    if args[0] == "run" and args[1] in _TASKS:
        # Before rsync's own options, and before an end of options.
        plain, args = ("run", str(args[1]), *_PLAIN), args[2:]
    return [sys.executable, "-m", "pyduet", *plain, *args]
