# SPDX-License-Identifier: MIT
"""Memory is bounded, nothing is lost in silence, and a rescan brings the truth back."""

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest
from actions import evict
from conftest import EVENTS, STATES, SYSFS, counter, eventually
from mounts import mount, unmount
from ordinary import in_child
from raw import errno_of
from truth import PAGE, Watch, drop_caches, fill, identity, truth_of

from pyduet import Device, FileId, Item, Mask, State

WRITTEN = State.ADDED | State.DIRTY
SLABS = Path("/proc/slabinfo")
#: Bytes of a task's buffer of items.
ITEMS = 4 * PAGE


def store(name: str, value: object) -> None:
    """Write to a sysfs file of the device."""
    (SYSFS / name).write_text(f"{value}\n")


@pytest.fixture(autouse=True)
def default_limits(device: Device) -> Iterator[None]:
    """Put the default limits back afterwards."""
    yield
    for name in ("limit_bytes", "task_limit_bytes"):
        store(name, 0)


@contextlib.contextmanager
def tight(device: Device, files: int) -> Iterator[None]:
    """Leave room for only so many more files of one page; the default afterwards."""
    info = device.info()
    store("limit_bytes", info.bytes + files * info.file_bytes)
    try:
        yield
    finally:
        store("limit_bytes", 0)


def at_most(device: Device, limit: int) -> int:
    """Return what may be pending with a limit: it is looked at before a node and a file come."""
    info = device.info()
    return limit + info.node_bytes + info.file_bytes


def overflows(items: list[Item]) -> list[Item]:
    """Return the overflows among items, which have to be alone in their state and of no page."""
    found = [item for item in items if State.OVERFLOW in item.state]
    for item in found:
        assert (item.state, item.index, item.pages) == (State.OVERFLOW, 0, 0)
    return found


def pages_of(items: list[Item], file: tuple[int, int], state: State) -> set[int]:
    """Return the pages of a file of which items say all of a state."""
    return {
        page
        for item in items
        if item.file == file and state in item.state
        for page in range(item.index, item.end)
    }


# Whose memory it is


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Path]:
    """Return a memory cgroup."""
    top = Path("/sys/fs/cgroup")
    ours = not (top / "cgroup.controllers").exists()
    if ours:
        top = tmp_path / "cgroup"
        top.mkdir()
        mount("none", top, "cgroup2")
    (top / "cgroup.subtree_control").write_text("+memory")
    group = top / "duet"
    group.mkdir()
    yield group
    group.rmdir()
    if ours:
        unmount(top)


@pytest.mark.parametrize("snapshot", [False, True])
def test_memory_is_charged_to_who_takes_it(
    device: Device, place: Path, group: Path, snapshot: bool
) -> None:
    """Pitfall: a member of a small memory cgroup took memory outside of it."""
    runs = 4096 if snapshot else 1
    with (place / "tree/file").open("wb") as file:
        for run in range(runs):
            os.pwrite(file.fileno(), b"x", 2 * run * PAGE)
    os.sync()

    def charged() -> int:
        rows = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int(rows["kernel"])

    def take() -> tuple[bool, bool]:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        with Device() as own, contextlib.ExitStack() as stack:

            def register() -> None:
                stack.enter_context(own.register(place / "tree", Mask.EXISTS, snapshot=snapshot))

            register()
            time.sleep(3)  # the kernel gathers what it charged every two seconds
            before, bytes_before = charged(), own.info().bytes
            for _ in range(1 if snapshot else 6):
                register()
            wanted = own.info().bytes - bytes_before if snapshot else 6 * ITEMS
            enough = eventually(lambda: charged() - before >= wanted, 20)
            return wanted >= 96 << 10, enough

    assert in_child(take) == (True, True)


# The limits themselves


