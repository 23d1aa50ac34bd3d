# SPDX-License-Identifier: MIT
"""In the guest: maintenance tasks, together or apart; what they read, and whether it is right."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pyduet import Device, Mask
from pyduet.maintenance import Ledger
from pyduet.maintenance.tasks.scrub import Note

from .data import Data

MOUNT = Path("/mnt/duet")
OUT = MOUNT / "out"


def say(text: str) -> None:
    """Tell how far things are."""
    print(f"io-saved: {text}", file=sys.stderr, flush=True)


def _mount() -> list[str]:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return next(words for words in mounts if words[1] == str(MOUNT))


def file_system() -> str:
    """Return what the data are on."""
    return _mount()[2]


class Disk(NamedTuple):
    """Bytes that were read from the disk, and written to it."""

    read: int
    written: int

    @classmethod
    def now(cls) -> "Disk":
        """Return the disk's own count."""
        name = os.path.basename(_mount()[0])
        stat = Path(f"/sys/class/block/{name}/stat").read_text().split()
        return cls(int(stat[2]) * 512, int(stat[6]) * 512)

    def since(self, before: "Disk") -> "Disk":
        """Return the difference."""
        return Disk(self.read - before.read, self.written - before.written)


class Running:
    """A task that runs."""

    def __init__(self, kind: str, data: Data, *options: str) -> None:
        """Begin."""
        self.kind = kind
        self.begin = time.monotonic()
        target = {"backup": [str(OUT / "archive.tar")], "rsync": [str(OUT / "copy")]}
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115 (as long as the task)
        # What a task brings with it is no part of the disk: it lies beside the guest's memory.
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "pyduet", "run", kind, str(data.root), *target.get(kind, []),
                "--state", str(_state(kind)), "--json", *options,
            ],
            stdout=subprocess.PIPE, stderr=self._words, text=True,
        )  # fmt: skip
        self.last: dict[str, Any] = {}
        self.seconds = 0.0
        # All the time: a task whose words nobody takes stands still, and the others wait for it.
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stdout or ():
            self.last = json.loads(line)
        self.seconds = time.monotonic() - self.begin

    def until(self, share: float) -> None:
        """Wait until it has done such a share of its work."""
        while self._listener.is_alive():
            last = self.last
            if last and last["bytes"] and last["bytes_done"] >= share * last["bytes"]:
                return
            time.sleep(0.1)

    def wait(self) -> None:
        """Wait for its end.

        Raises:
            RuntimeError: it failed.

        """
        self._listener.join()
        status = self.process.wait()
        self._words.seek(0)
        words = self._words.read()
        if status or self.last["problems"]:
            raise RuntimeError(f"{self.kind}: ended with {status}: {words}")


def _state(kind: str) -> Path:
    return OUT / f"{kind}.ledger"


def cold() -> None:
    """Have nothing cached."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def anew() -> None:
    """Forget what earlier runs left."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    cold()


def together(data: Data, kinds: Sequence[str], *options: str) -> dict[str, Any]:
    """Run tasks that begin at the same time; return what that cost."""
    anew()
    begin, started = Disk.now(), time.monotonic()
    informed = "--uninformed" not in options
    with Device() as device:
        # Nobody gets far before all are there: they would not begin together.
        gate = device.register(data.root, Mask.EXISTS, name="duet-run/gate") if informed else None
        tasks = [Running(kind, data, *options) for kind in kinds]
        if gate is not None:
            _all_there(device, tasks)
            gate.close()
        for task in tasks:
            task.wait()
    return result(data, tasks, begin, started)


def _all_there(device: Device, tasks: list[Running]) -> None:
    """Wait until each task is registered."""
    deadline = time.monotonic() + 120
    while len([task for task in device.tasks() if task.name.startswith("duet-run/")]) <= len(tasks):
        if any(task.process.poll() is not None for task in tasks) or time.monotonic() > deadline:
            return
        time.sleep(0.05)


def one_after_another(data: Data, kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Run tasks without Duet, each after the end of the one before; return the sum after each."""
    anew()
    begin, started = Disk.now(), time.monotonic()
    tasks: list[Running] = []
    results = []
    for kind in kinds:
        tasks.append(Running(kind, data, "--uninformed", "--no-give-way"))
        tasks[-1].wait()
        results.append(result(data, tasks, begin, started, check=kind == kinds[-1]))
    return results


def result(
    data: Data, tasks: Sequence[Running], begin: Disk, started: float, *, check: bool = True
) -> dict[str, Any]:
    """Return what was read and written since, and check what the tasks did."""
    seconds = time.monotonic() - started
    os.sync()
    disk = Disk.now().since(begin)
    if check:
        for task in tasks:
            _verify(data, task)
    return {
        "tasks": [task.kind for task in tasks],
        "read": disk.read,
        "written": disk.written,
        "data": data.bytes,
        "seconds": round(seconds, 1),
        "cached": {task.kind: task.last["bytes_cached"] for task in tasks},
        "report": {task.kind: task.last["report"] for task in tasks},
        "waited": {task.kind: round(task.last["waited"], 1) for task in tasks},
        "ended": {task.kind: round(task.seconds, 1) for task in tasks},
    }


def _verify(data: Data, task: Running) -> None:
    """Look whether a task did what it is for.

    Raises:
        ValueError: it did not.

    """
    if task.last["files_done"] < len(data.sizes):
        raise ValueError(f"{task.kind}: {task.last['files_done']} of {len(data.sizes)} files")
    if task.kind == "scrub":
        with Ledger(str(_state("scrub")), "scrub", str(data.root), read_only=True) as ledger:
            notes = {record.path: Note.of(record) for record in ledger.files()}
        found = {path: note.checksum for path, note in notes.items() if note is not None}
        if found != data.digests:
            raise ValueError("scrub: its checksums are others")
    elif task.kind == "btrfs-scrub":
        report = task.last["report"]
        if report["unchecked"] or report["data"] < data.bytes:
            raise ValueError(f"btrfs-scrub: not all was verified: {report}")
    elif task.kind == "backup":
        seen = set()
        with tarfile.open(OUT / "archive.tar") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                if file is not None:
                    data.check(member.name[2:], file)
                    seen.add(member.name[2:])
        if seen != set(data.sizes):
            raise ValueError("backup: files are missing in the archive")
    elif task.kind == "rsync":
        data.check_tree(OUT / "copy")
    elif task.kind == "defrag":
        cold()
        data.check_tree(data.root)
