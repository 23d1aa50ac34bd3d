# SPDX-License-Identifier: MIT
"""A run of rsync, of which no more is kept than a line."""

import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO, cast

#: Bytes of a line that are taken at a time.
_LINE = 64 << 10
#: Seconds that rsync has to tidy up after it was told to end.
_TIDY = 10


def run(
    command: Sequence[str],
    *,
    cwd: str | None = None,
    env: dict[str, str] | None = None,
    stdin: IO[bytes] | int | None = subprocess.DEVNULL,
    stdout: Callable[[Iterator[bytes]], object] | int | None,
    stderr: Callable[[bytes], object],
) -> int:
    """Run a program to its end, and return its exit code.

    Args:
        command: with its arguments.
        cwd: where; None for the present directory.
        env: the environment; None for that of this process.
        stdin: as :class:`subprocess.Popen` has it.
        stdout: takes the lines; or a descriptor, None for that of this process.
        stderr: told each line, with its end, by a thread of its own.

    Raises:
        FileNotFoundError: there is no such program.

    """
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdin=stdin, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE if callable(stdout) else stdout,
    )  # fmt: skip
    said = cast(IO[bytes], process.stderr)
    listener = threading.Thread(target=lambda: [stderr(line) for line in _lines(said)])
    listener.start()
    try:
        if callable(stdout):
            with cast(IO[bytes], process.stdout) as out:
                stdout(_lines(out))
        return process.wait()
    except BaseException:
        process.terminate()
        raise
    finally:
        try:
            process.wait(_TIDY)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        listener.join()
        said.close()


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: stream.readline(_LINE), b"")
