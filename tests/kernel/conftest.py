# SPDX-License-Identifier: MIT
"""What the driver's tests share. They run in the lab, as root, against the real module."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from invariant import Totals
from journal import Journal, started
from truth import Watch, drop_caches
from writeback import no_periodic_writeback

from pyduet import Device, Mask, Task

MOUNT = Path("/mnt/duet")
SYSFS = Path("/sys/class/misc/duet")
PARAMETERS = Path("/sys/module/duet/parameters")
#: Debug builds of the module have it.
DELAY = PARAMETERS / "delay_at"
STATES = Mask.EXISTS | Mask.MODIFIED
EVENTS = Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run where there is no lab around us."""
    if "DUET_LAB" not in os.environ:
        pytest.exit(
            "these tests run in the lab: tests/vm/lab run -- python -m pytest tests/kernel", 2
        )
    config.addinivalue_line("markers", "fs(*names): only for these kinds of /mnt/duet")
    config.addinivalue_line("markers", "kernel_with(path): only where the kernel has this file")


def mount_of(mount: Path = MOUNT) -> list[str]:
    """Return the device, the directory and the type of a mount."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return next(line.split()[:3] for line in reversed(lines) if line.split()[1] == str(mount))


def file_system_type(mount: Path = MOUNT) -> str:
    """Return what a directory that is a mount is formatted with."""
    return mount_of(mount)[2]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count as such, the tests of what this machine does not have."""
    here = file_system_type()

    def is_foreign(item: pytest.Item) -> bool:
        fs, kernel = item.get_closest_marker("fs"), item.get_closest_marker("kernel_with")
        return bool((fs and here not in fs.args) or (kernel and not kernel.args[0].exists()))

    foreign = [item for item in items if is_foreign(item)]
    config.hook.pytest_deselected(items=foreign)
    items[:] = [item for item in items if item not in foreign]


TOTALS = Totals()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Hold the table against the page cache before a task ends, and when the test is over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "close", TOTALS.look_and_close(Task.close))
        try:
            result = yield
        except BaseException as error:
            if wrong := TOTALS.end(item.nodeid):
                error.add_note(wrong)
            raise
        if wrong := TOTALS.end(item.nodeid):
            pytest.fail(wrong, pytrace=False)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was compared: where nothing is, nothing differs."""
    terminalreporter.write_line(TOTALS.summary())
    if terminalreporter.verbosity > 0:
        for test in TOTALS.blind:
            terminalreporter.write_line(f"  nothing to compare in {test}")


def counter(name: str) -> int:
    """Return a number that the module shows in sysfs."""
    return int((SYSFS / name).read_text())


@contextlib.contextmanager
def dawdling(where: str, microseconds: int) -> Iterator[None]:
    """Have a debug build of the module dawdle where a race has its window."""
    DELAY.write_text(where)
    (PARAMETERS / "delay_us").write_text(str(microseconds))
    try:
        yield
    finally:
        (PARAMETERS / "delay_us").write_text("0")


@pytest.fixture(autouse=True, scope="session")
def still() -> Iterator[None]:
    """Have nothing written back but what a test asks for: it would be news."""
    with no_periodic_writeback():
        yield


@pytest.fixture
def device() -> Iterator[Device]:
    """Duet switched on for 8 tasks; off and without a leak afterwards."""
    with Device() as device:
        if device.is_on():
            device.stop()
        device.start()
        yield device
    with Device() as device:
        if device.is_on():
            device.stop()
        assert [counter(name) for name in ("tasks", "files", "nodes", "bytes")] == [0, 0, 0, 0]
        assert {hook.read_text() for hook in (SYSFS / "hooks").iterdir()} == {"detached\n"}


def settings() -> dict[str, int]:
    """Return what the administrator can set, as sysfs says."""
    return {name: counter(name) for name in ("limit_bytes", "task_limit_bytes", "max_tasks")}


@pytest.fixture
def restored(device: Device) -> Iterator[dict[str, int]]:
    """Put the settings back after a test; they are what it is given."""
    before = settings()
    yield before
    if device.is_on():
        device.stop()
    device.set_limits(
        limit=before["limit_bytes"],
        task_limit=before["task_limit_bytes"],
        max_tasks=before["max_tasks"],
    )


@pytest.fixture
def share() -> Iterator[Callable[[int], None]]:
    """Return a function that sets the share of a user, in percent; the default is put back."""

    def store(percent: int) -> None:
        (SYSFS / "user_share_percent").write_text(str(percent))

    yield store
    store(0)


@pytest.fixture
def place() -> Iterator[Path]:
    """Return an empty directory with `tree`, to be watched, and `out` beside it."""
    place = MOUNT / "place"
    shutil.rmtree(place, ignore_errors=True)
    for name in ("tree", "out"):
        (place / name).mkdir(parents=True)
    drop_caches()
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def watch(device: Device) -> Iterator[Callable[..., Watch]]:
    """Return a function that registers a task on a directory; it ends with the test."""
    watches: list[Watch] = []

    def register(path: Path, mask: Mask = STATES) -> Watch:
        watches.append(Watch(device.register(path, mask)))
        return watches[-1]

    yield register
    for one in watches:
        one.task.close()


@pytest.fixture
def journal() -> Iterator[Journal]:
    """Return the kernel's own trace of /mnt/duet, from here on."""
    drop_caches()
    with started(MOUNT) as journal:
        yield journal


@pytest.fixture
def compile_c(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that compiles a C program and returns its path."""

    def build(source: str) -> Path:
        program = tmp_path / "program"
        subprocess.run(
            ["cc", "-O0", "-Wall", "-Werror", "-x", "c", "-", "-o", program, "-lpthread"],
            input=source,
            text=True,
            check=True,
        )
        return program

    return build


def eventually(condition: Callable[[], bool], seconds: float = 120) -> bool:
    """Return whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
