# SPDX-License-Identifier: MIT
"""The command line: boots a machine for each section, and writes the report."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]
OUT = PROJECT / "build/io-saved"


@dataclass(frozen=True)
class Section:
    """A machine for what is measured in one boot."""

    fs: tuple[str, ...]
    mem_mib: int = 320
    #: Data, in multiples of the memory.
    times: float = 4
    #: What the disk does, in MiB a second; None: what it can.
    rate: int | None = None
    #: Whether it can be measured on another file system as well.
    elsewhere: bool = True


_SECTIONS = {
    "tasks": Section(("ext4", "btrfs")),
    "four": Section(("ext4", "btrfs")),
    "turns": Section(("ext4", "btrfs")),
    "foreground": Section(("ext4", "btrfs")),
    # A rate is so slow that the disk is what everybody waits for, not the emulated processor.
    "speed": Section(("ext4", "btrfs"), times=1, rate=8),
    "apart": Section(("ext4",)),
    "slow": Section(("ext4",)),
    "tenth": Section(("ext4",), mem_mib=256, times=10),
    "large": Section(("ext4",)),
    "large-slow": Section(("ext4",), rate=20),
    "f2fs": Section(("f2fs",), mem_mib=512, times=0.5, elsewhere=False),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="io_saved.py",
        description="Measure in the lab how much I/O maintenance tasks save with Duet, and write "
        "docs/io-saved.md and its pictures.",
        epilog=f"Sections: {', '.join(_SECTIONS)}.",
    )
    add = parser.add_argument
    add("--only", metavar="SECTIONS", default=",".join(_SECTIONS), help="joined by commas")
    add("--kernel", default="6.12", metavar="SERIES", help="of `lab kernels` [6.12]")
    add("--fs", help="instead of each section's own, where there is a choice")
    add("--scale", type=float, default=1.0, help="of the data, for a look; the report says so [1]")
    add("--at-a-time", type=int, default=os.cpu_count() or 1, metavar="N", help="machines")
    add("--report", action="store_true", help="only write the report anew, of what was measured")
    add("--in-guest", nargs=2, metavar=("SECTION", "BYTES"), help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run; the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.in_guest:
        from .scenarios import measure

        measure(args.in_guest[0], int(args.in_guest[1]))
        return 0
    wanted = args.only.split(",")
    if unknown := set(wanted) - set(_SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    OUT.mkdir(parents=True, exist_ok=True)
    failed = False
    if not args.report:
        jobs = [(name, fs) for name in wanted for fs in _file_systems(_SECTIONS[name], args.fs)]
        with ThreadPoolExecutor(args.at_a_time) as pool:
            failed = any(list(pool.map(lambda job: _boot(args, *job), jobs)))
    from . import report  # it needs matplotlib, and the guest does not

    report.write(OUT)
    return int(failed)


def _file_systems(section: Section, instead: str | None) -> tuple[str, ...]:
    return (instead,) if instead and section.elsewhere else section.fs


def _boot(args: argparse.Namespace, name: str, fs: str) -> bool:
    """Measure a section on a file system; whether that failed. Results are kept as they come."""
    section = _SECTIONS[name]
    size = int(section.mem_mib * section.times * args.scale) << 20
    # The data, an archive, a copy, and what is moved.
    disk = int((size >> 20) * 4.5) + 600
    slow = ["--disk-rate", str(section.rate)] if section.rate is not None else []
    file = OUT / f"{name}-{fs}.jsonl"
    file.unlink(missing_ok=True)
    command = [
        str(PROJECT / "tests/vm/lab"), "run", "--kernel", args.kernel, "--fs", fs,
        "--mem", str(section.mem_mib), "--smp", "2", "--disk-size", str(disk),
        *slow, "--timeout", "14400", "--",
        "python", "tests/bench/io_saved.py", "--in-guest", name, str(size),
    ]  # fmt: skip
    with (
        subprocess.Popen(
            command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as lab,
        ThreadPoolExecutor(1) as pool,
    ):
        pool.submit(_words, lab.stderr, f"{name} {fs}")
        for line in lab.stdout or ():
            found: dict[str, Any] = json.loads(line)
            found |= {"kernel": args.kernel, "scale": args.scale, "disk_rate": section.rate}
            with file.open("a") as results:
                results.write(json.dumps(found) + "\n")
    if lab.returncode:
        print(f"io-saved: {name} on {fs} failed, status {lab.returncode}", file=sys.stderr)
    return lab.returncode != 0


def _words(stream: Any, name: str) -> None:
    for line in stream:
        print(f"{name}: {line}", end="", file=sys.stderr, flush=True)
