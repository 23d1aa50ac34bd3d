# SPDX-License-Identifier: MIT
"""The command line: builds a driver that is measured, boots, and holds it to the bound."""

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from duetbench.build import LAB, PROJECT, about, modules, told_by
from duetbench.report import keep

from . import sections
from .report import Row, failures, tables
from .workloads import WORKLOADS

_HERE = Path(__file__).resolve().parent.parent
_OUT = PROJECT / "build/bounds"
#: What takes interrupts or preemption away, but for what is taken within such.
_ATOMIC = re.compile(
    r"\b((?:raw_)?(?:spin|read|write)_(?:seq)?(?:try)?lock_(?!init)\w+|spin_(?:try)?lock|(?:hlist_bl|bit_spin)_\w*lock"
    r"|local_(?:irq|bh)_(?:save|disable)|preempt_disable\w*|xas?_lock\w*|get_cpu\w*)\("
)
#: What stays out of the way of what is measured.
_QUIET = {"/proc/sys/vm/dirty_writeback_centisecs": "0"}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bounds.py",
        description="Measure in the lab, in instructions, how long interrupts or preemption are "
        "off in Duet, whatever a user makes long. Fails where that is longer than is promised.",
        epilog=f"Workloads: {', '.join(WORKLOADS)}.",
    )
    add = parser.add_argument
    add("--only", metavar="WORKLOADS", help="joined by commas")
    add("--kernel", default="6.12", metavar="SERIES", help="of `lab kernels` [6.12]")
    add("--keep", action="store_true", help="put the tables into docs/bounds.md")
    add("--timeout", type=int, default=3600, metavar="S", help="seconds for each boot [3600]")
    add("--few", action="store_true", help="each workload in its smaller size only")
    add("--in-guest", nargs=2, metavar=("WORKLOADS", "DIR"), help=argparse.SUPPRESS)
    return parser


def unmeasured(driver: Path) -> set[str]:
    """What the driver has interrupts or preemption off by that sections.h does not know."""
    known = set(re.findall(r"^#define (\w+)\(", (_HERE / "sections/sections.h").read_text(), re.M))
    known |= {"xa_lock_irq", "xas_lock_irq"}  # the kernel makes them of spin_lock_irq()
    code = "".join(
        re.sub(r"/\*.*?\*/", "", file.read_text(), flags=re.S) for file in driver.glob("*.[ch]")
    )
    return set(_ATOMIC.findall(code)) - known


def _build(kernel: str) -> Path:
    """Build what measures, and a driver that it measures; the directory."""
    if missed := unmeasured(PROJECT / "driver"):
        raise SystemExit(f"bounds: not in sections.h: {', '.join(sorted(missed))}")
    target = _OUT / kernel
    for name, source in (("sections", _HERE / "sections"), ("duet", PROJECT / "driver")):
        shutil.copytree(source, target / name, dirs_exist_ok=True)
    modules(kernel, target / "sections")
    symbols = f"KBUILD_EXTRA_SYMBOLS={target}/sections/Module.symvers"
    counted = f"KCFLAGS=-include {target}/sections/sections.h"
    modules(kernel, target / "duet", symbols, counted)
    return target


def _say(text: str) -> None:
    print(f"bounds: {text}", file=sys.stderr, flush=True)


# ---- in the guest ----


def _format() -> None:
    """Make /mnt/duet anew with room for very many directories, which take no block each."""
    disk = "/dev/ram0"
    for command in (
        ["umount", "/mnt/duet"],
        ["mke2fs", "-q", "-F", "-t", "ext4", "-N", "200000", "-O", "inline_data", disk],
        ["mount", "-o", "noatime", disk, "/mnt/duet"],
    ):
        subprocess.run(command, check=True)


def _measure_one(name: str, size: int, *, few: bool) -> None:
    @contextlib.contextmanager
    def part(what: str) -> Iterator[None]:
        sections.begin()
        yield
        row = Row.of(name, what, size, few, sections.take())
        print(json.dumps(row), flush=True)
        _say(f"{name}, {size}, {what}: {row.section():,}, {row.probe():,}, {row.allocation:,}")
        for line in failures([row]):
            _say(f"too long: {line}")

    WORKLOADS[name].run(part, size)


def _measure(names: list[str], *, few: bool) -> None:
    """The small sizes of all come first."""
    for name in names:
        _measure_one(name, WORKLOADS[name].few, few=True)
    for name in () if few else names:
        _measure_one(name, WORKLOADS[name].many, few=False)


def _in_guest(names: list[str], built: Path, *, few: bool) -> int:
    for file, value in _QUIET.items():
        Path(file).write_text(value)
    if WORKLOADS[names[0]].fs == "ext4":
        _format()
    for name in ("sections", "duet"):
        subprocess.run(["/sbin/insmod", built / name / f"{name}.ko"], check=True)
    # One user's tasks are all there are.
    Path("/sys/class/misc/duet/user_share_percent").write_text("100")
    try:
        _measure(names, few=few)
    finally:
        for name in ("duet", "sections"):
            subprocess.run(["/sbin/rmmod", name], check=True)
    return 0


# ---- on the host ----


def _boot(
    args: argparse.Namespace, fs: str, names: list[str], built: Path
) -> tuple[list[Row], int]:
    """Measure workloads of one file system in one boot; the lab's status is the second."""
    command = [
        *(str(LAB), "run", "-q", "--no-load", "--kernel", args.kernel, "--fs", fs, "--icount"),
        *("--disk-size", "512", "--mem", "1600", "--timeout", str(args.timeout), "--"),
        *("python", str(_HERE / "bounds.py"), "--in-guest", ",".join(names), str(built)),
        *(["--few"] if args.few else []),
    ]
    told, status = told_by(command)
    return [Row.back(one) for one in told], status


def main(argv: list[str]) -> int:
    """The exit status: 1 where something is longer than it may be."""
    args = _parser().parse_args(argv)
    if args.in_guest:
        return _in_guest(args.in_guest[0].split(","), Path(args.in_guest[1]), few=args.few)
    names = args.only.split(",") if args.only else list(WORKLOADS)
    unknown = set(names) - set(WORKLOADS)
    if unknown:
        print(f"bounds: no workload {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    built = _build(args.kernel)
    rows: list[Row] = []
    failed = False
    for fs in dict.fromkeys(WORKLOADS[name].fs for name in names):
        here = [name for name in names if WORKLOADS[name].fs == fs]
        more, status = _boot(args, fs, here, built)
        rows += more
        if status:
            print(f"bounds: on {fs} the lab failed, status {status}", file=sys.stderr)
            failed = True
    measured = tables(rows, about("tests/bounds/bounds.py", argv, args.kernel))
    text = "\n".join(measured.values())
    (_OUT / "bounds.md").write_text(text)
    if args.keep:
        keep(PROJECT / "docs/bounds.md", measured, others=True)
    print(text)
    for line in failures(rows):
        _say(f"too long: {line}")
    return 1 if failed or failures(rows) else 0
