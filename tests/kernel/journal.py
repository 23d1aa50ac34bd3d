# SPDX-License-Identifier: MIT
"""The kernel's own trace of the page cache: the truth that event-based tasks are held against.

Two trace events, and probes on __folio_mark_dirty(), which is called when a
folio becomes dirty, and folio_clear_dirty_for_io(), recorded by ftrace in an
instance of its own, without anything of Duet. What the latter tells of pages
that are not dirty is left out here, by what was traced before.
"""

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from truth import PAGE, TRACEFS, Watch, identity

from pyduet import Mask, State

EVENTS = (
    "filemap/mm_filemap_add_to_page_cache",
    "filemap/mm_filemap_delete_from_page_cache",
    "duet_truth/dirtied",
    "duet_truth/cleaned",
)
#: struct folio and struct inode have these offsets on amd64 in every kernel of the lab, but for
#: two things; _prove() sees that they are right. A large folio's order is 6.1's or later ones',
#: and the debug kernel has neither ACLs nor security modules, nor their pointers in an inode.
ARGUMENTS = (
    "ino=+{ino}(+0(+0x18(%di))):u64 dev=+0x10(+{sb}(+0(+0x18(%di)))):u32 index=+0x20(%di):u64 "
    "flags=+0(%di):x64 order=+{order}(%di):u8"
)
OLD = os.uname().release.startswith("6.1.")
DEBUG = "-debug-" in os.uname().release
ORDER, PG_HEAD = ("0x51", 1 << 16) if OLD else ("0x40", 1 << 6)
SB, INO = ("0x18", "0x28") if DEBUG else ("0x28", "0x40")
PROBES = {
    "cleaned": "folio_clear_dirty_for_io",
    "dirtied": "__folio_mark_dirty",
}
LINE = re.compile(r"^ *(?P<comm>.+)-\d+ +\[\d+\] \S+ +[\d.]+: (?P<event>\w+): (?P<rest>.*)$")


class Event(NamedTuple):
    """Something that happened to one folio."""

    state: State
    ino: int
    index: int
    pages: int
    #: Name of the thread in whose context it happened.
    comm: str

    def range(self) -> range:
        """Return the pages concerned."""
        return range(self.index, self.index + self.pages)


