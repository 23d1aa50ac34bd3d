# SPDX-License-Identifier: MIT
"""Tasks that come and go: they register, read, mark, rescan, ask for paths, and die.

Each client is a process of its own. All are children of a nursery, which kills
some of them in the midst of what they do, and makes new ones.
"""

import contextlib
import mmap
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from pyduet import Device, FileId, Mask, Task
from pyduet.errors import (
    NotDirectoryError,
    NotLoadedError,
    OffError,
    PathNotFoundError,
    TaskGoneError,
    TooManyTasksError,
)

#: What may happen to whoever comes and goes while Duet is switched off and files move; whatever
#: else does is a fault.
EXPECTED = (
    NotDirectoryError,
    NotLoadedError,
    OffError,
    PathNotFoundError,
    TaskGoneError,
    TooManyTasksError,
)
STATES = (Mask.EXISTS, Mask.MODIFIED, Mask.EXISTS | Mask.MODIFIED)
OTHERS = (
    Mask.ADDED,
    Mask.REMOVED,
    Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED,
    Mask.EXISTS | Mask.DIRTY | Mask.FLUSHED,
    Mask.MODIFIED | Mask.ADDED | Mask.REMOVED,
)
#: Bytes: too few for most, and the default.
LIMITS = (1 << 16, 1 << 18, 0)
#: A client is killed so often, on average, in seconds.
KILL_EVERY = 2.0

NAMES = ("registered", "items", "marked", "rescans", "paths", "dumps", "closed", "killed")


class Counts:
    """Numbers that the clients share with whoever began the nursery: a row for each client."""

    def __init__(self, rows: int) -> None:
        """Begin with zeros."""
        self._memory = mmap.mmap(-1, rows * len(NAMES) * 8)
        self._rows = rows

    def add(self, row: int, name: str, count: int = 1) -> None:
        """Count; a row is one process's."""
        at = (row * len(NAMES) + NAMES.index(name)) * 8
        [before] = struct.unpack_from("<Q", self._memory, at)
        struct.pack_into("<Q", self._memory, at, before + count)

    def sums(self) -> dict[str, int]:
        """Return the sums of all rows."""
        numbers = struct.unpack(f"<{self._rows * len(NAMES)}Q", self._memory[:])
        return {name: sum(numbers[i :: len(NAMES)]) for i, name in enumerate(NAMES)}


class Client:
    """What one process does with its tasks."""

    def __init__(self, rng: random.Random, trees: Sequence[Path], count: Callable[..., None]):
        """Take a source of chance, the directories, and what counts."""
        self.rng, self.trees, self.count = rng, trees, count
        self.files: list[FileId] = []

    def run(self) -> None:
        """Live until somebody kills us."""
        while True:
            with contextlib.suppress(*EXPECTED), Device() as device:
                while True:
                    try:
                        self.life(device)
                    except EXPECTED:
                        time.sleep(0.1)

    def life(self, device: Device) -> None:
        """Register a task, do something with it, and let it go."""
        rng, tree = self.rng, self.rng.choice(self.trees)
        where = rng.choice([tree, tree, tree.parent, tree / f"d{rng.randrange(4)}", tree / "f1"])
        snapshot = rng.random() < 0.1
        with device.register(
            where,
            rng.choice(STATES if snapshot or rng.random() < 0.5 else OTHERS),
            ranges=rng.random() < 0.5,
            snapshot=snapshot,
            no_scan=not snapshot and rng.random() < 0.2,
            limit=rng.choice(LIMITS),
        ) as task:
            self.count("registered")
            for _ in range(rng.randrange(2, 60)):
                with contextlib.suppress(PathNotFoundError):
                    rng.choice(CALLS)(self, device, task)
        self.count("closed")

    def read(self, device: Device, task: Task) -> None:
        for _ in range(4):
            batch = task.read_batch(self.rng.choice((1, 100, 1000)))
            if not batch:
                if not task.wait(0.05) or task.finite:
                    break
                continue
            rows = list(batch.rows())
            self.count("items", len(rows))
            # Not the overflows of no file.
            known = {FileId(row[0], row[1]) for row in rows if row[0]}
            self.files = [*self.files, *known][-64:]

    def some(self) -> list[FileId]:
        return self.rng.sample(self.files, min(len(self.files), self.rng.randrange(1, 9)))

    def mark(self, device: Device, task: Task) -> None:
        files = self.some()
        if files:
            task.mark_many(files)
            self.count("marked", len(files))

    def unmark(self, device: Device, task: Task) -> None:
        task.unmark_many(self.some())

    def ask(self, device: Device, task: Task) -> None:
        task.are_done(self.some())

    def paths(self, device: Device, task: Task) -> None:
        files = self.some()
        if files:
            task.paths_of(files)
            task.path_of(files[0], max_age=0)
            self.count("paths", len(files))

    def rescan(self, device: Device, task: Task) -> None:
        task.rescan()
        self.count("rescans")

    def dump(self, device: Device, task: Task) -> None:
        device.info()
        device.tasks()
        task.info()
        sum(1 for _ in task.pending())
        sum(1 for _ in task.marked())
        first = self.rng.randrange(1024)
        sum(1 for _ in device.nodes(first, first + 64))
        self.count("dumps")


CALLS = (
    *[Client.read] * 6,
    *[Client.mark] * 2,
    Client.unmark,
    Client.ask,
    *[Client.paths] * 2,
    Client.rescan,
    Client.dump,
)


def _begin(trees: Sequence[Path], seed: int, row: int, counts: Counts) -> int:
    child = os.fork()
    if child:
        return child
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        rng = random.Random(seed)
        Client(rng, trees, lambda name, count=1: counts.add(row, name, count)).run()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


class Nursery:
    """The process that has the clients, which all are in a process group of their own."""

    def __init__(self, trees: Sequence[Path], seed: int, number: int) -> None:
        """Begin; nothing of Duet's is open then, since every child would have it as well."""
        self.counts = Counts(number)
        self.pid = os.fork()
        if self.pid:
            with contextlib.suppress(OSError):
                os.setpgid(self.pid, self.pid)
            return
        os.setpgid(0, 0)
        try:
            self._look_after(trees, random.Random(seed), number)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)

    def _look_after(self, trees: Sequence[Path], rng: random.Random, number: int) -> None:
        rows: dict[int, int] = {}
        killed: set[int] = set()
        while True:
            for row in set(range(number)) - set(rows.values()):
                rows[_begin(trees, rng.getrandbits(64), row, self.counts)] = row
            time.sleep(0.2)
            if rng.random() < 0.2 / KILL_EVERY:
                pid = rng.choice(list(rows))
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
                self.counts.add(rows[pid], "killed")
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                del rows[pid]
                if pid not in killed:
                    raise AssertionError(f"a client ended of itself, status {status:#x}")

    def signal(self, number: int) -> None:
        """Send a signal to all clients."""
        os.killpg(self.pid, number)

    def assert_alive(self) -> None:
        """Raise AssertionError if something that is a fault happened to a client."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        assert not pid, f"the clients ended, status {status:#x}"

    def kill(self) -> None:
        """Have all of them die with what they have; they may take a moment for that."""
        self.assert_alive()
        self.signal(signal.SIGKILL)
        os.waitpid(self.pid, 0)
