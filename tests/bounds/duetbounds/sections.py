# SPDX-License-Identifier: MIT
"""In the guest: what sections/sections.c tells."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_FILE = Path("/sys/kernel/debug/duet_sections")
#: Shorter sections are not kept, which would take longer than they do.
_LEAST = 500
_FRAME = re.compile(r"([^+ ]+)(?:\+\S+)?(?: \[(\w+)\])?")


class Section(NamedTuple):
    """Sections that ended at one place: instructions of the longest, and how many there were."""

    longest: int
    times: int
    #: Duet's functions, from where it ended outwards.
    stack: tuple[str, ...]


class Probe(NamedTuple):
    """What Duet did in the probes of a tracepoint: instructions of the longest, calls, the sum."""

    name: str
    longest: int
    times: int
    total: int


class Measured(NamedTuple):
    """What one workload brought about, the longest first."""

    sections: list[Section]
    probes: list[Probe]
    #: Instructions of the kernel's longest allocation for Duet where nothing may wait.
    allocation: int


def _functions(stack: str) -> Iterator[str]:
    """Yield those of Duet's."""
    for text in stack.split(";"):
        frame = _FRAME.match(text)
        if frame is not None and frame[2] == "duet":
            yield frame[1]


def begin() -> None:
    """Forget what was measured, and measure."""
    _FILE.write_text(f"{_LEAST}")


def take() -> Measured:
    """Return what was measured since."""
    sections: list[Section] = []
    probes: list[Probe] = []
    allocation = 0
    for line in _FILE.read_text().splitlines():
        kind, rest = line.split(" ", 1)
        if kind == "probe":
            name, longest, times, total = rest.split()
            probes.append(Probe(name, int(longest), int(times), int(total)))
        elif kind == "section":
            longest, times, stack = rest.split(" ", 2)
            sections.append(Section(int(longest), int(times), tuple(_functions(stack))))
        elif kind == "allocation":
            allocation = int(rest.split()[0])
        elif int(rest):
            raise RuntimeError(f"no room for {rest} sections")
    return Measured(sorted(sections, reverse=True), probes, allocation)
