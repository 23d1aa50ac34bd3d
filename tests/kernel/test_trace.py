# SPDX-License-Identifier: MIT
"""The module says what it decides through tracepoints of its own, and nothing through the log."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import EVENTS, STATES
from raw import ioctl
from truth import TRACEFS, drop_caches, fill

from pyduet import Device, FileId
from pyduet._driver import abi

TRACEPOINTS = {"duet_verdict", "duet_overflow", "duet_task_start", "duet_task_end", "duet_print"}


class Trace:
    """A trace buffer of our own, in which only the module's tracepoints are switched on."""

    def __init__(self, directory: Path) -> None:
        """Begin to listen."""
        self._directory = directory
        (directory / "events/duet/enable").write_text("1\n")

    def take(self) -> list[tuple[str, str]]:
        """Return what was said since the last call: tracepoint and text."""
        lines = (self._directory / "trace").read_text().splitlines()
        (self._directory / "trace").write_text("\n")
        found = (re.search(r": (duet_\w+): ?(.*)", line) for line in lines)
        return [(match[1], match[2]) for match in found if match]

    def names(self) -> list[str]:
        """Return the names of the tracepoints that said something since the last call."""
        return [name for name, _ in self.take()]


@pytest.fixture
def trace() -> Iterator[Trace]:
    """Return a trace buffer; the instance goes with the test."""
    directory = TRACEFS / "instances/duet-test"
    directory.mkdir()
    yield Trace(directory)
    (directory / "events/duet/enable").write_text("0\n")
    directory.rmdir()


@pytest.fixture
def log() -> Iterator[Callable[[], list[str]]]:
    """Return a function that returns what the kernel has logged since the test began."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)

    def take() -> list[str]:
        lines = []
        while True:
            try:
                lines.append(os.read(fd, 8192).decode(errors="replace"))
            except BlockingIOError:
                return lines

    yield take
    os.close(fd)


def test_the_tracepoints_are_there() -> None:
    """Under the module's name, each with its format."""
    names = {path.name for path in (TRACEFS / "events/duet").iterdir() if path.is_dir()}
    assert names == TRACEPOINTS
    for name in TRACEPOINTS:
        text = (TRACEFS / "events/duet" / name / "format").read_text()
        assert f"name: {name}" in text
        assert "print fmt" in text


def test_the_published_summaries(
    device: Device, place: Path, trace: Trace, log: Callable[[], list[str]]
) -> None:
    """Pitfall: debug output only to the kernel log. PRINT_BMAP and PRINT_ITEM are traced."""
    fill(place / "tree/file", 1)
    with device.register(place / "tree", STATES, name="printed") as task:
        task.mark_many([FileId(2**40, 1)])
        trace.take()
        for flag in (abi.Status.PRINT_BMAP, abi.Status.PRINT_ITEM):
            request = abi.StatusArgs(size=12, flags=flag, id=task.id)
            assert ioctl(device.fileno(), abi.IOC_STATUS, request) == 0
            assert set(trace.names()) == {"duet_print"}, flag
    assert [line for line in log() if "duet" in line] == []


def test_a_tasks_life(device: Device, place: Path, trace: Trace) -> None:
    """Its beginning and its end, however it ends; a refused registration is neither."""
    with device.register(place / "tree", STATES, name="lively"):
        [(name, text)] = [event for event in trace.take() if "task" in event[0]]
        assert name == "duet_task_start"
        assert "lively" in text
    assert trace.names().count("duet_task_end") == 1
    task = device.register(place / "tree", STATES)
    trace.take()
    device.stop()
    task.close()
    assert trace.names().count("duet_task_end") == 1
    with pytest.raises(OSError, match="off"):
        device.register(place / "tree", STATES)
    assert "duet_task_start" not in trace.names()


def test_names_forge_nothing(device: Device, place: Path, trace: Trace) -> None:
    """Pitfall: a task's name was written raw to trace and sysfs: lines that never were said."""
    forged = "x\n swapper-1 [000] 1.0: duet_task_end: task=7"
    path = place / "tree" / "a\n\\\x1bb ü"
    path.mkdir()
    with device.register(path, STATES, name=forged) as task:
        [(name, text)] = [event for event in trace.take() if "task" in event[0]]
        assert name == "duet_task_start"
        assert "name=x\\012\\040swapper-1" in text
        assert device.tasks()[0].name == forged
        shown = Path(f"/sys/class/misc/duet/task{task.id}")
        assert (shown / "name").read_text() == forged.replace("\n", "\\012") + "\n"
        assert (shown / "path").read_text() == f"{place}/tree/a\\012\\134\\033b ü\n"


def test_verdicts(device: Device, place: Path, trace: Trace) -> None:
    """One when a file is decided, none for each further event of it.

    Pitfall: a path walk in the probe. Of files that nobody watches: test_cost.py.
    """
    with device.register(place / "tree", EVENTS):
        path = fill(place / "tree/file", 1)
        decided = trace.take()
        assert "duet_verdict" in [name for name, _ in decided]
        assert any(str(path.stat().st_ino) in text for _, text in decided)
        for _ in range(5):
            path.write_bytes(b"x" * 9000)
        assert trace.names().count("duet_verdict") == 0


def test_overflows(device: Device, place: Path, trace: Trace) -> None:
    """What is dropped is traced."""
    info = device.info()
    with device.register(place / "tree", EVENTS, limit=2 * info.node_bytes) as task:
        fill(place / "tree/small", 1)
        assert "duet_overflow" not in trace.names()
        for i in range(5):
            fill(place / f"tree/{i}", 3 * info.node_pages)
        while task.read():
            pass
        assert device.tasks()[0].overflows > 0
        assert "duet_overflow" in trace.names()


def test_the_log_stays_silent(device: Device, place: Path, log: Callable[[], list[str]]) -> None:
    """Through a whole life, errors included, the module logs nothing."""
    with device.register(place / "tree", STATES, limit=4096) as task:
        for i in range(20):
            fill(place / f"tree/{i}", 70)
        task.read()
        with pytest.raises(OSError, match="does not exist"):
            device.register("/nowhere", STATES)
        list(device.nodes())
        task.rescan()
        drop_caches()
        device.stop()
    device.start()
    assert [line for line in log() if "duet" in line] == []