@pytest.mark.parametrize("mask", [Mask.ADDED, Mask.ADDED | Mask.REMOVED, Mask.DIRTY | Mask.FLUSHED])
def test_a_task_that_is_full_takes_nothing_more(device: Device, place: Path, mask: Mask) -> None:
    """Pitfall: it went on to take a node for each 64 pages that went by, of everybody's memory."""
    path = place / "tree/file"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    with device.register(place / "tree", mask, limit=16 << 10) as task, path.open("r+b") as file:
        for at in range(0, 64 << 20, 1 << 20):
            file.seek(at)
            if mask & Mask.DIRTY:
                file.write(b"x" * (1 << 20))
                os.fsync(file.fileno())
            else:
                file.read(1 << 20)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert counter("bytes") <= at_most(device, 16 << 10)
        assert overflows(task.read_batch())
        assert counter("drops/task_limit")


def test_default_limits(device: Device) -> None:
    """A 32nd of the memory for all, a quarter of that for each task."""
    found = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert found
    info = device.info()
    assert info.limit == pytest.approx(int(found[1]) * 1024 / 32, rel=0.01)
    assert info.task_limit == info.limit // 4
    assert (counter("limit_bytes"), counter("task_limit_bytes")) == (info.limit, info.task_limit)


def test_limits_can_be_set(device: Device, place: Path) -> None:
    """At any time; 0 is the default again; what is no number or below the use is refused."""
    default = device.info()
    for name, value in (("limit_bytes", 50_000_000), ("task_limit_bytes", 1_000_000)):
        store(name, value)
        assert counter(name) == value
        for wrong in ("", "x", "-1", "1 2", str(1 << 64)):
            assert errno_of(lambda name=name, wrong=wrong: store(name, wrong)) in (
                errno.EINVAL,
                errno.ERANGE,
            ), wrong
            assert counter(name) == value
    info = device.info()
    assert (info.limit, info.task_limit) == (50_000_000, 1_000_000)
    with device.register(place / "tree", STATES):
        assert device.tasks()[0].limit == 1_000_000
    with device.register(place / "tree", STATES, limit=70_000):
        assert device.tasks()[0].limit == 70_000
    device.stop()
    store("limit_bytes", 0)
    store("task_limit_bytes", 0)
    device.start()
    info = device.info()
    assert (info.limit, info.task_limit) == (default.limit, default.task_limit)


def test_a_limit_below_the_use_is_refused(device: Device, place: Path) -> None:
    """EBUSY, and the limit stays as it was."""
    fill(place / "tree/file", 3)
    with device.register(place / "tree", STATES) as task:
        task.read()
        before = device.info()
        assert before.bytes > 1
        assert errno_of(lambda: store("limit_bytes", before.bytes - 1)) == errno.EBUSY
        assert errno_of(lambda: store("limit_bytes", 1)) == errno.EBUSY
        assert device.info().limit == before.limit
        store("limit_bytes", before.bytes + 1_000_000)


# One task's limit


def test_an_event_based_task_over_its_limit(device: Device, place: Path) -> None:
    """Pitfall: no bound on memory, no word when an event was dropped.

    A file of which something was dropped has one overflow in its own name, or,
    if nothing of it is pending, one that names no file. The drops are counted
    under their cause, and what is pending stays within the limit.
    """
    info = device.info()
    limit = 20 * info.node_bytes
    watch = Watch(device.register(place / "tree", EVENTS, limit=limit))
    before = device.info().drops
    sizes = {f"{i}": (40 if i == 1 else 3) * info.node_pages for i in range(30)}
    for name, pages in sizes.items():
        fill(place / "tree" / name, pages, sync=False)
        assert device.tasks()[0].pending <= at_most(device, limit)
    drops = device.info().drops
    items = watch.read()
    lost = overflows(items)
    files = {identity(place / "tree" / name): pages for name, pages in sizes.items()}
    whole = {
        file for file, pages in files.items() if pages_of(items, file, WRITTEN) == set(range(pages))
    }
    named = [item.file for item in lost if item.file.ino]
    assert len(named) == len(set(named)), "one overflow for each file"
    assert identity(place / "tree/1") in named
    assert whole.isdisjoint(named)
    silent = set(files) - whole - set(named)
    assert {item.file for item in items if item.pages}.isdisjoint(silent)
    assert len(lost) > len(named) or not silent
    assert whole != set()
    assert drops.task_limit > before.task_limit
    assert (drops.limit, drops.nomem) == (before.limit, before.nomem)
    assert int((SYSFS / "drops/task_limit").read_text()) == drops.task_limit
    [task] = device.tasks()
    assert task.drops.task_limit == drops.task_limit - before.task_limit
    assert task.overflows == len(lost)
    assert task.pending == 0

    # Once it has read, it is told as ever.
    drop_caches()
    watch.read()
    path = fill(place / "tree/late", 3 * info.node_pages, sync=False)
    assert watch.news(path) == dict.fromkeys(range(3 * info.node_pages), WRITTEN)
    watch.task.close()


