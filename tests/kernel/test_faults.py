# SPDX-License-Identifier: MIT
"""Allocations that fail: nothing is lost in silence, and nothing else breaks.

Only on a kernel that can make them fail (the lab's debug kernel), and there
only those of the module: the backtrace has to go through its code. Some by
chance, and in each operation the first, the second, ... until it has no more
(failing.py). After each one the operation did its work or said ENOMEM, what a
task is told is true or an overflow, and a new task is told as ever.

Not reached: memory per CPU, which no fault injection of the kernel knows.
"""

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import EVENTS, STATES, SYSFS, counter, eventually
from failing import FAILSLAB, Fault, Tally, Workers, failing
from invariant import CHECK, look_until_sure
from truth import Watch, drop_caches, fill, identity, mincore, truth_of

from pyduet import Device, FileId, Mask, State, Task
from pyduet._driver import abi

pytestmark = pytest.mark.kernel_with(FAILSLAB)

Register = Callable[..., Watch]


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


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Count, and say at the end what failed how often."""
    tally = Tally()
    yield tally
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    for line in ["", "allocations that failed:", *tally.lines]:
        reporter.write_line(line)


def levels() -> dict[str, int]:
    """Return how much there is of what can be left behind."""
    return {name: counter(name) for name in ("tasks", "files", "nodes", "bytes")}


def assert_no_more_than(before: dict[str, int], when: object) -> None:
    """Wait for what goes a moment later, and see that there is not more than before."""

    def more() -> dict[str, int]:
        return {name: now for name, now in levels().items() if now > before[name]}

    assert eventually(lambda: not more()), f"{when}: left {more()}, where there was {before}"


#: After each so many faults a new task is tried: that takes seconds.
TRY_EACH = 5


def is_well(device: Device, tree: Path, when: object) -> None:
    """Have a new task told of a new file, and nothing left of it; the table is right."""
    if isinstance(when, Fault) and when.nth % TRY_EACH != 1:
        return
    before = levels()
    assert look_until_sure().lines == frozenset()
    # Beside the tree: whoever watches that would have the file kept until he reads.
    place = tree.with_name("well")
    place.mkdir()
    with device.register(place, STATES, no_scan=True) as task:
        path = fill(place / "file", 3, sync=False)
        watch = Watch(task)
        watch.read()
        assert watch.tally.cached(identity(path)) == mincore(path)
        path.unlink()
    place.rmdir()
    assert_no_more_than(before, when)


def drain(watch: Watch) -> bool:
    """Read all, each batch remembered at once, so an error loses none; return if any overflowed."""
    lost = False
    while batch := watch.task.read_batch():
        watch.tally.apply(batch)
        lost |= any(item.state & State.OVERFLOW for item in batch)
    return lost


def is_told_now(watch: Watch, tree: Path) -> bool:
    """Return whether the kernel says what was told, of every file; waits for no news."""
    files = {identity(path): path for path in tree.rglob("*") if path.is_file()}
    watch.read()
    if not files.keys() >= set(watch.tally.cached_files()):
        return False
    told = {file: (watch.tally.cached(file), watch.tally.dirty(file)) for file in files}
    return told == {file: truth_of(path)[:2] for file, path in files.items()}


def is_told(watch: Watch, tree: Path, *, again: bool = False) -> None:
    """Whoever asks for states is told the truth, whatever failed; others of an overflow, or all.

    Where looking at everything may have had no memory, that is told, and the task asks again.
    """
    if watch.task.snapshot or watch.task.mask & (Mask.ADDED | Mask.REMOVED):
        items = watch.read()
        if any(item.state & State.OVERFLOW for item in items):
            return
        cached = {identity(path): mincore(path) for path in tree.iterdir() if path.is_file()}
        told = {file: watch.tally.cached(file) for file in cached}
        assert told == cached
        return
    if again and drain(watch):
        watch.task.rescan()
    if not is_told_now(watch, tree):
        assert watch.disagreements(tree) == []


def of_states(device: Device, tree: Path) -> Task:
    """Register for states, in ranges."""
    return device.register(tree, STATES, ranges=True)


def of_events(device: Device, tree: Path) -> Task:
    """Register for events."""
    return device.register(tree, EVENTS)


def of_a_snapshot(device: Device, tree: Path) -> Task:
    """Register for what is cached now."""
    return device.register(tree, STATES, snapshot=True)


def cached_files(tree: Path) -> None:
    """Have files cached, one of several nodes, that no task wants yet."""
    for number in range(3):
        fill(tree / f"f{number}", 3)
    fill(tree / "large", 200)


def test_first_sight(watch: Register, device: Device, place: Path, tally: Tally) -> None:
    """A probe that meets a file, and its pages, has no memory for them, nor for a third task.

    Pitfall: allocation failure returned with the bucket lock held and interrupts off.
    """
    tree = place / "tree"
    watches = [watch(tree), watch(tree, EVENTS), watch(tree)]
    paths = [fill(tree / "small", 3), fill(tree / "large", 200)]
    for fault in tally.faults("first sight"):
        drop_caches()
        for one in watches:
            one.read()
        with fault.armed():
            for path in paths:
                path.read_bytes()
        for one in watches:
            is_told(one, tree)
        is_well(device, tree, fault)


def test_writes(watch: Register, device: Device, place: Path, tally: Tally) -> None:
    """A file is made, written, written back and cut off."""
    tree = place / "tree"
    states, events = watch(tree), watch(tree, EVENTS)
    for fault in tally.faults("writes"):
        path = tree / "file"
        with fault.armed():
            fill(path, 200)
            os.truncate(path, 4096 * 70)
        is_told(states, tree)
        is_told(events, tree)
        path.unlink()
        is_well(device, tree, fault)


@pytest.mark.parametrize("mask", [STATES, EVENTS], ids=["states", "events"])
def test_rescan(watch: Register, device: Device, place: Path, tally: Tally, mask: Mask) -> None:
    """The call and the read that looks at all inodes."""
    tree = place / "tree"
    cached_files(tree)
    one = watch(tree, mask)

    def again() -> None:
        one.task.rescan()
        drain(one)

    for fault in tally.faults(f"rescan for {'states' if mask == STATES else 'events'}"):
        drop_caches()
        drain(one)
        with failing(100, atomic_only=False):
            for path in tree.iterdir():
                path.read_bytes()
        fault.error_of(again)
        one.task.rescan()
        is_told(one, tree)
    is_well(device, tree, "rescan")


def test_comparison(watch: Register, device: Device, place: Path, tally: Tally) -> None:
    """A read that compares files, which had no memory before, with the page cache."""
    tree = place / "tree"
    one = watch(tree)
    for fault in tally.faults("comparison in a read"):
        drop_caches()
        drain(one)
        with failing(100, atomic_only=False):
            fill(tree / "file", 200)
        lost: list[bool] = []
        fault.error_of(lambda lost=lost: lost.append(drain(one)))
        # Read, with what it told of a loss.
        if any(lost):
            one.task.rescan()
        is_told(one, tree, again=True)
        is_well(device, tree, fault)


def test_paths(watch: Register, device: Device, place: Path, tally: Tally) -> None:
    """Of files whose names the kernel has forgotten.

    exportfs, which reads directories, goes on without memory as if a name were not there.
    """
    tree = place / "tree"
    (tree / "deep").mkdir()
    path = fill(tree / "deep/file", 3)
    one = watch(tree)
    one.read()
    file = identity(path)
    for name, ask in {
        "path": lambda: one.task.path_of(file, max_age=0),
        "paths": lambda: one.task.paths_of([file]),
        "whether it is done": lambda: one.task.is_done(file),
    }.items():
        for fault in tally.faults(name):
            drop_caches()
            drop_caches(2)  # those that were used lately go at the second time
            fault.error_of(ask, errno.ENOENT)
            assert one.task.path_of(file, max_age=0).endswith("deep/file")
        is_well(device, tree, name)


def test_marks(watch: Register, device: Device, place: Path, tally: Tally) -> None:
    """Many are set, asked for, told and taken back.

    Pitfall: a mark that there was no memory to take away stayed, and was counted as gone.
    """
    tree = place / "tree"
    one = watch(tree)
    files = [identity(fill(tree / f"f{number}", 1, sync=False)) for number in range(8)]
    for fault in tally.faults("marks set"):
        fault.error_of(lambda: one.task.mark_many(files))
        assert {file for file in files if one.task.is_done(file)} == set(one.task.marked())
        one.task.mark_many(files)
        assert one.task.are_done(files) == [True] * len(files)
        one.task.unmark_many(files)
        assert list(one.task.marked()) == []
    for fault in tally.faults("marks cleared"):
        one.task.mark_many(files)
        fault.error_of(lambda: one.task.unmark_many(files))
        assert {file for file in files if one.task.is_done(file)} == set(one.task.marked())
        one.task.unmark_many(files)
        assert list(one.task.marked()) == []
    for fault in tally.faults("marks asked for"):
        drop_caches()
        drop_caches(2)  # of a file in memory it takes none
        fault.error_of(lambda: one.task.are_done(files))
    is_told(one, tree)
    is_well(device, tree, "marks")


def test_looks(watch: Register, device: Device, place: Path, tally: Tally) -> None:
    """The dumps, and the check in debugfs."""
    tree = place / "tree"
    one = watch(tree)
    cached_files(tree)
    one.task.mark_done(FileId(10**6, 1))  # of no file
    looks: dict[str, Callable[[], object]] = {
        "dump of tasks": device.tasks,
        "dump of nodes": lambda: list(device.nodes()),
        "dump of what is pending": lambda: list(one.task.pending()),
        "dump of marks": lambda: list(one.task.marked()),
        "check": CHECK.read_text,
    }
    for name, look in looks.items():
        for fault in tally.faults(name):
            fault.error_of(look)
        look()
    is_told(one, tree)
    is_well(device, tree, "looks")


@pytest.mark.parametrize("name", ["limit_bytes", "task_limit_bytes", "user_share_percent"])
def test_settings(device: Device, place: Path, tally: Tally, name: str) -> None:
    """A setting by sysfs, of which udev is told: that may fail, the setting does not."""
    value = (SYSFS / name).read_text()
    for fault in tally.faults(f"sysfs {name}"):
        assert fault.error_of(lambda: (SYSFS / name).write_text(value) and None) == 0
        assert (SYSFS / name).read_text() == value
    is_well(device, place / "tree", name)


def test_listening(device: Device, place: Path, tally: Tally) -> None:
    """What begins to hear of opens, in a thread of the kernel, does so later.

    Pitfall: for want of memory opens were not heard of until another such file was met.
    """
    tree, out = place / "tree", place / "out"
    path = fill(tree / "file", 3)
    os.link(path, out / "other")

    def listen(fault: Fault) -> bool:
        """Have somebody begin to listen; false when that was a thread made just now."""
        drop_caches()
        device.stop()
        device.start()
        watch = Watch(device.register(tree, STATES))
        workers = Workers(fault)
        with workers.armed():
            (out / "other").read_bytes()
            begun = eventually(workers.begun, 30)
            # The rest of the work takes no second, but on a slow machine.
            eventually(lambda: 0 in workers.left(), 2)
        # Opened under the name inside, it is found.
        assert watch.disagreements(tree) == [], str(fault)
        watch.task.close()
        return begun

    for fault in tally.faults("listening for opens"):
        assert any(listen(fault) for _ in range(4)), "nobody began to listen"
    is_well(device, tree, "listening")


def test_ends(device: Device, place: Path, tally: Tally) -> None:
    """A close and a stop need no memory but for telling udev: they cannot fail."""
    tree = place / "tree"
    cached_files(tree)

    def busy() -> Task:
        task = device.register(tree, STATES)
        task.mark_many(identity(path) for path in tree.iterdir())
        # More than are taken away in one step, which has memory of its own. Of no file that is.
        task.mark_many(FileId(number, 1) for number in range(10**6, 10**6 + 600))
        return task

    for fault in tally.faults("stop"):
        task = busy()
        assert fault.error_of(device.stop) == 0
        assert not device.is_on()
        assert not any(levels().values())
        task.close()
        device.start()
    is_well(device, tree, "stop")
    for nth in range(1, 6):
        task = busy()
        fd = os.dup(task.fileno())
        task.close()
        with Fault(nth, rest=True).armed():
            os.close(fd)
        assert eventually(lambda: counter("tasks") == 0)
        is_well(device, tree, nth)


@pytest.mark.parametrize("register", [of_states, of_events, of_a_snapshot])
def test_registration(
    device: Device, place: Path, tally: Tally, register: Callable[[Device, Path], Task]
) -> None:
    """Of each kind, with a scan; the hooks are attached. Pitfall: leaks on error paths."""
    tree = place / "tree"
    cached_files(tree)
    keeper = device.register(place / "out", EVENTS)
    for fault in tally.faults(f"registration {register.__name__}"):
        before = levels()
        made: list[Task] = []
        fault.error_of(lambda made=made: made.append(register(device, tree)))
        for task in made:
            is_told(Watch(task), tree, again=True)
            task.close()
        assert_no_more_than(before, fault)
        is_well(device, tree, fault)
    keeper.close()


class _List(ctypes.Structure):
    """The argument of PRINT_LIST, with room for two tasks."""

    _fields_ = [("head", abi.StatusArgs), ("tasks", abi.TaskAttrs * 2)]


def test_published_calls(device: Device, place: Path, tally: Tally) -> None:
    """Registration, a file's path, and the list of tasks, as the author's programs ask."""
    tree = place / "tree"
    uuid = identity(fill(tree / "file", 1))
    size = ctypes.sizeof

    def register() -> int:
        request = abi.InitArgs(size(abi.InitArgs), b"own", 0, Mask.EXISTS, os.fsencode(tree))
        return int(fcntl.ioctl(device.fileno(), abi.IOC_INIT, request))  # type: ignore[call-overload]

    made: list[int] = []
    for fault in tally.faults("published registration"):
        before = levels()
        fault.error_of(lambda: made.append(register()))
        while made:
            os.close(made.pop())
        assert_no_more_than(before, fault)

    task = register()
    request = abi.GpathArgs(size=size(abi.GpathArgs))
    request.uuid.ino, request.uuid.gen, request.uuid.tid = *uuid, 1
    for fault in tally.faults("published path"):
        drop_caches()
        fault.error_of(lambda: fcntl.ioctl(task, abi.IOC_GPATH, request) and None, errno.ENOENT)
    assert request.path == os.fsencode(tree / "file")

    tasks = _List(abi.StatusArgs(size(abi.StatusArgs), abi.Status.PRINT_LIST))
    for fault in tally.faults("published list of tasks"):
        tasks.head.numtasks = 2
        fault.error_of(lambda: fcntl.ioctl(device.fileno(), abi.IOC_STATUS, tasks) and None)
    assert tasks.head.numtasks == 1
    assert tasks.tasks[0].name == b"own"
    os.close(task)
    is_well(device, tree, "published calls")


def test_start(device: Device, place: Path, tally: Tally) -> None:
    """Pitfall: a failed start or stop left the status stuck."""
    for fault in tally.faults("start"):
        device.stop()
        if fault.error_of(device.start):
            assert not device.is_on()
            assert not any(levels().values())
            device.start()
        is_well(device, place / "tree", fault)


def test_hooks(device: Device, place: Path, tally: Tally) -> None:
    """A registration that attaches the hooks; each is proved, and detached after a failure."""
    for fault in tally.faults("register, with the hooks"):
        device.stop()
        device.start()
        made: list[Task] = []
        fault.error_of(lambda made=made: made.append(device.register(place / "tree", EVENTS)))
        for task in made:
            task.close()
        is_well(device, place / "tree", fault)