class Journal:
    """What happened to the pages of one file system since the last look.

    Everything has to be clean when it begins.
    """

    def __init__(self, instance: Path, mount: Path) -> None:
        """Record in a directory of tracefs the events of a mounted file system."""
        self.instance = instance
        # For btrfs this is the superblock's number, which stat(2) does not show.
        [(self.device, kind)] = [
            (line.split()[2], line.split(" - ")[1].split()[0])
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if line.split()[4] == str(mount)
        ]
        self.reuses_numbers = kind != "btrfs"
        major, minor = map(int, self.device.split(":"))
        self.number = major << 20 | minor
        self.dirty: set[tuple[int, int]] = set()
        self.pipe = os.open(instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        self.rest = ""

    def drain(self) -> list[Event]:
        """Return what happened since, in order."""
        text = self.rest
        with contextlib.suppress(BlockingIOError):
            while more := os.read(self.pipe, 1 << 20):
                text += more.decode()
        lines = text.split("\n")
        self.rest = lines.pop()
        assert "LOST" not in text, "the trace buffer was too small"
        return [event for line in lines if (event := self._event(line))]

    def _event(self, line: str) -> Event | None:
        if not (match := LINE.match(line)):
            return None
        comm, kind, rest = match["comm"].strip(), match["event"], match["rest"]
        values = dict(re.findall(r"(\w+)=(\S+)", rest))
        if kind.startswith("mm_filemap"):
            device, ino = re.match(r"dev (\S+) ino (\w+)", rest).groups()
            if device != self.device:
                return None
            ino, index = int(ino, 16), int(values["ofs"]) // PAGE
            pages = 1 << int(values.get("order", 0))
            if kind == "mm_filemap_add_to_page_cache":
                return Event(State.ADDED, ino, index, pages, comm)
            self.dirty -= {(ino, page) for page in range(index, index + pages)}
            return Event(State.REMOVED, ino, index, pages, comm)
        if values["dev"] != str(self.number):  # "(fault)" where there is no inode
            return None
        ino, index = int(values["ino"]), int(values["index"])
        pages = 1 << int(values["order"]) if int(values["flags"], 16) & PG_HEAD else 1
        folio = {(ino, page) for page in range(index, index + pages)}
        if kind == "dirtied":
            self.dirty |= folio
            return Event(State.DIRTY, ino, index, pages, comm)
        if not folio & self.dirty:
            return None
        self.dirty -= folio
        return Event(State.FLUSHED, ino, index, pages, comm)


@contextlib.contextmanager
def started(mount: Path) -> Iterator[Journal]:
    """Record while in the context. Nothing of the file system may be dirty."""
    instance = TRACEFS / "instances/duet_truth"
    for name, function in PROBES.items():
        arguments = ARGUMENTS.format(ino=INO, sb=SB, order=ORDER)
        probe(f"p:duet_truth/{name} {function} {arguments}")
    instance.mkdir()
    try:
        (instance / "trace_clock").write_text("counter")
        (instance / "buffer_size_kb").write_text("4096")
        for event in EVENTS:
            (instance / "events" / event / "enable").write_text("1")
        journal = Journal(instance, mount)
        try:
            _prove(journal, mount)
            yield journal
        finally:
            os.close(journal.pipe)
            for event in EVENTS:
                (instance / "events" / event / "enable").write_text("0")
    finally:
        instance.rmdir()
        for name in PROBES:
            probe(f"-:duet_truth/{name}")


def probe(line: str) -> None:
    """Add or remove a probe."""
    fd = os.open(TRACEFS / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


def _prove(journal: Journal, mount: Path) -> None:
    """See all four kinds of events of one page, in their order."""
    path = mount / "journal"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x" * PAGE)
    os.fsync(fd)
    ino = os.fstat(fd).st_ino
    os.close(fd)
    path.unlink()
    seen: list[State] = []
    end = time.monotonic() + 120
    while State.REMOVED not in seen and time.monotonic() < end:
        seen += [event.state for event in journal.drain() if event.ino == ino]
        os.sync()  # btrfs: its cleaner thread lets go of the inode
    assert seen == [State.ADDED, State.DIRTY, State.FLUSHED, State.REMOVED]


class Ledger:
    """Event-based tasks on one directory, and what they ought to be told."""

    def __init__(self, journal: Journal, tree: Path, watches: Iterable[tuple[Mask, Watch]]) -> None:
        """Begin where nothing is dirty and everything was read."""
        self.journal, self.tree, self.watches = journal, tree, list(watches)
        self.files: dict[int, tuple[int, int]] = {}
        self.kept: list[Event] = []
        self.quiet = True
        self.happened: dict[tuple[tuple[int, int], int], State] = {}
        self.known()
        for _, watch in self.watches:
            watch.read()
        journal.drain()

    def known(self) -> None:
        """Take note of the files that are below the directory now."""
        for where, _, names in os.walk(self.tree):
            for name in names:
                path = Path(where, name)
                if path.is_file():
                    self.files[path.stat().st_ino] = identity(path)

    def _forget(self) -> None:
        """Let go of files that are no more: their inode numbers may come again outside."""
        if not self.journal.reuses_numbers:
            return  # and lets go of a file's pages some time later
        old, self.files = self.files, {}
        self.known()
        device = self.tree.stat().st_dev
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                status = Path("/proc/self/fd", name).stat()
                if status.st_dev == device and status.st_ino in old:
                    self.files.setdefault(status.st_ino, old[status.st_ino])

    def events(self) -> list[Event]:
        """Return what happened since the last comparison, and keep it for the next."""
        self.kept += self.journal.drain()
        return list(self.kept)

    def note(self) -> None:
        """Say of what happened whose it was, before inode numbers get another owner."""
        self.known()
        for event in self._drain():
            if file := self.files.get(event.ino):
                for page in event.range():
                    at = (file, page)
                    self.happened[at] = self.happened.get(at, State(0)) | event.state
                self.quiet = False
        self._forget()

    def _drain(self) -> list[Event]:
        events, self.kept = self.events(), []
        return events

    def differences(self) -> list[str]:
        """Compare what each task is told now with what happened, page for page.

        A difference counts if it stays: another processor may have got to the
        trace, and not to Duet.
        """
        told: list[dict[tuple[tuple[int, int], int], State]] = [{} for _ in self.watches]
        wrong = self._differences(told)
        for _ in range(10):
            if not wrong:
                break
            time.sleep(0.5)
            wrong = self._differences(told)
        self.happened = {}
        return wrong

    def _differences(self, told: list[dict[tuple[tuple[int, int], int], State]]) -> list[str]:
        """Add to what each task was told, and return what is wrong of it so far."""
        more = True
        while more:  # what happens meanwhile may come on either side first
            self.quiet = True
            self.note()
            more = not self.quiet
            for (_, watch), pages in zip(self.watches, told, strict=True):
                for item in watch.read():
                    more = True
                    for page in range(item.index, item.end):
                        at = (item.file, page)
                        pages[at] = pages.get(at, State(0)) | item.state
        wrong = []
        for (mask, _), pages in zip(self.watches, told, strict=True):
            asked = {at: state & mask for at, state in self.happened.items() if state & mask}
            wrong += [
                f"{mask!r} {at}: told {pages.get(at)!r}, happened {asked.get(at)!r}"
                for at in sorted(pages.keys() | asked.keys())
                if pages.get(at) != asked.get(at)
            ]
        return wrong
