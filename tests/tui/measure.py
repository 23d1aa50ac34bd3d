#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the screen costs: seconds until it is drawn, and processor time while nothing happens.

usage: measure.py [SECONDS]

Runs the screen in a terminal of 80x24, on the busy recording of the tests. It has begun when the
last line of the first screen was written to the terminal, counted from exec; the best of five
counts, since other programs only add to it. The processor time until then is said as well.

Then it is left alone on each screen for SECONDS, 20 unless told, and the processor time that it
took, of all its threads, is divided by them. Meanwhile the recording has ended, but its tasks grow
older, as those of an idle machine do.
"""

import dataclasses
import fcntl
import os
import pty
import select
import signal
import statistics
import struct
import sys
import termios
import time
from pathlib import Path

from duet_tui.app import DuetApp
from duet_tui.replay import Replay
from duet_tui.view import View

RECORDING = Path(__file__).parents[1] / "data/busy.jsonl"
SCREENS = ("overview", "tasks", "table", "watch", "log")
#: Words of the last line of the first screen.
DRAWN = (b"Quit", b"Menu")
TICKS = os.sysconf("SC_CLK_TCK")


class Terminal:
    """A process in a terminal of its own."""

    def __init__(self, command: list[str]) -> None:
        self.begin = time.monotonic()
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.environ.update({"TERM": "xterm-256color", "COLORTERM": "truecolor"})
            os.execv(sys.executable, [sys.executable, *command])  # noqa: S606 -- no shell is meant
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))

    def read(self, seconds: float) -> bytes:
        """Return what is written in the next seconds; may return sooner, with some of it."""
        ready, _, _ = select.select([self.fd], [], [], max(0.0, seconds))
        return os.read(self.fd, 65536) if ready else b""

    def drawn(self) -> float:
        """Return after how many seconds the first screen was there."""
        written = b""
        while not all(word in written for word in DRAWN):
            if time.monotonic() - self.begin > 60:
                raise SystemExit(f"measure: nothing was drawn in a minute: {written!r}")
            written += self.read(1)
        return time.monotonic() - self.begin

    def left_alone(self, seconds: float) -> float:
        """Return the processor time of some seconds, as a part of them."""
        before, end = self.used(), time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(left)
        return (self.used() - before) / seconds

    def used(self) -> float:
        """Return the processor time so far, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def end(self) -> None:
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


class Idle(Replay):
    """The end of the recording, a moment later at each look."""

    def look(self) -> View:
        view = super().look()
        later = time.monotonic() - self._begin
        tasks = (dataclasses.replace(task, age=task.age + later) for task in view.tasks)
        return dataclasses.replace(view, tasks=tuple(tasks))


def main() -> None:
    if sys.argv[1:] == ["--idle"]:
        DuetApp(Idle(str(RECORDING), speed=1000)).run()
        return
    seconds = float(sys.argv[1]) if sys.argv[1:] else 20.0
    starts, used = [], []
    for _ in range(5):
        terminal = Terminal(["-m", "pyduet", "tui", "--replay", str(RECORDING)])
        starts.append(terminal.drawn())
        used.append(terminal.used())
        terminal.end()
    print(
        f"drawn after: best {min(starts):.2f} s, median {statistics.median(starts):.2f} s, "
        f"with {min(used):.2f} s of a processor"
    )
    terminal = Terminal([__file__, "--idle"])
    terminal.drawn()
    for number, name in enumerate(SCREENS, 1):
        os.write(terminal.fd, str(number).encode())
        terminal.left_alone(5)  # until it is there, and has shown all that happened
        print(f"{name:9} {terminal.left_alone(seconds):.2%} of a processor")
    terminal.end()


if __name__ == "__main__":
    main()
