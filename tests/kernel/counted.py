# SPDX-License-Identifier: MIT
"""How often the kernel called a function of its own: a count, where a time would depend on luck."""

import contextlib
import os
from collections.abc import Callable, Iterator

from truth import TRACEFS


@contextlib.contextmanager
def calls_of(function: str) -> Iterator[Callable[[], int]]:
    """Count the calls of an exported function, by a probe whose hits the kernel counts."""
    events = TRACEFS / "kprobe_events"
    fd = os.open(events, os.O_WRONLY | os.O_APPEND)
    enable = TRACEFS / f"events/duet_counted/{function}/enable"

    def hits() -> int:
        lines = (TRACEFS / "kprobe_profile").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == function)

    try:
        os.write(fd, f"p:duet_counted/{function} {function}\n".encode())
        enable.write_text("1")
        before = hits()
        yield lambda: hits() - before
    finally:
        if enable.exists():
            enable.write_text("0")
            os.write(fd, f"-:duet_counted/{function}\n".encode())
        os.close(fd)
