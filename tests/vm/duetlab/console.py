# SPDX-License-Identifier: MIT
"""Watching the kernel's log for trouble."""

import re
import sys

END_OF_RUN = "duet-lab: end of run"
CANNOT_START = "duet-lab: cannot start: "

_TROUBLE = re.compile(
    r"""
    \bWARNING: | \bBUG: | [kK]ernel\ BUG\ at | \bOops\b | Call\ Trace: | \bUBSAN: | \bKASAN: |
    \bKFENCE: | refcount_t: | list_(add|del)\ corruption | general\ protection |
    Kernel\ panic | [Uu]nable\ to\ handle | stack-protector: | Bad\ page\ (state|map) |
    INFO:\ task\ .*\ blocked | rcu.*\bdetected\b.*\bstall | soft\ lockup | hard\ LOCKUP |
    possible\ (circular|recursive|irq)\ lock | inconsistent\ lock\ state |
    suspicious\ RCU\ usage | sleeping\ function\ called | scheduling\ while\ atomic |
    trying\ to\ register\ non-static\ key | bad\ unlock\ balance | held\ lock\ freed |
    nested\ lock\ was\ not\ taken |
    kmemleak:\ \d+\ new\ suspected | Busy\ inodes\ after\ unmount | (?i:use-after-free)
    """,
    re.VERBOSE,
)
# At boot: advice of the kernel about the processor's bugs, and what a debug kernel looks for.
_HARMLESS = re.compile(
    r"WARNING: Unprivileged eBPF|Spectre V2 *:|MDS CPU bug|Stale Data CPU bug|debug is enabled"
)

# Two stacks between two lines of these. The kernel has races of its own: those count that duet.ko
# takes part in, wherever in a stack.
_RACE = "BUG: KCSAN:"
_RACE_END = re.compile(r"={60,}$")
_OURS = "[duet]"

_CONTEXT_BEFORE = 3
_CONTEXT_AFTER = 60


class Console:
    """The kernel's log as it comes in."""

    def __init__(self, *, show: bool) -> None:
        self._show = show
        self._partial = b""
        self.lines: list[str] = []
        self.trouble: list[int] = []
        self.ended = False
        self.cannot_start: str | None = None
        self._race: int | None = None

    def feed(self, data: bytes) -> None:
        """Take what the serial line brought."""
        if self._show:
            # The lab's terminal may be in raw mode.
            shown = data.replace(b"\r", b"").replace(
                b"\n", b"\r\n" if sys.stderr.isatty() else b"\n"
            )
            sys.stderr.buffer.write(shown)
            sys.stderr.buffer.flush()
        *whole, self._partial = (self._partial + data).split(b"\n")
        for line in whole:
            self._line(line.decode(errors="replace").rstrip("\r"))

    def close(self) -> None:
        """No more will come."""
        if self._partial:
            self._line(self._partial.decode(errors="replace"))
            self._partial = b""

    def _line(self, line: str) -> None:
        self.lines.append(line)
        if END_OF_RUN in line:
            self.ended = True
        elif CANNOT_START in line:
            self.cannot_start = line.partition(CANNOT_START)[2]
        elif _RACE in line:
            self._race = len(self.lines) - 1
        elif self._race is not None and _OURS in line:
            self.trouble.append(self._race)
            self._race = None
        elif self._race is not None and _RACE_END.search(line):
            self._race = None
        elif _TROUBLE.search(line) and not _HARMLESS.search(line):
            self.trouble.append(len(self.lines) - 1)

    def tail(self, count: int = 20) -> str:
        """The last lines."""
        return "\n".join(f"    {line}" for line in self.lines[-count:]) or "    (nothing)"

    def report(self) -> str:
        """The lines of trouble, with those around them, once each."""
        wanted: set[int] = set()
        for index in self.trouble:
            wanted.update(range(max(0, index - _CONTEXT_BEFORE), index + _CONTEXT_AFTER))
        out = []
        previous = -1
        for index in sorted(wanted):
            if index >= len(self.lines):
                break
            if previous >= 0 and index != previous + 1:
                out.append("    ...")
            out.append(f"    {self.lines[index]}")
            previous = index
        return "\n".join(out)
