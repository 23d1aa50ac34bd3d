#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""First light: watch real programs at work in a directory, through the page cache.

usage: first_light.py DIRECTORY

DIRECTORY is a scratch copy: files are made, moved and removed in it. Two tasks are registered on
it: one is told the state of the cache, one every event. While ordinary programs run, the news is
printed as it comes. At the end what the first task was told is compared, page by page, with the
kernel's own answer (mincore); the exit code is 1 when they differ.

Needs root, and Duet loaded.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

import ioctl_opt

import pyduet
from pyduet import Device, FileId, Item, Mask, State, Tally, Task

PAGE = os.sysconf("SC_PAGE_SIZE")
LINES_PER_STEP = 9
#: Nothing came for so many seconds: all was told.
QUIET = 0.3

FS_IOC_GETVERSION = ioctl_opt.IOR(ord("v"), 1, ctypes.c_long)

MMAP_WRITER = """
import mmap, os
with open("mapped", "w+b") as file:
    file.truncate(64 * mmap.PAGESIZE)
    with mmap.mmap(file.fileno(), 0) as memory:
        for page in range(8, 24):
            memory[page * mmap.PAGESIZE] = 1
        memory.flush()
"""
DATABASE = """
import sqlite3
with sqlite3.connect("database") as base:
    base.execute("create table word (word text, length integer)")
    words = open("copy/python/argparse.py").read().split()
    base.executemany("insert into word values (?, ?)", ((w, len(w)) for w in words))
with base:
    base.execute("delete from word where length < 4")
base.execute("vacuum")
"""
GIT = """
git init -q repository
cp -r python/email python/encodings repository
cd repository
git add .
git -c user.name=Duet -c user.email=duet@localhost commit -q -m First
git gc -q
"""

#: What the programs do; each line is a shell command, run in the directory.
STEPS = [
    ("read all of it", "tar cf - . | cat >/dev/null"),
    ("read it again: it is cached, so nothing is new", "grep -rl Duet python doc || true"),
    ("copy a part", "mkdir copy && cp -r python copy"),
    ("move a directory and a file: the pages stay", "mv lib library && mv copy/python/os.py ."),
    ("edit in place, through a mapping", f"python3 -c '{MMAP_WRITER}'"),
    ("a database", f"python3 -c '{DATABASE}'"),
    ("a git repository", GIT),
    (
        "write 4 MiB, and make sure of it",
        "dd if=/dev/zero of=block bs=64k count=64 conv=fsync status=none",
    ),
    ("write the rest back", "sync"),
    ("remove the copy", "rm -r copy"),
    ("make the kernel forget what is clean", "echo 3 >/proc/sys/vm/drop_caches"),
    ("read a part once more", "cat include/*.h python/*.py library/* >/dev/null"),
    ("read the middle of a file", "dd if=block of=/dev/null bs=4k skip=500 count=100 status=none"),
    ("leave something dirty", "cp -r zoneinfo zones"),
]


class Screen:
    """Prints; in colour and with a status line below where there is a terminal."""

    COLOURS = (
        (State.REMOVED, "31"),
        (State.DIRTY, "33"),
        (State.FLUSHED, "34"),
        (State.ADDED, "32"),
        (State.OVERFLOW, "35"),
    )

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._colour = self._live and not os.environ.get("NO_COLOR")
        self._next_status = 0.0

    def print(self, text: str = "") -> None:
        print(("\r\x1b[K" if self._live else "") + text, flush=True)

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text

    def heading(self, text: str) -> None:
        self.print()
        self.print(self.paint(text, "1"))

    def news(self, item: Item, path: str) -> None:
        colour = next(colour for bit, colour in self.COLOURS if bit in item.state)
        words = self.paint(f"{'+'.join(item.state.names):14}", colour)
        pages = str(item.index) if item.pages < 2 else f"{item.index}-{item.end - 1}"
        clock = time.monotonic() - self._begin
        self.print(f"{clock:7.2f} s  {words}  {path}  {self.paint(f'[{pages}]', '2')}")

    def status(self, text: str) -> None:
        """Show text on the line below, at most ten times a second."""
        now = time.monotonic()
        if self._live and now >= self._next_status:
            self._next_status = now + 0.1
            width = shutil.get_terminal_size().columns - 1
            print("\r\x1b[K" + text[:width], end="", flush=True)


