# SPDX-License-Identifier: MIT
"""Allocations that fail: nothing is lost in silence, and nothing else breaks.

Only on a kernel that can make them fail (the lab's debug kernel), and there
only those of the module: the backtrace has to go through its code.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import EVENTS, counter
from truth import Watch, drop_caches, fill

from pyduet import Device, DuetError, State

FAILSLAB = Path("/sys/kernel/debug/failslab")

pytestmark = pytest.mark.kernel_with(FAILSLAB)

Register = Callable[..., Watch]


@contextlib.contextmanager
def failing(percent: int, *, atomic_only: bool) -> Iterator[None]:
    """Make so many allocations fail that the module asks for."""
    start, size = next(
        (int(line.split()[5], 16), int(line.split()[1]))
        for line in Path("/proc/modules").read_text().splitlines()
        if line.startswith("duet ")
    )
    settings = {
        "require-start": hex(start),
        "require-end": hex(start + size),
        "stacktrace-depth": "32",
        "interval": "1",
        "times": "-1",
        "verbose": "0",
        "ignore-gfp-wait": "Y" if atomic_only else "N",
        "probability": str(percent),
    }
    for name, value in settings.items():
        (FAILSLAB / name).write_text(value)
    try:
        yield
    finally:
        (FAILSLAB / "probability").write_text("0")


def work(tree: Path) -> None:
    """Make, read again and evict many small files and one that is large."""
    for number in range(60):
        fill(tree / f"f{number}", 3)
    fill(tree / "large", 1000)
    drop_caches()
    for path in tree.iterdir():
        path.read_bytes()


@pytest.mark.parametrize("percent", [10, 60])
def test_states_stay_exact(watch: Register, place: Path, percent: int) -> None:
    """A probe that gets no memory costs precision for a moment, not truth.

    Pitfall: allocation failure returned with the bucket lock held and interrupts off.
    """
    one = watch(place / "tree")
    before = counter("drops/nomem")
    with failing(percent, atomic_only=True):
        work(place / "tree")
    assert counter("drops/nomem") > before
    assert one.disagreements(place / "tree") == []


def test_events_that_are_lost_are_said_to_be(watch: Register, place: Path) -> None:
    """An event-based task gets an overflow item; a rescan tells what is cached."""
    one = watch(place / "tree", EVENTS)
    with failing(60, atomic_only=True):
        work(place / "tree")
    assert any(item.state & State.OVERFLOW for item in one.read())
    one.task.rescan()
    told = {item.file[0] for item in one.read() if item.state & State.ADDED}
    assert told >= {path.stat().st_ino for path in (place / "tree").iterdir()}


def test_calls_fail_cleanly(device: Device, place: Path) -> None:
    """Start, registration and calls say ENOMEM, or succeed; nothing leaks.

    Pitfall: leaks on error paths. Pitfall: a failed start or stop left the status stuck.
    """
    path = fill(place / "tree/file", 70)
    device.stop()
    done = 0
    for _ in range(300):
        with failing(15, atomic_only=False), contextlib.suppress(DuetError, MemoryError, OSError):
            device.start()
            with device.register(place / "tree", EVENTS) as task:
                items = task.read()
                task.mark_done(items[0].file)
                task.path_of(items[0].file, max_age=0)
                done += 1
        if device.is_on():
            device.stop()
    assert done, "every round failed somewhere"
    assert path.exists()
    device.start()
