# SPDX-License-Identifier: MIT
"""In the guest: what is measured, one section a boot. Each yields a result after each run."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pyduet import Device

from . import f2fs
from .data import Data
from .runs import MOUNT, Disk, Running, anew, file_system, one_after_another, result, say, together

Results = Iterator[dict[str, Any]]

#: Joined in this order; the first is the file system's own, where it has checksums.
KINDS = ("scrub", "backup", "defrag", "rsync")


def _kinds() -> tuple[str, ...]:
    return (("btrfs-scrub", *KINDS[1:])) if file_system() == "btrfs" else KINDS


#: Seconds that the load rests after each MiB, and what the task beside it reads at most, a second:
#: so that one that has to read all takes as long as a load that uses all.
_PAUSE, _RATE = 0.025, 40 << 20
#: What each task is run with: others do not wait for the disk but for each other.
CALM = ("--no-give-way",)
#: How tasks are run together.
_MODES = {"informed": CALM, "courteous": (), "uninformed": (*CALM, "--uninformed")}


def _fragmented(data: Data) -> int:
    """Return in how many pieces the files lie; they are made anew if an earlier run joined them."""
    number = data.extents()
    if number < 3 * len(data.sizes):
        say("writing the files, in pieces")
        data.make()
        number = data.extents()
    return number


def tasks(
    data: Data,
    counts: Iterable[int] = (1, 2, 3),
    modes: Iterable[str] = ("informed", "uninformed"),
) -> Results:
    """One to three tasks, together: with Duet and without."""
    for count in counts:
        kinds = _kinds()[:count]
        for mode in modes:
            before = _fragmented(data)
            say(f"{', '.join(kinds)}: {mode}, together")
            found = together(data, kinds, *_MODES[mode])
            after = data.extents() if "defrag" in kinds else None
            yield {"mode": mode, "extents": [before, after], **found}


def four(data: Data) -> Results:
    """All four tasks, in the same way, and as they are by default."""
    yield from tasks(data, [len(KINDS)], _MODES)


def turns(data: Data) -> Results:
    """All four, one after another, without Duet."""
    _fragmented(data)
    say(f"{', '.join(_kinds())}: uninformed, one after another")
    for found in one_after_another(data, _kinds()):
        yield {"mode": "apart", **found}


_SHARES = (0.25, 0.5, 0.75, 1.0)


def foreground(data: Data) -> Results:
    """A load that uses some of the data while a task runs, with and without Duet, and alone."""
    rate = ("--rate", str(_RATE))
    beside = {"alone": None, "informed": rate, "uninformed": (*rate, "--uninformed")}
    for kind in ("uniform", "skewed"):
        yield from _loads(data, kind, beside)


def speed(data: Data) -> Results:
    """How fast a load is on a slow disk: alone, beside a task, beside one that knows nothing."""
    beside = {"alone": None, "informed": (), "uninformed": (*CALM, "--uninformed")}
    yield from _loads(data, "uniform", beside, task_first=True)


def _loads(
    data: Data,
    kind: str,
    beside: Mapping[str, tuple[str, ...] | None],
    *,
    task_first: bool = False,
) -> Results:
    for share in _SHARES:
        for mode, options in beside.items():
            say(f"{share:.0%} {kind}, {mode}")
            found = _beside(data, kind, share, options, task_first=task_first)
            yield {"load": kind, "share": share, "mode": mode, **found}


def _beside(
    data: Data, kind: str, share: float, options: tuple[str, ...] | None, *, task_first: bool
) -> dict[str, Any]:
    """Run the load, and scrub beside it with such options; None for no scrub.

    Args:
        data: what both use.
        kind: of the load.
        share: of the data, that the load uses.
        options: of scrub.
        task_first: whether the load begins only when scrub reads already.

    """
    anew()
    begin, started = Disk.now(), time.monotonic()
    task = Running(_kinds()[0], data, *options) if task_first and options is not None else None
    if task is not None:
        task.until(0.01)
    program = Path(__file__).with_name("foreground.py")
    # No pipe for its words: it would stand still when that is full, and nobody reads meanwhile.
    with tempfile.TemporaryFile("w+") as words:
        load = subprocess.Popen(
            [sys.executable, str(program), str(data.root), str(share), kind, str(_PAUSE)],
            stdin=subprocess.PIPE, stdout=words, text=True,
        )  # fmt: skip
        if load.stdin is None:
            raise RuntimeError("no pipe")
        for path, size in data.sizes.items():
            load.stdin.write(f"{path} {size}\n")
        load.stdin.close()
        found: dict[str, Any] = {}
        if task is None and options is not None:
            task = Running(_kinds()[0], data, *options)
        if task is not None:
            task.wait()
        until = time.monotonic()
        if load.wait():
            raise RuntimeError("the load failed")
        words.seek(0)
        *reads, end = [json.loads(line) for line in words]
    if task is not None:
        touched = {one["path"]: one["size"] for one in reads if one["at"] <= until}
        found = result(data, [task], begin, started)
        found["possible"] = sum(touched.values())
    disk = Disk.now().since(begin)
    distinct = sum({one["path"]: one["size"] for one in reads}.values())
    return {**found, "load_read": end["read"], "load_seconds": round(end["reading"], 2),
            "load_distinct": distinct, "read": disk.read, "data": data.bytes}  # fmt: skip


def apart(data: Data) -> Results:
    """The second of two tasks begins when the first has done some of its work, or all of it."""
    for share in (0.1, 0.25, 0.5, 0.75, 1.0):
        say(f"backup begins when scrub has done {share:.0%}")
        anew()
        begin, started = Disk.now(), time.monotonic()
        first = Running("scrub", data, *CALM)
        if share < 1:
            first.until(share)
        else:
            first.wait()
        second = Running("backup", data, *CALM)
        for one in (first, second):
            one.wait()
        yield {"later": share, **result(data, [first, second], begin, started)}


def slow(data: Data) -> Results:
    """One of two tasks is slower than the other: others wait for it, or lose patience."""
    say("how fast the slow one is to be")
    quick = together(data, ("scrub",), *CALM)
    rate = int(data.bytes / quick["seconds"] / 3)
    for patience in ("30", "1"):
        say(f"scrub, and backup that reads {rate >> 20} MiB a second; patience {patience} s")
        anew()
        begin, started = Disk.now(), time.monotonic()
        pair = [
            Running("scrub", data, *CALM, "--patience", patience),
            Running("backup", data, *CALM, "--patience", patience, "--rate", str(rate)),
        ]
        for one in pair:
            one.wait()
        yield {"patience": float(patience), "rate": rate, "alone": quick["seconds"],
               **result(data, pair, begin, started)}  # fmt: skip


def tenth(data: Data) -> Results:
    """Memory is a tenth of the data."""
    yield from _pair(data, "memory a tenth of the data")


def large(data: Data) -> Results:
    """Each file is larger than memory."""
    yield from _pair(data, "files larger than memory")


def _pair(data: Data, what: str) -> Results:
    for mode in ("informed", "uninformed"):
        say(f"scrub, backup: {mode}, {what}")
        yield {"mode": mode, **together(data, ("scrub", "backup"), *_MODES[mode])}


SECTIONS: dict[str, Callable[[Data], Results]] = {
    "tasks": tasks,
    "four": four,
    "turns": turns,
    "foreground": foreground,
    "speed": speed,
    "apart": apart,
    "slow": slow,
    "tenth": tenth,
    "large": large,
    "large-slow": large,
    "f2fs": f2fs.choices,
}
#: Sections that make the data themselves, before each run.
_MAKING = {"f2fs"}


def measure(section: str, size: int) -> None:
    """Run a section, and print its results; they are JSON, a line each."""
    subprocess.run(["mount", "-o", "remount,noatime", str(MOUNT)], check=True)
    data = Data(MOUNT / "data", size, size // 3 if SECTIONS[section] is large else 0)
    if section not in _MAKING:
        say(f"writing {len(data.sizes)} files, {size >> 20} MiB in all, in pieces")
        data.make()
    memory = Path("/proc/meminfo").read_text().split()[1]
    with Device() as device:
        if not device.is_on():
            device.start()
    for found in SECTIONS[section](data):
        about = {"files": len(data.sizes), "memory": int(memory) * 1024}
        print(json.dumps(about | found), flush=True)
