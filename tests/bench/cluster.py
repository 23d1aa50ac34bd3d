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


def table(title: str, about: str, head: list[str], rows: list[list[str]]) -> str:
    """Return a table of Markdown."""
    line = "|---" * (len(head) - len(SCHEDULERS)) + "|---:" * len(SCHEDULERS) + "|"
    body = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    return "\n".join([f"### {title}", "", about, "", body[0], line, *body[1:], ""])


def tables() -> dict[str, str]:
    """Return all tables, by title."""
    columns = list(SCHEDULERS)
    about = f"`tests/bench/cluster.py --keep`. {Shape().told}."
    found = {}
    title = "Two jobs over the same data"
    found[title] = table(
        title,
        about,
        ["data : memory", "the second begins when the first is at", *columns],
        [
            [f"{ratio:g}", f"{after:.0%}", *rates(Shape(ratio=ratio, second=after))]
            for ratio in RATIOS
            for after in AFTER
        ],
    )
    title = "Two jobs over partly the same data, twice the memory"
    found[title] = table(
        title,
        about,
        ["overlap", "the second begins when the first is at", *columns],
        [
            [f"{overlap:.0%}", f"{after:.0%}", *rates(Shape(overlap=overlap, second=after))]
            for overlap in OVERLAPS
            for after in (1.0, 0.25)
        ],
    )
    title = "Replicas, and more jobs, twice the memory"
    found[title] = table(
        title,
        about,
        ["replicas", "jobs", *columns],
        [
            [str(replicas), str(jobs), *rates(Shape(replicas=replicas, jobs=jobs, second=0.25))]
            for replicas in REPLICAS
            for jobs in (2, 4)
        ],
    )
    return found


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
