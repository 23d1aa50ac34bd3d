# SPDX-License-Identifier: MIT
"""The driver's table against the page cache, as the module itself compares them at any moment.

What a task is told can be right by chance; this looks at what it would be told
from. /sys/kernel/debug/duet/check, see docs/ABI/testing/debugfs-duet.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pyduet import Task

CHECK = Path("/sys/kernel/debug/duet/check")
#: A disagreement is one that is seen so often, these seconds apart: what races is over by then.
LOOKS, APART = 6, 0.3
_SUM = re.compile(
    r"(\d+) files, (\d+) runs compared, (\d+) differ, (\d+) runs put off, (\d+) pages in flight"
)


class Found(NamedTuple):
    """What one look found."""

    #: A line for each difference: what, which file and run, the table's word and the cache's.
    lines: frozenset[str]
    files: int
    runs: int
    differ: int
    put_off: int
    in_flight: int


def look() -> Found:
    """Have the module compare all that it knows with the page cache."""
    *lines, last = CHECK.read_text().splitlines()
    found = _SUM.fullmatch(last)
    assert found, last
    return Found(frozenset(lines), *map(int, found.groups()))


def look_until_sure() -> Found:
    """Look again as long as something differs; differences that stay are left."""
    found = look()
    lines = found.lines
    for _ in range(LOOKS - 1):
        if not lines:
            break
        time.sleep(APART)
        lines &= look().lines
    return found._replace(lines=lines, differ=len(lines))


class Totals:
    """What was compared in a session, and what of it differed in the test that runs."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.files = self.runs = self.differ = self.tests = 0
        #: Tests that had nothing to compare.
        self.blind: list[str] = []
        self._found: list[Found] = []

    def look(self) -> None:
        """Compare, in the midst of a test."""
        if CHECK.exists():  # the module is loaded
            self._found.append(look_until_sure())

    def look_and_close(self, close: Callable[[Task], None]) -> Callable[[Task], None]:
        """Return a function that compares, and then closes a task as the one given does."""
        process = os.getpid()

        def closed(task: Task) -> None:
            mine = os.getpid() == process and threading.current_thread() is threading.main_thread()
            if mine and not task.closed:
                # Where memory is made to fail, there may be none for us as well.
                with contextlib.suppress(OSError):
                    self.look()
            close(task)

        return closed

    def end(self, test: str) -> str:
        """Compare at the end of a test, and return what was wrong in it, or nothing."""
        self.look()
        found, self._found = self._found, []
        self.tests += 1
        self.files += sum(one.files for one in found)
        self.runs += sum(one.runs for one in found)
        self.differ += sum(one.differ for one in found)
        if not any(one.runs for one in found):
            self.blind.append(test)
        lines = sorted({line for one in found for line in one.lines})
        return "\n".join(["table != page cache:", *lines]) if lines else ""

    def summary(self) -> str:
        """Return a line for people."""
        return (
            f"table == page cache: {self.tests - len(self.blind)} of {self.tests} tests had "
            f"something to compare: {self.files} files, {self.runs} runs, {self.differ} differ"
        )