def test_an_overflow_comes_before_what_follows_it(device: Device, place: Path) -> None:
    """Of a file that overflowed, later news come after the overflow."""
    info = device.info()
    limit = 20 * info.node_bytes + 2 * info.file_bytes
    watch = Watch(device.register(place / "tree", EVENTS, limit=limit))
    first = fill(place / "tree/first", 10 * info.node_pages, sync=False)
    second = fill(place / "tree/second", 1, sync=False)
    with first.open("ab") as file:
        file.write(b"x" * 20 * info.node_pages * PAGE)
    with second.open("ab") as file:
        file.write(b"x" * 4 * info.node_pages * PAGE)
    pages = 0
    while pages < 15 * info.node_pages:
        told = watch.task.read(info.node_pages)
        assert {item.file for item in told} == {identity(first)}
        pages += sum(item.pages for item in told)
    later = 5 * info.node_pages
    with second.open("r+b") as file:
        file.seek(later * PAGE)
        file.write(b"x")
    items = [item for item in watch.read() if item.file == identity(second)]
    [overflow] = [i for i, item in enumerate(items) if item.state == State.OVERFLOW]
    news = [i for i, item in enumerate(items) if item.index <= later < item.end]
    assert news != []
    assert all(i > overflow for i in news)
    watch.task.close()


@pytest.mark.parametrize("mask", [STATES, Mask.EXISTS, Mask.MODIFIED])
def test_a_state_based_task_over_its_limit(device: Device, place: Path, mask: Mask) -> None:
    """It is told the truth all the same: its files are compared anew when it reads."""
    info = device.info()
    limit = 10 * info.node_bytes
    pages = 3 * info.node_pages
    watch = Watch(device.register(place / "tree", mask, limit=limit))
    for i in range(30):
        fill(place / f"tree/{i}", pages, sync=False)
        assert device.tasks()[0].pending <= at_most(device, limit)
    for i in range(0, 30, 3):
        (place / f"tree/{i}").unlink()
        with (place / f"tree/{i + 1}").open("r+b") as file:
            file.truncate(info.node_pages * PAGE)
    assert overflows(watch.read()) == []
    assert_truth(watch, place / "tree", mask)
    drop_caches()
    assert overflows(watch.read()) == []
    assert_truth(watch, place / "tree", mask)
    assert device.tasks()[0].overflows == 0
    watch.task.close()


def assert_truth(watch: Watch, tree: Path, mask: Mask) -> None:
    """Compare what a task was told with what is cached and dirty, as far as its mask asks."""
    if mask == STATES:
        assert watch.disagreements(tree) == []
        return

    def wrong() -> list[Path]:
        return [
            path
            for path in tree.iterdir()
            if (Mask.EXISTS in mask and cached(path) != truth_of(path).cached)
            or (Mask.MODIFIED in mask and dirty(path) != truth_of(path).dirty)
        ]

    def cached(path: Path) -> AbstractSet[int]:
        return watch.tally.cached(identity(path))

    def dirty(path: Path) -> AbstractSet[int]:
        return watch.tally.dirty(identity(path))

    # Write-back goes on meanwhile: a difference counts if no news explains it.
    while wrong() and watch.read():
        pass
    assert wrong() == []


