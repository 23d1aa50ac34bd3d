# SPDX-License-Identifier: MIT
"""Waiting until a process sleeps."""

import re
import time
from pathlib import Path

#: A sleep that is looked at so often, with so many seconds between, is one that lasts.
_LOOKS, _PAUSE = 10, 0.01


def wait_until_asleep(pid: int, seconds: float = 120) -> None:
    """Wait until a process sleeps in a system call from which only news will wake it.

    Python notes a signal and acts on it between two steps of the program. One that comes after the
    last step before a call that waits is acted on when the call returns, which may be never. One
    that comes while the process sleeps ends the call.
    """
    end = time.monotonic() + seconds
    last, looks = None, 0
    while looks < _LOOKS:
        assert time.monotonic() < end, f"process {pid} does not sleep: {last}"
        status = Path(f"/proc/{pid}/status").read_text()
        state = re.findall(r"^State:\s+(\w)", status, re.M)
        # How often it went to sleep: what is looked at is one sleep, not several short ones.
        now = *state, *re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)
        looks = looks + 1 if now == last and now[0] == "S" else 0
        last = now
        time.sleep(_PAUSE)


def call_of(thread: int | None) -> int | None:
    """Return the system call that a thread of this process sleeps in; None while it runs."""
    words = Path(f"/proc/self/task/{thread}/syscall").read_text().split()
    return None if words[0] == "running" else int(words[0])
