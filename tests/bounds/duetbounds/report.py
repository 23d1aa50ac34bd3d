# SPDX-License-Identifier: MIT
"""What was measured, as tables, and what of it is longer than is promised."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from .sections import Measured, Probe

#: Instructions with interrupts or preemption off, at most.
LIMIT = 20_000
_SHOWN = 6

Place = tuple[int, int, str]


class Row(NamedTuple):
    """One part of a workload, in one size."""

    workload: str
    part: str
    size: int
    few: bool
    #: Instructions of the longest sections, how many ended there, and where.
    sections: list[Place]
    probes: list[Probe]
    #: Instructions of the kernel's longest allocation or freeing meanwhile.
    allocation: int

    @classmethod
    def of(cls, workload: str, part: str, size: int, few: bool, measured: Measured) -> Self:
        """Make one of what was measured."""
        places = [
            (section.longest, section.times, " < ".join(section.stack))
            for section in measured.sections[:_SHOWN]
        ]
        return cls(workload, part, size, few, places, measured.probes, measured.allocation)

    @classmethod
    def back(cls, raw: Sequence[Any]) -> Self:
        """Make one of what JSON made of it."""
        row = cls(*raw)
        return row._replace(probes=[Probe(*probe) for probe in row.probes])

    def section(self) -> int:
        """Return the longest section."""
        return max((place[0] for place in self.sections), default=0)

    def probe(self) -> int:
        """Return the longest call of a probe."""
        return max((probe.longest for probe in self.probes), default=0)


def failures(rows: list[Row]) -> list[str]:
    """Return what is longer than it may be."""
    found = []
    for row in rows:
        where = f"{row.workload}, {row.size}, {row.part}"
        found += [f"{where}: {took} in {at}" for took, _, at in row.sections if took > LIMIT]
        found += [
            f"{where}: {probe.longest} in {probe.name}"
            for probe in row.probes
            if probe.longest > LIMIT
        ]
    return found


def tables(rows: list[Row], about: str) -> dict[str, str]:
    """Return a table for each workload, in Markdown, by its title."""
    parts: dict[str, dict[str, dict[bool, Row]]] = {}
    for row in rows:
        parts.setdefault(row.workload, {}).setdefault(row.part, {})[row.few] = row
    found = {}
    for workload, by_part in parts.items():
        lines = [
            f"### {workload}",
            "",
            about,
            "",
            "| part | size | sections | probes | allocating or freeing |",
        ]
        lines.append("|---|--:|--:|--:|--:|")
        for part, sizes in by_part.items():
            both = [sizes[few] for few in (True, False) if few in sizes]
            values = ([row.size, row.section(), row.probe(), row.allocation] for row in both)
            cells = (
                " → ".join(f"{value:,}" for value in column) for column in zip(*values, strict=True)
            )
            lines.append(f"| {part} | {' | '.join(cells)} |")
        found[workload] = "\n".join(lines) + "\n"
    return found
