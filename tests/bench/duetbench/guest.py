# SPDX-License-Identifier: MIT
"""In the guest: the states of the system that work is measured in, and the measuring."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

MOUNT = "/mnt/duet"
# A tmpfs: what is read from here is no page of the host's, and stays.
HERE = "/run/bench"

ADDED, REMOVED, DIRTY, FLUSHED, MODIFIED, EXISTS = 1, 2, 4, 8, 16, 32
MASKS = {"added": ADDED, "dirty": DIRTY, "flushed": FLUSHED, "removed": REMOVED}
EVENTS = ADDED | REMOVED | DIRTY | FLUSHED
STATES = EXISTS | MODIFIED
KINDS = tuple(MASKS)


class Sample(NamedTuple):
    """One figure: nanoseconds, which are instructions with --icount, per page or file."""

    section: str
    state: str
    kind: str
    value: float


class Settings(NamedTuple):
    """What the host passes on."""

    flat_files: int


class State(NamedTuple):
    """How the system is while work is measured; entered anew for each measurement."""

    name: str
    enter: Callable[[], contextlib.AbstractContextManager[object]]


def call(*command: str) -> str:
    """Run a program to its end; its output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def load(*arguments: str) -> list[tuple[str, float]]:
    """Run a workload: what was timed, per page or file."""
    lines = [line.split() for line in call(f"{HERE}/load", *arguments).splitlines()]
    return [(kind, int(took) / int(count)) for kind, took, count in lines]


def tree(directory: str, files: int, size: int) -> None:
    """Make so many files."""
    os.makedirs(directory, exist_ok=True)
    load("tree", directory, str(files), str(size))


def attribute(name: str) -> int:
    """A number of Duet's in sysfs."""
    return int(Path(f"/sys/class/misc/duet/{name}").read_text())


def say(text: str) -> None:
    """Progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def emit(sample: Sample) -> None:
    """Hand a figure to the host."""
    print(json.dumps(sample), flush=True)


@contextlib.contextmanager
def prepared(directory: Path, *, steady: bool) -> Iterator[None]:
    """The programs are where reading them costs nothing, and memory's price is steady."""
    shutil.rmtree(HERE, ignore_errors=True)
    shutil.copytree(directory, HERE)
    # A time of access that is written at some time is work that nobody measures.
    call("mount", "-o", "remount,noatime", MOUNT)
    for name in ("watched", "elsewhere"):
        os.makedirs(f"{MOUNT}/{name}", exist_ok=True)
    with contextlib.ExitStack() as stack:
        if steady:
            # The kernel tunes how many free pages a CPU keeps, and takes ever more at a time.
            Path("/proc/sys/vm/percpu_pagelist_high_fraction").write_text("100000")
            command = [f"{HERE}/load", "ballast", "300"]
            ballast = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(ballast.kill)
            if ballast.stdout is not None:
                ballast.stdout.readline()
        yield


@contextlib.contextmanager
def module(name: str, options: str = "") -> Iterator[None]:
    """A module is loaded."""
    call(f"{HERE}/load", "insmod", f"{HERE}/{name}.ko", options)
    try:
        yield
    finally:
        call(f"{HERE}/load", "rmmod", name)


@contextlib.contextmanager
def duet(max_tasks: int = 8) -> Iterator[None]:
    """Duet is loaded and on, and has room for what the workloads have cached."""
    with module("duet"):
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
        for name in ("limit_bytes", "task_limit_bytes"):
            Path(f"/sys/class/misc/duet/{name}").write_text(str(room))
        call(f"{HERE}/task", "start", str(max_tasks))
        try:
            yield
        finally:
            call(f"{HERE}/task", "stop")


class Holder:
    """A process that holds tasks."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, line: str) -> list[str]:
        """One command of `task hold`, and its answer."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("no pipes")
        if line:
            stdin.write(f"{line}\n")
            stdin.flush()
        answer = stdout.readline().split()
        if not answer:
            raise RuntimeError(f"the holder of tasks died at: {line}")
        return answer


@contextlib.contextmanager
def holder(*command: str) -> Iterator[Holder]:
    """A program that holds something runs, and reads what it is told when it is asked to."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        held = Holder(process)
        held.ask("")
        yield held


@contextlib.contextmanager
def tasks(
    count: int, mask: int, path: str = f"{MOUNT}/watched", done: str = "", max_tasks: int = 8
) -> Iterator[Holder]:
    """Duet is on with so many tasks; `done` is what they are told first."""
    command = (f"{HERE}/task", "hold", str(count), str(mask), path)
    with duet(max_tasks), holder(*command) as held:
        if done:
            held.ask(done)
        yield held


def peer(where: str, name: str) -> contextlib.AbstractContextManager[Holder]:
    """One of the programs of bpf/peer.c."""
    return holder(f"{HERE}/peer", where, name)


@contextlib.contextmanager
def ftrace_events() -> Iterator[None]:
    """The kernel's own trace buffer takes what Duet would; it is not read."""
    events = Path("/sys/kernel/tracing/events")
    names = (
        "filemap/mm_filemap_add_to_page_cache",
        "filemap/mm_filemap_delete_from_page_cache",
        "writeback/writeback_dirty_folio",
    )
    for name in names:
        (events / name / "enable").write_text("1")
    try:
        yield
    finally:
        for name in names:
            (events / name / "enable").write_text("0")
        (events.parent / "trace").write_text("")


@contextlib.contextmanager
def other_file_system() -> Iterator[str]:
    """A second file system, and a directory on it."""
    image, where = "/tmp/other.img", "/tmp/other"  # noqa: S108  the guest is ours alone
    os.makedirs(where, exist_ok=True)
    with open(image, "wb") as handle:
        handle.truncate(16 << 20)
    call("mkfs.ext4", "-q", "-F", image)
    call("modprobe", "loop")
    call("mount", "-o", "loop", image, where)
    os.makedirs(f"{where}/watched", exist_ok=True)
    try:
        yield f"{where}/watched"
    finally:
        call("umount", where)


def nothing() -> contextlib.AbstractContextManager[object]:
    """No module at all."""
    return contextlib.nullcontext()


def measure(section: str, state: State, work: Callable[[], list[tuple[str, float]]]) -> None:
    """Measure the work in a state."""
    with state.enter():
        figures = work()
    for kind, value in figures:
        emit(Sample(section, state.name, kind, value))
    shown = "  ".join(f"{kind} {value:.1f}" for kind, value in figures)
    say(f"{section}, {state.name}: {shown}")
