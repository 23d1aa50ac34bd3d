# SPDX-License-Identifier: MIT
"""What the module says in its trace of who wants a file, each time that it decides it."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from truth import TRACEFS


class Verdict(NamedTuple):
    """What the module says of a verdict in its trace."""

    ino: int
    steps: int
    later: bool


@contextlib.contextmanager
def verdicts(thread: int = 0) -> Iterator[Callable[[], list[Verdict]]]:
    """Return a function for the verdicts that a thread, or this one, caused since it was asked."""
    instance = TRACEFS / "instances/duet_verdicts"
    instance.mkdir()
    enable = instance / "events/duet/duet_verdict/enable"

    def take() -> list[Verdict]:
        enable.write_text("0")
        lines = (instance / "trace").read_text()
        (instance / "trace").write_text("\n")
        enable.write_text("1")
        return [
            Verdict(int(ino), int(steps), bool(later))
            for ino, steps, later in re.findall(
                r"duet_verdict:.* ino=(\d+) .*steps=(\d+)(.*)", lines
            )
        ]

    try:
        (instance / "set_event_pid").write_text(str(thread or os.getpid()))
        enable.write_text("1")
        yield take
        enable.write_text("0")
    finally:
        instance.rmdir()
