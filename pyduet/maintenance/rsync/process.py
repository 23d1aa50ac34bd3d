# SPDX-License-Identifier: MIT
"""A run of rsync, of which no more is kept than a line."""

import io
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import IO, cast

#: Bytes of a line, or of what there is, that are taken at a time.
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
    in_lines: bool = True,
) -> int:
    """Run a program to its end, and return its exit code.

    Args:
        command: with its arguments.
        cwd: where; None for the present directory.
        env: the environment; None for that of this process.
        stdin: as :class:`subprocess.Popen` has it.
        stdout: takes what it prints; or a descriptor, None for that of this process.
        stderr: told each line, with its end, by a thread of its own; nothing of what the program
            says of being ended, after an error here. An error of it ends the program.
        in_lines: whether stdout takes lines, and not what there is as soon as it is there.

    Raises:
        FileNotFoundError: there is no such program.

    """
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdin=stdin, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE if callable(stdout) else stdout,
    )  # fmt: skip
    said = cast(IO[bytes], process.stderr)
    is_over = False
    failure: BaseException | None = None

    def listen() -> None:
        nonlocal is_over, failure
        for line in _lines(said):
            if is_over:
                continue
            try:
                stderr(line)
            except BaseException as error:  # raised again by who waits
                is_over, failure = True, error
                process.terminate()

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        if callable(stdout):
            with cast(io.BufferedReader, process.stdout) as out:
                stdout(_lines(out) if in_lines else _pieces(out))
        code = process.wait()
    except BaseException:
        is_over = True
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
    if failure is not None:
        raise failure
    return code


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: stream.readline(_LINE), b"")


def _pieces(stream: io.BufferedReader) -> Iterator[bytes]:
    return iter(lambda: stream.read1(_LINE), b"")