@dataclass
class Flood:
    """What a step brought beyond the lines that are printed."""

    lines: int = 0
    pages: int = 0
    files: set[FileId] = field(default_factory=set)

    def add(self, item: Item) -> None:
        self.pages += item.pages
        self.files.add(item.file)


class Watch:
    """Both tasks and what they told so far."""

    def __init__(self, screen: Screen, device: Device, root: str) -> None:
        self._screen = screen
        self._root = root
        self.state: Task = device.register(root, Mask.EXISTS | Mask.MODIFIED)
        everything = Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED
        self.every: Task = device.register(root, everything)
        self.tally = Tally(self.state.mask, pages=True)
        #: Pages per kind of event, as the event-based task was told.
        self.events: Counter[State] = Counter()
        self.items = 0
        self._names: dict[FileId, str] = {}
        self._cached = 0

    def take(self, flood: Flood) -> bool:
        """Read both tasks once and print the first lines; False when nothing was pending."""
        items = self.state.read()
        self.tally.apply(items)
        self.items += len(items)
        for item in items:
            if item.state & State.ADDED:
                self._cached += item.pages
                if item.file not in self._names:
                    self.name_of(item.file)  # learnt now, for when it is gone
            if item.state & State.REMOVED:
                self._cached -= item.pages
            if flood.lines < LINES_PER_STEP:
                flood.lines += 1
                self._screen.news(item, self.name_of(item.file))
            else:
                flood.add(item)
        events = self.every.read()
        for item in events:
            for bit in State:
                if bit in item.state:
                    self.events[bit] += item.pages
        self._screen.status(
            f"  {self._cached:,} pages cached, {sum(self.events.values()):,} events"
        )
        return bool(items or events)

    def settle(self, flood: Flood) -> None:
        """Take until nothing comes any more."""
        poll = select.poll()
        poll.register(self.state, select.POLLIN)
        poll.register(self.every, select.POLLIN)
        while self.take(flood) or poll.poll(QUIET * 1000):
            pass

    def name_of(self, file: FileId) -> str:
        """The path in the directory; the last known one, in brackets, when the file is gone."""
        try:
            self._names[file] = os.path.relpath(self.state.path_of(file), self._root)
        except pyduet.PathNotFoundError:
            return f"({self._names.get(file, file)})"
        return self._names[file]

    def run(self, command: str) -> None:
        """Run a shell command in the directory, and take what comes meanwhile and after."""
        flood = Flood()
        # Programs start in the directory; their own files are elsewhere, so unwatched.
        with subprocess.Popen(["bash", "-ec", command], cwd=self._root) as process:
            ended = os.pidfd_open(process.pid)
            poll = select.poll()
            for source in (ended, self.state, self.every):
                poll.register(source, select.POLLIN)
            while ended not in (fd for fd, _ in poll.poll()):
                self.take(flood)
            os.close(ended)
        if process.returncode:
            raise SystemExit(f"first_light: exit code {process.returncode} of: {command}")
        self.settle(flood)
        if flood.files:
            self._screen.print(
                f"{'':11}… and {flood.pages:,} more pages of {count(len(flood.files), 'file')}"
            )
        elif not flood.lines:
            self._screen.print(f"{'':11}nothing")


def ranges(pages: AbstractSet[int]) -> str:
    """Page numbers in words: ``0-3 7``, or ``none``."""
    runs: list[list[int]] = []
    for page in sorted(pages):
        if runs and page == runs[-1][1] + 1:
            runs[-1][1] = page
        else:
            runs.append([page, page])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs) or "none"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Found:
    """A regular file of the directory: what the kernel calls it, and its path."""

    ino: int
    generation: int
    path: Path


def files_below(root: str) -> Iterator[Found]:
    """Open every regular file and yield it, a hard-linked one once."""
    seen: set[int] = set()
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            info = path.lstat()
            if not stat.S_ISREG(info.st_mode) or info.st_ino in seen:
                continue
            seen.add(info.st_ino)
            fd = os.open(path, os.O_RDONLY)
            answer = ctypes.c_uint32()
            fcntl.ioctl(fd, FS_IOC_GETVERSION, answer)
            os.close(fd)
            yield Found(info.st_ino, answer.value, path)


@dataclass
class Verdict:
    """How what was told compares with what is."""

    files: int
    pages: int
    agreed: int
    differences: list[str]


