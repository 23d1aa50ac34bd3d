# SPDX-License-Identifier: MIT
"""The command line: orders the measurements and writes the report."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import guest, scenarios
from .build import BENCH, LAB, OUT, PROJECT, about, build, told_by
from .guest import Sample, Settings
from .library import library
from .report import Figures, keep
from .residency import residency

_FLAT_FILES = 100_000
_FLAT_FULL = 1_000_000


@dataclass(frozen=True)
class Section:
    """What is measured in one boot, and the machine for it."""

    run: Callable[[Settings], None]
    fs: tuple[str, ...] = ("ext4",)
    disk_mib: int = 480
    mem_mib: int = 1600
    smp: int = 0  # 0: one, and time is instructions
    steady: bool = True
    repeated: bool = False  # as often as --boots says


_SECTIONS = {
    "core": Section(scenarios.core),
    "events": Section(scenarios.events, fs=("ext4", "xfs")),
    "read": Section(scenarios.read),
    "small": Section(scenarios.small, repeated=True),
    "flat": Section(scenarios.flat, mem_mib=2048, steady=False),
    "memory": Section(scenarios.memory, steady=False),
    "cores": Section(scenarios.cores, smp=8, steady=False),
    "peers": Section(scenarios.peers),
    "library": Section(library),
    "residency": Section(residency, mem_mib=2048, steady=False),
}
# The 1,000,000: room for their inodes, on the disk and in memory. Where one zone is used up, each
# page costs 160 instructions more to allocate, whoever asks: so there is room for that, too.
_FULL = Section(scenarios.flat, disk_mib=17000, mem_mib=14336, steady=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description="Measure in the lab what Duet costs, and what its peers do.",
        epilog=f"Sections: {', '.join(_SECTIONS)}. Without --only: all but core, which is a quick "
        "look at the others' most important rows.",
    )
    add = parser.add_argument
    add("--only", metavar="SECTIONS", help="joined by commas")
    add("--kernel", default="6.12", metavar="SERIES", help="of `lab kernels` [6.12]")
    add("--fs", choices=("ext4", "xfs", "btrfs"), help="instead of each section's own")
    add("--boots", type=int, default=2, metavar="N", help="for the small files [2]")
    add("--full", action="store_true", help=f"flat with {_FLAT_FULL:,} inodes, not {_FLAT_FILES:,}")
    add("--keep", action="store_true", help="put the tables into docs/performance.md")
    add("--in-guest", nargs=2, metavar=("SECTION", "DIR"), help=argparse.SUPPRESS)
    return parser


class Job(NamedTuple):
    """One boot."""

    name: str
    section: Section
    fs: str
    boot: int

    def __str__(self) -> str:
        return f"{self.name} on {self.fs}" + (f", boot {self.boot}" if self.boot else "")


class Bench:
    """One run of the bench, on the host."""

    def __init__(self, args: argparse.Namespace, sections: list[str]) -> None:
        self._args = args
        self._jobs = [job for name in sections for job in self._jobs_of(name)]
        self._programs = build(args.kernel, peers="peers" in sections)

    def run(self) -> Figures:
        """Measure. Counts do not mind company, so as many boots at a time as there are processors.

        What is measured in time comes after that, alone.
        """
        figures = Figures()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            counted = {
                job: pool.submit(self._measure, job) for job in self._jobs if not job.section.smp
            }
            samples = {job: future.result() for job, future in counted.items()}
        for job in self._jobs:
            for sample in samples.get(job) or self._measure(job):
                figures.add(f"{sample.section} ({job.fs})", sample)
        return figures

    def _jobs_of(self, name: str) -> Iterator[Job]:
        """Yield a boot for each file system, or several."""
        section = _FULL if name == "flat" and self._args.full else _SECTIONS[name]
        for fs in (self._args.fs,) if self._args.fs else section.fs:
            for boot in range(1, self._args.boots + 1) if section.repeated else (0,):
                yield Job(name, section, fs, boot)

    def _measure(self, job: Job) -> list[Sample]:
        """Return the samples of one boot."""
        args, section, begin = self._args, job.section, time.monotonic()
        _say(f"{job}: begins")
        options = ["--parallel", "--smp", str(section.smp)] if section.smp else ["--icount"]
        command = [
            *(str(LAB), "run", "-q", "--no-load", "--kernel", args.kernel, "--fs", job.fs),
            *(*options, "--disk-size", str(section.disk_mib), "--mem", str(section.mem_mib)),
            *("--timeout", "7200" if args.full else "3600", "--"),
            *("python3", str(BENCH / "bench.py"), "--in-guest", job.name, str(self._programs)),
            *(["--full"] if args.full else []),
        ]
        told, status = told_by(command)
        if status:
            raise SystemExit(f"bench: {job} failed, status {status}")
        _say(f"{job}: took {time.monotonic() - begin:.0f} s")
        return [Sample(*one) for one in told]


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    """The bench's exit status."""
    args = _parser().parse_args(argv)
    if args.in_guest:
        name, programs = args.in_guest
        settings = Settings(flat_files=_FLAT_FULL if args.full else _FLAT_FILES)
        with guest.prepared(Path(programs), steady=_SECTIONS[name].steady):
            _SECTIONS[name].run(settings)
        return 0
    sections = args.only.split(",") if args.only else [name for name in _SECTIONS if name != "core"]
    unknown = set(sections) - set(_SECTIONS)
    if unknown:
        print(f"bench: no section {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    figures = Bench(args, sections).run()
    how = about("tests/bench/bench.py", argv, args.kernel)
    rows = list(figures.rows())
    (OUT / "bench.json").write_text(json.dumps({"about": how, "figures": rows}, indent=1) + "\n")
    tables = figures.tables(how)
    text = "\n".join(tables.values())
    (OUT / "bench.md").write_text(text)
    if args.keep:
        keep(PROJECT / "docs/performance.md", tables, others=bool(args.only))
    print(text)
    return 0
