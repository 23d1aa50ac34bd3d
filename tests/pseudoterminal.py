# SPDX-License-Identifier: MIT
"""A program on a terminal of its own, and somebody who types."""

import contextlib
import os
import pty
import select
import signal
import termios
import time
from collections.abc import Iterator, Mapping, Sequence

from asleep import wait_until_asleep


class Terminal:
    """A terminal on which a program runs; what it shows is read until some text comes."""

    def __init__(self, arguments: Sequence[str | os.PathLike[str]], **env: str) -> None:
        """Start the program; its environment is ours, and what is said here."""
        # A terminal that can do nothing has no escape sequences in what it shows.
        environment: Mapping[str, str] = {
            **os.environ,
            "TERM": "dumb",
            "INPUTRC": "/dev/null",
            **env,
        }
        self._pid, self._fd = pty.fork()
        if not self._pid:
            try:
                _keep_what_is_written(0)
                os.execvpe(arguments[0], list(arguments), environment)  # noqa: S606
            finally:
                os._exit(127)
        self._shown = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._fd, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C, once the program waits for keys."""
        wait_until_asleep(self._pid)
        self.type("\x03")

    def until(self, text: str, seconds: float = 300) -> str:
        """Return what is shown up to a text, which is left out."""
        end = time.monotonic() + seconds
        while text not in self._shown:
            if not self._more(end):
                raise AssertionError(f"no {text!r} in {self._shown!r}")
        before, _, self._shown = self._shown.partition(text)
        return before

    def wait(self, seconds: float = 300) -> int:
        """Return the exit code of the program, once it has ended."""
        end = time.monotonic() + seconds
        while self._more(end):
            pass
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Take the terminal away."""
        os.close(self._fd)
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _more(self, end: float) -> bool:
        """Read what is shown next; return whether there was something before the end."""
        if not select.select([self._fd], [], [], max(0, end - time.monotonic()))[0]:
            raise AssertionError(f"nothing came after {self._shown!r}")
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: the program has closed it
            return False
        self._shown += data.decode(errors="replace")
        return bool(data)


def _keep_what_is_written(fd: int) -> None:
    """Have Ctrl-C discard nothing: a terminal drops what was just written and nobody has read.

    The signal comes before that, so it may be the answer to it.
    """
    attributes = termios.tcgetattr(fd)
    attributes[3] |= termios.NOFLSH
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


@contextlib.contextmanager
def terminal(*arguments: str | os.PathLike[str], **env: str) -> Iterator[Terminal]:
    """Run a program on a terminal; both go at the end."""
    there = Terminal(arguments, **env)
    try:
        yield there
    finally:
        there.close()