def compare(watch: Watch, files: list[Found]) -> Verdict:
    """Compare what the state-based task was told with mincore, file by file."""
    tally = watch.tally
    pages = agreed = 0
    differences = []
    untold = {file: file for file in tally.cached_files()}
    for found in files:
        file = FileId(found.ino, found.generation)
        untold.pop(file, None)
        told, true = tally.cached(file), pyduet.cached_pages(found.path)
        pages += len(true)
        agreed += len(true & told)
        if told != true:
            differences.append(
                f"{found.path}: cached but not told: {ranges(true - told)}; "
                f"told but not cached: {ranges(told - true)}"
            )
        if dirty := tally.dirty(file):
            differences.append(f"{found.path}: told dirty after sync: {ranges(dirty)}")
    for file in untold:
        differences.append(
            f"{watch.name_of(file)}: no such file, told cached: {ranges(tally.cached(file))}"
        )
    return Verdict(len(files), pages, agreed, differences)


def check(watch: Watch, root: str) -> Verdict:
    """Write all back, let the stream settle, and compare; again only if there was more to read."""
    os.sync()
    # Opening a file shows its names to the driver, which may have more to tell then.
    files = list(files_below(root))
    watch.settle(Flood(lines=LINES_PER_STEP))
    while True:
        verdict = compare(watch, files)
        before = watch.items
        watch.settle(Flood(lines=LINES_PER_STEP))
        if not verdict.differences or watch.items == before:
            return verdict


def summary(screen: Screen, watch: Watch) -> None:
    screen.heading("Events by kind")
    for bit in State:
        if bit is State.OVERFLOW:
            continue  # of no page
        colour = dict(screen.COLOURS)[bit]
        name = screen.paint(f"{str(bit.name).lower():8}", colour)
        screen.print(f"  {name} {watch.events[bit]:>10,} pages")

    screen.heading("Most cached")
    for file, count in watch.tally.most_cached(10):
        cached = count.cached
        name = watch.name_of(file)
        with contextlib.suppress(OSError):
            size = -(-os.stat(os.path.join(watch.state.path, name)).st_size // PAGE)
            bar = "█" * round(20 * cached / size) if size else ""
            screen.print(f"  {bar:░<20}  {cached:>5,} of {size:>5,} pages  {name}")


def main() -> int:
    if len(sys.argv) != 2:
        print(textwrap.dedent(__doc__ or "").strip(), file=sys.stderr)
        return 2
    root = os.path.realpath(sys.argv[1])
    screen = Screen()
    with Device() as device:
        if not device.is_on():
            device.start()
        watch = Watch(screen, device, root)
        with watch.state, watch.every:
            screen.heading(f"Duet watches {root}: what is cached of it already")
            watch.run("true")
            for title, command in STEPS:
                screen.heading(title)
                screen.print(screen.paint(textwrap.indent(command.strip(), "  $ "), "2"))
                watch.run(command)
            verdict = check(watch, root)
            summary(screen, watch)

    screen.heading("Told, against the kernel's own answer (mincore)")
    for line in verdict.differences:
        screen.print(screen.paint("  " + line, "31"))
    if verdict.differences:
        screen.print(f"  DISAGREES on {count(len(verdict.differences), 'file')}")
        return 1
    screen.print(
        screen.paint(
            f"  agrees on {verdict.files:,} of {count(verdict.files, 'file')}, "
            f"{verdict.agreed:,} of {count(verdict.pages, 'page')}; nothing dirty after sync",
            "32",
        )
    )
    if sys.stdin.isatty() and sys.stdout.isatty():
        offer_the_screen(screen, root)
    return 0


def offer_the_screen(screen: Screen, root: str) -> None:
    """Offer a look at the administrator's screen, while programs work and tasks listen."""
    screen.heading("The administrator's screen, on a workload that goes on")
    screen.print("  duet tui: digits change the screen, F1 helps, q leaves.")
    if input("  Open it? [Y/n] ").strip().lower() not in ("", "y", "yes"):
        return
    busy = [sys.executable, os.fspath(Path(__file__).with_name("busy.py")), root]
    with subprocess.Popen(busy) as workload:
        try:
            subprocess.run([sys.executable, "-m", "pyduet", "tui"], check=True)
        finally:
            workload.terminate()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EOFError:
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(130)
    except pyduet.DuetError as error:
        sys.exit(f"first_light: {error}")