def test_one_tasks_limit_is_no_other_tasks(device: Device, place: Path) -> None:
    """A task that does not read costs another one nothing."""
    info = device.info()
    slow = Watch(device.register(place / "tree", EVENTS, limit=5 * info.node_bytes))
    fast = Watch(device.register(place / "tree", EVENTS))
    paths = [fill(place / f"tree/{i}", 2 * info.node_pages, sync=False) for i in range(10)]
    items = fast.read()
    assert overflows(items) == []
    for path in paths:
        wanted = set(range(2 * info.node_pages))
        assert pages_of(items, identity(path), WRITTEN) == wanted
    assert overflows(slow.read()) != []
    assert [task.overflows > 0 for task in device.tasks()] == [True, False]
    for watch in (slow, fast):
        watch.task.close()


# The limit of all


def test_an_event_based_task_over_the_limit_of_all(device: Device, place: Path) -> None:
    """Of files for which there is no room there is one word: inode 0. Use stays within."""
    watch = Watch(device.register(place / "tree", EVENTS))
    before = device.info().drops
    with tight(device, 30):
        limit = device.info().limit
        for i in range(100):
            fill(place / f"tree/{i}", 1, sync=False)
            assert device.info().bytes <= limit
        items = watch.read()
        assert device.info().bytes <= limit
    unknown = [item for item in overflows(items) if not item.file.ino]
    assert len(unknown) >= 1
    files = {identity(place / f"tree/{i}") for i in range(100)}
    told = {item.file for item in items if item.pages}
    assert told
    assert told < files
    drops = device.info().drops
    assert drops.limit > before.limit
    assert (drops.task_limit, drops.nomem) == (before.task_limit, before.nomem)
    assert int((SYSFS / "drops/limit").read_text()) == drops.limit
    assert_all_is_told_by_a_rescan(watch, files, place / "tree")
    watch.task.close()


def assert_all_is_told_by_a_rescan(watch: Watch, files: set[tuple[int, int]], tree: Path) -> None:
    """Rescan an event-based task: ADDED and DIRTY of all that is cached and dirty."""
    watch.read()
    watch.task.rescan()
    items = watch.read()
    assert overflows(items) == []
    assert {item.file for item in items} == files
    for path in tree.iterdir():
        file = identity(path)
        truth = truth_of(path)
        assert pages_of(items, file, State.ADDED) == truth.cached
        assert pages_of(items, file, State.DIRTY) >= truth.dirty


def test_a_state_based_task_over_the_limit_of_all(device: Device, place: Path) -> None:
    """What it cannot be told it is told of: an overflow. With room again a rescan brings it."""
    watch = Watch(device.register(place / "tree", STATES))
    with tight(device, 30):
        limit = device.info().limit
        for i in range(100):
            fill(place / f"tree/{i}", 1, sync=False)
        items = watch.read()
        assert device.info().bytes <= limit
        assert [item for item in overflows(items) if not item.file.ino] != []
        assert watch.read() == [], "one overflow until something more is lost"

        def sleeps() -> bool:
            before = time.process_time()
            assert not watch.task.wait(3)
            return time.process_time() - before < 1

        # A machine that stands still meanwhile counts for us as well, now and then.
        assert eventually(sleeps), "waited without sleeping"

    watch.task.rescan()
    assert watch.disagreements(place / "tree") == []
    assert len(watch.tally.cached_files()) == 100
    watch.task.close()


def test_a_state_based_task_helps_itself(device: Device, place: Path) -> None:
    """When there is room again by the time it reads, nothing was lost, and nothing is said."""
    watch = Watch(device.register(place / "tree", STATES))
    with tight(device, 30):
        for i in range(60):
            fill(place / f"tree/{i}", 1)
    assert device.tasks()[0].drops.limit > 0
    assert overflows(watch.read()) == []
    assert watch.disagreements(place / "tree") == []
    assert len(watch.tally.cached_files()) == 60
    watch.task.close()


