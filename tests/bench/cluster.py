#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a cluster saves that reads first what is in memory: see docs/cluster.md, and ``--help``."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.dont_write_bytecode = True
TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(TOP)]

from clusterbench.simulate import SCHEDULERS, Shape, simulate  # noqa: E402
from duetbench.report import keep  # noqa: E402

RATIOS, OVERLAPS, REPLICAS = (0.5, 1.0, 2.0, 4.0), (0.0, 0.25, 0.5, 0.75, 1.0), (1, 2, 3)
#: How much of a job is done when the next begins.
AFTER = (1.0, 0.5, 0.25, 0.0)


def rates(shape: Shape) -> list[str]:
    """Return the share of reads from memory under each scheduler, in percent."""
    return [f"{100 * simulate(shape, name).rate:.1f}" for name in SCHEDULERS]


def table(title: str, head: tuple[str, str], shapes: dict[tuple[str, str], Shape]) -> str:
    """Return a table of Markdown: a row for each shape, with the two cells that name it."""
    rows = [(*head, *SCHEDULERS), *((*cells, *rates(shape)) for cells, shape in shapes.items())]
    first, *others = ("| " + " | ".join(row) + " |" for row in rows)
    line = "|---" * len(head) + "|---:" * len(SCHEDULERS) + "|"
    about = f"`tests/bench/cluster.py --keep`. {Shape().told}."
    return "\n".join([f"### {title}", "", about, "", first, line, *others, ""])


def tables() -> dict[str, str]:
    """Return all tables, by title."""
    begins = "the second begins when the first is at"
    found: dict[str, tuple[tuple[str, str], dict[tuple[str, str], Shape]]] = {
        "Two jobs over the same data": (
            ("data : memory", begins),
            {
                (f"{ratio:g}", f"{after:.0%}"): Shape(ratio=ratio, second=after)
                for ratio in RATIOS
                for after in AFTER
            },
        ),
        "Two jobs over partly the same data, twice the memory": (
            ("overlap", begins),
            {
                (f"{overlap:.0%}", f"{after:.0%}"): Shape(overlap=overlap, second=after)
                for overlap in OVERLAPS
                for after in (1.0, 0.25)
            },
        ),
        "Replicas, and more jobs, twice the memory": (
            ("replicas", "jobs"),
            {
                (str(replicas), str(jobs)): Shape(replicas=replicas, jobs=jobs, second=0.25)
                for replicas in REPLICAS
                for jobs in (2, 4)
            },
        ),
    }
    return {title: table(title, head, shapes) for title, (head, shapes) in found.items()}


def cost(hosts: int, blocks: int) -> float:
    """Return the microseconds of the policy for a task: it is asked, and told of what came."""
    result = simulate(replace(Shape(), hosts=hosts, blocks=blocks, second=0.5), "late")
    return 1e6 * result.policy / result.reads


def main() -> int:
    """Simulate, and print the tables."""
    parser = argparse.ArgumentParser(description="Simulate what a cluster reads from memory.")
    parser.add_argument("--keep", action="store_true", help="put the tables into docs/cluster.md")
    args = parser.parse_args()
    found = tables()
    print("\n".join(found.values()))
    for hosts, blocks in ((3, 240), (30, 2400), (300, 24000)):
        print(f"{hosts} hosts, {blocks:,} blocks: {cost(hosts, blocks):.0f} us a task")
    if args.keep:
        keep(TOP / "docs/cluster.md", found, others=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
