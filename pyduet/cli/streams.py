# SPDX-License-Identifier: MIT
"""The standard streams: what becomes of them when they are closed or full, or nobody reads them."""

import errno
import io
import os
import sys
from typing import TextIO

from pyduet.cli.exits import Exit


class OutputError(Exception):
    """Standard output cannot be written.

    No OSError: whoever has those of a file in hand must not take it for one.

    Attributes:
        code: the exit code that it ends the command with.

    """

    def __init__(self, number: int) -> None:
        words = "it is closed" if number == errno.EBADF else os.strerror(number)
        super().__init__(f"cannot write to standard output: {words}")
        self.code = Exit.BROKEN_PIPE if number == errno.EPIPE else Exit.FAILED


class _Output(io.FileIO):
    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            while (written := super().write(data)) is None:
                _wait_for_room(self.fileno())
        except OSError as error:
            raise OutputError(error.errno or errno.EIO) from error
        return written


class _Words(io.FileIO):
    """What cannot be said is not, and ends nothing: the work and its exit code are what matters."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            return super().write(data) or len(data)
        except OSError:
            return len(data)


def take() -> None:
    """Have the process's streams be open, whatever it was given, and tell what fails.

    A file that is opened must not get the number of a stream that is closed:
    what is printed would be written into it. Any name can be printed in any
    locale.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # Nothing that is written to output is lost without a word: it is opened for reading.
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY if fd == 2 else os.O_RDONLY), True)
    sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout, lines=os.isatty(1))
    sys.stderr = _text(_Words(2, "w", closefd=False), sys.stderr, lines=True)


def abandon_output() -> None:
    """Give what is left to be written, at the interpreter's end, somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)


def _text(raw: io.FileIO, before: TextIO | None, *, lines: bool) -> TextIO:
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=before.encoding if before else None,
        errors="backslashreplace",
        line_buffering=lines,
    )


def _wait_for_room(fd: int) -> None:
    """Wait until a stream can be written that somebody made non-blocking."""
    import select

    select.select([], [fd], [])