@pytest.mark.parametrize("mask", [STATES, EVENTS], ids=["states", "events"])
def test_no_room_for_a_third_task_in_a_file(device: Device, place: Path, mask: Mask) -> None:
    """A file that two tasks know takes more memory for one more: without, that one is told so."""
    path = fill(place / "tree/file", 3)
    file, all_of_it = identity(path), {0, 1, 2}
    watches = [Watch(device.register(place / "tree", STATES)) for _ in range(2)]
    for one in watches:
        assert pages_of(one.read(), file, State.ADDED) == all_of_it
    with tight(device, 0):
        third = Watch(device.register(place / "tree", mask))
        items = third.read()
        assert overflows(items) == items != []
    third.task.rescan()
    assert pages_of(third.read(), file, State.ADDED) == all_of_it
    evict(path)
    for one in (*watches, third):
        assert pages_of(one.read(), file, State.REMOVED) == all_of_it
        one.task.close()


def test_room_that_comes_back_when_files_are_deleted(device: Device, place: Path) -> None:
    """Either the task is told the truth by itself, or that it has to ask."""
    watch = Watch(device.register(place / "tree", STATES))
    with tight(device, 30):
        for i in range(60):
            fill(place / f"tree/{i}", 1)
        for i in range(50):
            (place / f"tree/{i}").unlink()
        items = watch.read() + watch.read()
        if not overflows(items):
            assert watch.disagreements(place / "tree") == []
        watch.task.rescan()
        assert overflows(watch.read()) == []
        assert watch.disagreements(place / "tree") == []
        assert len(watch.tally.cached_files()) == 10
    watch.task.close()


def test_marks_count_as_well(device: Device, place: Path) -> None:
    """Done marks are memory of the module: within both limits, refused beyond them."""
    with device.register(place / "tree", STATES) as task:
        before = device.info().bytes
        task.mark_many(FileId(2**40 + i * 4096, 1) for i in range(2000))
        used = device.info().bytes - before
        assert used >= 2000 * 16
        with tight(device, 1):
            limit = device.info().limit
            wrong = errno_of(
                lambda: task.mark_many(FileId(2**41 + i * 4096, 1) for i in range(20000))
            )
            assert wrong == errno.ENOSPC
            assert device.info().bytes <= limit
        task.unmark_many(list(task.marked()))
        assert device.info().bytes <= before
    with device.register(place / "tree", STATES, limit=6400) as task:
        wrong = errno_of(lambda: task.mark_many(FileId(2**40 + i, 1) for i in range(1000)))
        assert wrong == errno.ENOSPC
        marked = list(task.marked())
        assert 10 <= len(marked) < 1000
        # To mark again what is marked takes nothing; and there is room for what is given back.
        task.mark_many(marked)
        task.unmark_many(marked[:5])
        task.mark_many(FileId(2**41 + i, 1) for i in range(5))
        assert errno_of(lambda: task.mark_done(FileId(2**42, 1))) == errno.ENOSPC


def nodes_of_trees() -> int:
    """Return how many nodes the kernel's maple trees have, of 256 bytes each."""
    lines = SLABS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("maple_node "))


