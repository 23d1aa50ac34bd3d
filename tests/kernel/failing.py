# SPDX-License-Identifier: MIT
"""Allocations of the module that fail, one after another: the first, the second, and so on.

/proc/PID/fail-nth has the n-th allocation of a task fail, of those whose backtrace goes through the
module. That is what the debug kernel has failslab and fail_page_alloc for.
"""

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

DEBUGFS = Path("/sys/kernel/debug")
FAILSLAB = DEBUGFS / "failslab"
#: Slab objects, and whole pages.
KINDS = (FAILSLAB, DEBUGFS / "fail_page_alloc")
#: No operation has so many.
MOST = 2000
#: An operation has no more of them when it ended so often before the next: what it finds in memory,
#: and has none to allocate for, is not the same each time.
MISSES = 3
#: So many fail where one does and all after it: more than an operation has, but not without end.
#: The kernel's maple tree tries again as long as it has a part of what it wants.
REST = 300


@functools.cache  # the kernel has a hundred thousand names
def _range_of(function: str) -> range:
    """Where a function of the kernel lies."""
    names = {}
    for line in Path("/proc/kallsyms").read_text().splitlines():
        address, kind, name = line.split()[:3]
        if kind in "tT" and "[" not in line:
            names[name] = int(address, 16)
    start = names[function]
    return range(start, min(address for address in names.values() if address > start))


#: What was written: most settings stay as they are, and there are hundreds of faults.
_written: dict[Path, str] = {}


def _set(setting: Path, value: str) -> None:
    if _written.get(setting) != value:
        setting.write_text(value)
        _written[setting] = value


def _set_up(percent: int, *, atomic_only: bool = False, only_chosen: bool = False) -> None:
    """Say which allocations may fail: those of the module."""
    start, size = next(
        (int(line.split()[5], 16), int(line.split()[1]))
        for line in Path("/proc/modules").read_text().splitlines()
        if line.startswith("duet ")
    )
    slab_caches = _range_of("__kmem_cache_create_args")
    settings = {
        "require-start": hex(start),
        "require-end": hex(start + size),
        # The kernel warns where it cannot make a slab cache, and loses the cache's name.
        "reject-start": hex(slab_caches.start),
        "reject-end": hex(slab_caches.stop),
        "stacktrace-depth": "32",
        "interval": "1",
        "verbose": "0",
        "ignore-gfp-wait": "Y" if atomic_only else "N",
        "task-filter": "Y" if only_chosen else "N",
    }
    for kind in KINDS:
        for name, value in settings.items():
            _set(kind / name, value)
    # There are no allocations of no page.
    _set(KINDS[1] / "min-order", "0")
    _set(KINDS[1] / "ignore-gfp-highmem", "N")
    for kind in KINDS:
        # The kernel counts it down.
        (kind / "times").write_text(str(REST if only_chosen else -1))
        _set(kind / "probability", str(percent))


def _put_back() -> None:
    for kind in KINDS:
        _set(kind / "probability", "0")


@contextlib.contextmanager
def failing(percent: int, *, atomic_only: bool) -> Iterator[None]:
    """Have so many of the module's allocations fail, whoever's, by chance."""
    _set_up(percent, atomic_only=atomic_only)
    try:
        yield
    finally:
        _put_back()


class Fault:
    """One allocation that is to fail, or that and all after it."""

    def __init__(self, nth: int, *, rest: bool) -> None:
        """Take its number, from 1 on."""
        self.nth = nth
        self.rest = rest
        #: Whether the operation had so many allocations.
        self.fired = False

    def __str__(self) -> str:
        """Say it for people."""
        return f"allocation {self.nth}{' and all after it' if self.rest else ''}"

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Have it happen to this thread."""
        nth = Path("/proc/thread-self/fail-nth")
        _set_up(100 if self.rest else 0, only_chosen=True)
        Path("/proc/thread-self/make-it-fail").write_text("1")
        nth.write_text(str(self.nth))
        try:
            yield
        finally:
            self.fired = nth.read_text().strip() == "0"
            nth.write_text("0")
            Path("/proc/thread-self/make-it-fail").write_text("0")
            _put_back()

    def error_of(self, operation: Callable[[], object], *allowed: int) -> int:
        """Have it happen in an operation; return its error, 0 for none.

        That it said ENOMEM, or another error that is allowed, or did its work, is
        as it has to be. Descriptors must be as many as before when it failed.
        """
        before = len(os.listdir("/proc/self/fd"))
        result: object = None
        error = 0
        with self.armed():
            try:
                result = operation()
            except OSError as failed:
                error = failed.errno or -1
        if error:
            assert error in (errno.ENOMEM, *allowed), f"{self}: {errno.errorcode.get(error, error)}"
            assert result is None
            assert len(os.listdir("/proc/self/fd")) == before, f"{self}: a descriptor is left"
        return error


class Workers:
    """The kernel's threads for works that are bound to no processor, each to meet a fault."""

    def __init__(self, fault: Fault) -> None:
        """Take the fault that whichever does the work is to meet."""
        self.fault = fault

    @staticmethod
    def _all() -> list[Path]:
        found = []
        for comm in Path("/proc").glob("[0-9]*/comm"):
            with contextlib.suppress(OSError):
                if comm.read_text().startswith("kworker/u"):
                    found.append(comm.parent)
        return found

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        """Have it happen to the one that has allocations of the module."""
        _set_up(100 if self.fault.rest else 0, only_chosen=True)
        threads = self._all()
        for thread in threads:
            (thread / "make-it-fail").write_text("1")
            (thread / "fail-nth").write_text(str(self.fault.nth))
        self._threads = threads
        try:
            yield
        finally:
            self.fault.fired = 0 in self.left()
            for thread in threads:
                with contextlib.suppress(OSError):
                    (thread / "fail-nth").write_text("0")
                    (thread / "make-it-fail").write_text("0")
            _put_back()

    def left(self) -> list[int]:
        """Return how many allocations each has left until the one that fails."""
        found = []
        for thread in self._threads:
            with contextlib.suppress(OSError):
                found.append(int((thread / "fail-nth").read_text()))
        return found

    def begun(self) -> bool:
        """Return whether one of them had an allocation."""
        return any(left != self.fault.nth for left in self.left())


class Tally:
    """How many allocations failed, by operation."""

    def __init__(self) -> None:
        """Begin with none."""
        self.lines: list[str] = []

    def faults(self, name: str) -> Iterator[Fault]:
        """Yield faults, until an operation ends before it meets the next; for each kind."""
        numbers = []
        for rest in (False, True):
            nth = misses = 0
            while misses < MISSES:
                assert nth < MOST, f"{name}: {MOST} allocations and no end"
                fault = Fault(nth + 1, rest=rest)
                yield fault
                nth += fault.fired
                misses = 0 if fault.fired else misses + 1
            numbers.append(nth)
        line = f"{name}: {numbers[0]} failed alone, {numbers[1]} with all after them"
        self.lines.append(line)
        print(line, file=sys.__stderr__, flush=True)
        assert all(numbers), f"{name}: nothing failed"
