# SPDX-License-Identifier: MIT
"""The command, run as people run it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from places import TOP

from pyduet.cli import main

#: Tasks that know these: to be compared with, and not to wait for others on this machine.
_PLAIN = ("--uninformed", "--no-idle", "--no-give-way")
#: Not the one of the working directory.
_DUET = (sys.executable, "-P", "-m", "pyduet")
_TASKS = ("backup", "btrfs-scrub", "defrag", "rsync", "scrub", "send")


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
    return [*_DUET, *plain, *args]


class Killed(NamedTuple):
    """When a run is to be ended from outside: at which call of a function, with which signal."""

    call: int
    signal: int


def run_forked(*args: str | Path, killed: Killed | None = None, timeout: float = 300) -> Ran:
    """Run the command in a child of this process, which has imported it already: fast.

    Args:
        args: of the command.
        killed: when it is to be killed. The same call is the same moment of the work again, as
            far as nobody else takes part in it.
        timeout: seconds that it may take at most.

    """
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        pid = os.fork()
        if not pid:
            _be_the_command(args, stdout.fileno(), stderr.fileno(), killed)
        process = os.pidfd_open(pid)
        in_time = select.select([process], [], [], timeout)[0]
        if not in_time:
            os.killpg(pid, signal.SIGKILL)
        os.close(process)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert in_time, f"{args} has not ended"
        stdout.seek(0)
        stderr.seek(0)
        return Ran(status, stdout.read(), stderr.read())


def _be_the_command(
    args: Sequence[str | Path], stdout: int, stderr: int, killed: Killed | None
) -> NoReturn:
    """Become the command, and end as it does."""
    status = 70
    try:
        os.setpgid(0, 0)  # with all that it starts
        for standard, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, stdout), (2, stderr)):
            os.dup2(file, standard)
        # Those of this process are pytest's.
        sys.stdout = open(1, "w", closefd=False, errors="surrogateescape")  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        if killed:
            _kill_at(killed)
        try:
            status = main([os.fsdecode(arg) for arg in command(*args)[len(_DUET) :]])
        except SystemExit as end:
            status = int(end.code or 0)
        sys.setprofile(None)
        sys.stdout.flush()
    except BaseException:  # as the interpreter would
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(status)


def _kill_at(killed: Killed) -> None:
    left = killed.call

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), killed.signal)

    sys.setprofile(count)