@pytest.mark.kernel_with(SLABS)
def test_marks_take_no_more_than_is_counted(device: Device, place: Path) -> None:
    """Pitfall: marks counted for less than they take, if some are taken back, in a pattern.

    Truth: the kernel's count of the nodes of its trees, of which few others come and go.
    """
    marks = [FileId(1000 * i, 1) for i in range(1, 16_001)]
    with device.register(place / "tree", STATES) as task:
        before, counted = nodes_of_trees(), device.info().bytes
        task.mark_many(marks)
        task.unmark_many(mark for i, mark in enumerate(marks, 6) if i % 8 >= 4 or i // 8 % 2 == 0)
        counted = device.info().bytes - counted
        assert len(list(task.marked())) == 4000
        # What was replaced goes when nobody can be looking at it any more.
        assert eventually(lambda: 256 * (nodes_of_trees() - before) <= counted)


# Rescan


def test_a_rescan_tells_a_state_based_task_only_what_differs(device: Device, place: Path) -> None:
    """Nothing, when it knows all: with or without a scan it begins with what is so."""
    for i in range(5):
        fill(place / f"tree/{i}", 3)
    watch = Watch(device.register(place / "tree", STATES))
    assert len(watch.read()) == 5
    watch.task.rescan()
    assert watch.read() == []
    assert not watch.task.wait(0)
    late = Watch(device.register(place / "tree", STATES, no_scan=True))
    late.task.rescan()
    assert late.read() == []
    for one in (watch, late):
        one.task.close()


@pytest.mark.parametrize(
    ("mask", "wanted"),
    [
        (EVENTS, WRITTEN),
        (Mask.ADDED, State.ADDED),
        (Mask.DIRTY, State.DIRTY),
        (Mask.ADDED | Mask.REMOVED, State.ADDED),
    ],
)
def test_a_rescan_tells_an_event_based_task_what_is_there(
    device: Device, place: Path, mask: Mask, wanted: State
) -> None:
    """ADDED of what is cached, DIRTY of what is dirty, as far as the mask asks, every time."""
    clean, dirty = fill(place / "tree/clean", 3), place / "tree/dirty"
    watch = Watch(device.register(place / "tree", mask))
    fill(dirty, 2, sync=False)
    outside = fill(place / "out/file", 1)
    for _ in range(3):
        watch.read()
        watch.task.rescan()
        items = watch.read()
        for path, pages in ((clean, 3), (dirty, 2)):
            state = wanted if path == dirty else wanted & State.ADDED
            told = {
                page: item.state
                for item in items
                if item.file == identity(path)
                for page in range(item.index, item.end)
            }
            assert told == (dict.fromkeys(range(pages), state) if state else {})
        assert not any(item.file == identity(outside) for item in items)
    watch.task.close()


def test_a_rescan_tells_removed_to_nobody_who_knows_it(device: Device, place: Path) -> None:
    """An event-based task that asks for REMOVED or FLUSHED alone is told nothing by a rescan."""
    fill(place / "tree/file", 3)
    watch = Watch(device.register(place / "tree", Mask.REMOVED | Mask.FLUSHED))
    watch.read()
    watch.task.rescan()
    assert watch.read() == []
    watch.task.close()


@pytest.mark.parametrize("mask", [STATES, EVENTS])
def test_a_rescan_leaves_done_files_alone(device: Device, place: Path, mask: Mask) -> None:
    """A done file is silent, whatever is asked."""
    done, other = fill(place / "tree/done", 2), fill(place / "tree/other", 2)
    watch = Watch(device.register(place / "tree", mask))
    watch.task.mark_done(identity(done))
    for turn in range(2):
        told = watch.news(other)
        if mask == EVENTS or not turn:
            assert told == dict.fromkeys(range(2), State.ADDED)
        watch.task.rescan()
    watch.task.close()


def test_rescans_under_load(device: Device, place: Path) -> None:
    """Pitfall: the scan overwrote a REMOVED that came while it ran: phantom pages for ever."""
    watch = Watch(device.register(place / "tree", STATES))
    pid = os.fork()
    if not pid:
        try:
            for turn in range(60):
                for i in range(5):
                    fill(place / f"tree/{i}", 1 + (turn + i) % 70, sync=False)
                    if (turn + i) % 3 == 0:
                        (place / f"tree/{i}").unlink()
        finally:
            os._exit(0)
    while not os.waitpid(pid, os.WNOHANG)[0]:
        watch.task.rescan()
        watch.read()
    os.sync()
    assert watch.disagreements(place / "tree") == []
    watch.task.close()
