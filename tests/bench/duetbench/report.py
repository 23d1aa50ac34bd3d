# SPDX-License-Identifier: MIT
"""On the host: from samples to tables."""

import re
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from .guest import Sample

BASE, FLOOR = "no module", "empty probe"
# In docs/performance.md, and docs/bounds.md: what comes after it is the last tables.
_MARK = re.compile(r"<!-- The rest is written by \w+\.py --keep\. -->\n")


class Figures:
    """The samples of one run, by section and fs, state, kind."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, dict[str, list[float]]]] = {}

    def add(self, title: str, sample: Sample) -> None:
        """Take a sample; the title is the section with what it was measured on."""
        states = self._samples.setdefault(title, {})
        states.setdefault(sample.state, {}).setdefault(sample.kind, []).append(sample.value)

    def rows(self) -> Iterable[dict[str, object]]:
        """One entry per figure, for JSON."""
        for title, states in self._samples.items():
            for state, kinds in states.items():
                for kind, values in kinds.items():
                    row: dict[str, object] = {
                        "section": title,
                        "state": state,
                        "kind": kind,
                        "mean": fmean(values),
                        "samples": values,
                    }
                    for name, other in (("extra", BASE), ("over_empty", FLOOR)):
                        if kind in states.get(other, {}):
                            row[name] = fmean(values) - fmean(states[other][kind])
                    yield row

    def tables(self, about: str) -> dict[str, str]:
        """One table per title, in Markdown; each says what it was measured by."""
        return {title: self._table(title, about) for title in self._samples}

    def _table(self, title: str, about: str) -> str:
        states = self._samples[title]
        columns = list(dict.fromkeys(kind for kinds in states.values() for kind in kinds))
        lines = [
            f"### {title}",
            "",
            about,
            "",
            "| state | " + " | ".join(columns) + " |",
            "|---|" + "---:|" * len(columns),
        ]
        for state, kinds in states.items():
            cells = [self._cell(states, state, kind, kinds.get(kind)) for kind in columns]
            lines.append(f"| {state} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    @staticmethod
    def _cell(
        states: dict[str, dict[str, list[float]]],
        state: str,
        kind: str,
        values: list[float] | None,
    ) -> str:
        if not values:
            return ""
        base = states.get(BASE, {}).get(kind)
        floor = states.get(FLOOR, {}).get(kind)
        half = (max(values) - min(values)) / 2
        spread = f" ±{half:,.0f}" if len(values) > 1 and half >= 0.5 else ""
        if state == BASE or not base:
            return f"{fmean(values):,.1f}{spread}"
        extra = f"{fmean(values) - fmean(base):+,.0f}{spread}"
        if state == FLOOR or not floor:
            return extra
        return f"{extra} ({fmean(values) - fmean(floor):+,.0f})"


def keep(page: Path, tables: dict[str, str], *, others: bool) -> None:
    """Put tables into a page, in the place of those with the same titles.

    Args:
        page: docs/performance.md, or another with such a line.
        tables: by title.
        others: whether the tables with other titles stay, as they are.

    Raises:
        ValueError: the page has no place for tables.

    """
    text = page.read_text()
    mark = _MARK.search(text)
    if mark is None:
        raise ValueError(
            f"{page} has no line <!-- The rest is written by ... --keep. -->; put it where the "
            "tables begin"
        )
    kept = {}
    if others:
        for table in re.split("^### ", text[mark.end() :], flags=re.MULTILINE)[1:]:
            kept[table.partition("\n")[0]] = f"### {table.rstrip()}\n"
    page.write_text("\n".join([text[: mark.end()], *(kept | tables).values()]))
