# SPDX-License-Identifier: GPL-2.0-only
"""The command line: orders the measurements and writes the report."""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import guest, scenarios
from .build import BENCH, LAB, OUT, PROJECT, build, output_of
from .guest import Sample, Settings
from .report import Figures, keep

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
}
# The 1,000,000: room for their inodes, on the disk and in memory.
_FULL = Section(scenarios.flat, disk_mib=17000, mem_mib=10240, steady=False)


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


class Bench:
    """One run of the bench, on the host."""

    def __init__(self, args: argparse.Namespace, sections: list[str]) -> None:
        self._args = args
        self._programs = build(args.kernel, peers="peers" in sections)
        self.figures = Figures()

    def run(self, name: str) -> None:
        """Measure a section, on its file systems, in as many boots as it needs."""
        section = _FULL if name == "flat" and self._args.full else _SECTIONS[name]
        for fs in (self._args.fs,) if self._args.fs else section.fs:
            for boot in range(self._args.boots if section.repeated else 1):
                begin = time.monotonic()
                _say(f"{name} on {fs}" + (f", boot {boot + 1}" if section.repeated else ""))
                self._boot(name, section, fs)
                _say(f"{name} took {time.monotonic() - begin:.0f} s")

    def _boot(self, name: str, section: Section, fs: str) -> None:
        args = self._args
        options = ["--smp", str(section.smp)] if section.smp else ["--icount"]
        command = [
            *(str(LAB), "run", "-q", "--no-load", "--kernel", args.kernel, "--fs", fs, *options),
            *("--disk-size", str(section.disk_mib), "--mem", str(section.mem_mib)),
            *("--timeout", "7200" if args.full else "1800", "--"),
            *("python3", str(BENCH / "bench.py"), "--in-guest", name, str(self._programs)),
            *(["--full"] if args.full else []),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                if line.startswith("["):
                    sample = Sample(*json.loads(line))
                    self.figures.add(f"{sample.section} ({fs})", sample)
                else:
                    sys.stderr.write(line)
        if process.returncode:
            raise SystemExit(f"bench: {name} failed, status {process.returncode}")


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _about(args: argparse.Namespace, argv: list[str]) -> str:
    """What was measured, by which command."""
    commit = output_of("git", "-C", str(PROJECT), "describe", "--always", "--dirty")
    headers = Path(output_of(str(LAB), "headers", "--kernel", args.kernel)).name
    release = headers.removeprefix("linux-headers-")
    day = time.strftime("%Y-%m-%d")
    command = " ".join(["tests/bench/bench.py", *argv])
    return f"`{command}`, {day}, driver of commit {commit}, kernel {release}."


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
    bench = Bench(args, sections)
    for name in sections:
        bench.run(name)
    about = _about(args, argv)
    rows = list(bench.figures.rows())
    (OUT / "bench.json").write_text(json.dumps({"about": about, "figures": rows}, indent=1) + "\n")
    tables = f"{about}\n\n{bench.figures.markdown()}"
    (OUT / "bench.md").write_text(tables)
    if args.keep:
        keep(tables)
    print(tables)
    return 0
