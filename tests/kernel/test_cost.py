# SPDX-License-Identifier: MIT
"""Work that must not be there at all: for what nobody watches, and for each single page or item.

What the rest costs is measured, not tested: docs/performance.md.
"""

import contextlib
import ctypes
import errno
import mmap
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions import evict, read_page, sync_file, write_at
from asleep import call_of, wait_until_asleep
from conftest import EVENTS, STATES, SYSFS, counter, eventually
from test_life import READ
from test_limits import tight
from truth import PAGE, TRACEFS, Watch, drop_caches, fill, identity

from pyduet import Device, Mask, State

Register = Callable[..., Watch]

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]

COUNTERS = (
    *("files", "nodes", "bytes"),
    *(f"events/{kind}" for kind in ("added", "removed", "dirtied", "flushed")),
    *(f"drops/{why}" for why in ("limit", "task_limit", "nomem")),
)


@contextlib.contextmanager
def counted(event: str, which: str = "0") -> Iterator[Callable[[], int]]:
    """Return a function that says how often a trace event came since it was last asked.

    Args:
        event: with its group.
        which: a filter, as the kernel has it; by default it is counted whatever it says.

    """
    instance = TRACEFS / "instances/duet_cost"
    instance.mkdir()
    enable = instance / "events" / event / "enable"

    def take() -> int:
        enable.write_text("0")
        lines = (instance / "trace").read_text().splitlines()
        (instance / "trace").write_text("\n")
        enable.write_text("1")
        return sum(not line.startswith("#") for line in lines)

    try:
        (instance / "buffer_size_kb").write_text("4096")
        (instance / "events" / event / "filter").write_text(which)
        enable.write_text("1")
        yield take
        enable.write_text("0")
    finally:
        instance.rmdir()


def counters() -> dict[str, int]:
    """Return all that the module counts."""
    return {name: counter(name) for name in COUNTERS}


def use(path: Path) -> None:
    """Have each event happen to a file of many pages, page by page."""
    for page in range(20):
        read_page(path, page)
    write_at(path, 0, 20)
    sync_file(path)
    evict(path)


@pytest.mark.parametrize("mask", [STATES, EVENTS])
def test_what_nobody_watches_takes_nothing(watch: Register, place: Path, mask: Mask) -> None:
    """No memory, no count, and after the first sight of a file no walk to its directories.

    Pitfall: a lock on every event, relevant or not; a path walk in the probe.
    Pitfall (2016): watching one file must not tax everyone; no path lookups in the dirty path.
    """
    paths = [fill(place / f"out/{i}", 20) for i in range(40)]
    drop_caches()
    one = watch(place / "tree", mask)
    before = counters()
    with counted("duet/duet_verdict") as verdicts:
        for path in paths:
            use(path)
        assert verdicts() <= 2 * len(paths)
        for path in paths:
            use(path)
        # None, but where two files share a place in the cache of verdicts.
        assert verdicts() <= len(paths) // 2
    assert counters() == before
    assert one.read() == []


def test_nobody_is_woken_for_nothing(watch: Register, place: Path) -> None:
    """Pitfall: wake_up on every event even when nothing was queued."""
    outside, done, own = (fill(place / name, 20) for name in ("out/file", "tree/done", "tree/own"))
    drop_caches()
    # Has every hook attached, and what the reader does not ask for told to somebody.
    greedy, one = watch(place / "tree", EVENTS), watch(place / "tree", Mask.ADDED)
    one.task.mark_done(identity(done))
    read_page(own, 7)
    assert one.news(own) == {7: State.ADDED}
    fd = one.task.fileno()
    os.set_blocking(fd, True)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(os.read(fd, 4096)), daemon=True)
    thread.start()

    def status() -> dict[str, str]:
        lines = Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines)

    assert eventually(lambda: call_of(thread.native_id) == READ)
    assert thread.native_id
    wait_until_asleep(thread.native_id)  # and is not on its way there
    before = status()["voluntary_ctxt_switches"]
    use(outside)
    use(done)
    write_at(own, 7)
    sync_file(own)
    evict(own)
    time.sleep(0.2)
    assert {State.DIRTY, State.FLUSHED} <= {s for item in greedy.read() for s in item.state}
    assert status()["voluntary_ctxt_switches"] == before
    assert got == []
    read_page(own, 3)
    thread.join(120)
    assert len(got[0]) == 32


def _churn(path: Path, end: float) -> None:
    """Write a file of 1 MiB again and again, as many times as there is time for."""
    while time.monotonic() < end:
        fill(path, 256, sync=False)


def test_every_core_writes_while_one_file_is_watched(device: Device, place: Path) -> None:
    """Pitfall (2016): one process per core writes 1 MiB files while one other file is watched.

    Its task is told of it exactly, and nothing else is seen, kept or dropped. What it costs the
    writers is measured: the section "many cores" of docs/performance.md.
    """
    path = fill(place / "tree/file", 8)
    drop_caches()
    watch = Watch(device.register(path, Mask.ADDED | Mask.REMOVED))
    before, end = counters(), time.monotonic() + 4
    context = multiprocessing.get_context("fork")
    workers = [
        context.Process(target=_churn, args=(place / f"out/{i}", end))
        for i in range(os.cpu_count() or 1)
    ]
    for worker in workers:
        worker.start()
    rounds = 0
    alive = True
    while alive:
        alive = any(worker.is_alive() for worker in workers)
        read_page(path, 3)
        assert watch.news(path) == {3: State.ADDED}
        evict(path)
        assert watch.news(path) == {3: State.REMOVED}
        rounds += 1
    assert [worker.exitcode for worker in workers] == [0] * len(workers)
    after = counters()
    assert rounds > 0
    assert (after["files"], after["nodes"]) == (1, 0)
    for name in COUNTERS[3:]:
        seen = rounds if name in ("events/added", "events/removed") else 0
        assert after[name] - before[name] == seen, name
    watch.task.close()


def test_items_are_copied_many_at_a_time(watch: Register, place: Path) -> None:
    """Pitfall: one copy_to_user per item. Copied one by one, the first 128 would arrive."""
    fill(place / "tree/file", 300)
    one = watch(place / "tree", Mask.ADDED)
    items = PAGE // 32
    with mmap.mmap(-1, 2 * PAGE) as memory:
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        del view  # or the memory could not be given back
        assert LIBC.mprotect(address + PAGE, PAGE, 0) == 0  # PROT_NONE
        assert LIBC.read(one.task.fileno(), address, 2 * items * 32) == -1
        assert ctypes.get_errno() == errno.EFAULT
        assert one.task.wait(0)
        assert LIBC.read(one.task.fileno(), address, items * 32) == items * 32
    assert len(os.read(one.task.fileno(), 300 * 32)) == (300 - items) * 32


def test_a_node_serves_64_pages(watch: Register, place: Path) -> None:
    """Pitfall: one allocated node and one state array for each page, about 80 bytes."""
    with Device() as device:
        info = device.info()
    assert info.node_pages == 64
    pages = 100 * info.node_pages
    one = watch(place / "tree")
    fill(place / "tree/file", pages, sync=False)
    one.read()
    assert counter("nodes") == 100
    # The first node is part of the file's entry.
    assert counter("bytes") == info.file_bytes + 99 * info.node_bytes
    assert counter("bytes") / pages < 8


def test_reads_take_no_node_of_who_asks_what_is_dirty(watch: Register, place: Path) -> None:
    """Pitfall: a node for every 64 pages that were merely read, for who is never told of them.

    It is none the less right for who asks what is cached, whenever that begins and ends.
    """
    before, since = (fill(place / f"tree/{name}", 200) for name in ("before", "since"))
    everything = {
        (identity(path), page): State.ADDED for path in (before, since) for page in range(200)
    }
    drop_caches()
    before.read_bytes()
    dirty = watch(place / "tree", Mask.MODIFIED)
    since.read_bytes()
    assert dirty.read() == []
    assert (counter("files"), counter("nodes")) == (2, 0)
    write_at(since, 70, 2)
    assert dirty.news(since) == {70: State.DIRTY, 71: State.DIRTY}
    assert counter("nodes") == 1

    cached = watch(place / "tree", Mask.EXISTS)
    assert cached.all_news() == everything
    assert counter("nodes") == 8
    sync_file(since)
    assert dirty.news(since) == {70: State.FLUSHED, 71: State.FLUSHED}
    assert (dirty.read(), cached.read()) == ([], [])
    write_at(before, 130)
    assert dirty.news(before) == {130: State.DIRTY}
    cached.task.close()
    assert counter("nodes") == 1
    evict(since)
    since.read_bytes()
    assert (dirty.read(), counter("nodes")) == ([], 1)

    again = watch(place / "tree", Mask.EXISTS)
    assert again.all_news() == everything
    dirty.task.close()
    evict(since)
    assert again.news(since) == dict.fromkeys(range(200), State.REMOVED)


def test_large_tables(device: Device, place: Path) -> None:
    """Pitfall: what is allocated for the buckets had to be contiguous, and poll() counted them."""

    def cost(limit: int) -> tuple[int, float]:
        """Return the buckets for a limit, and the time that many polls took."""
        device.stop()
        (SYSFS / "limit_bytes").write_text(str(limit))
        device.start(1)
        with device.register(place / "tree", STATES) as task:
            times = []
            for _ in range(20):
                start = time.perf_counter()
                for _ in range(100):
                    assert not task.wait(0)
                times.append(time.perf_counter() - start)
        # The fastest of some: what else the machine does, it does not do all the time.
        return device.table().buckets, min(times)

    try:
        few, fast = cost(1 << 20)
        assert few < 1 << 16

        def is_cheap() -> bool:
            many, slow = cost(256 << 20)
            # More than kmalloc() has: 2^10 pages in one piece.
            assert many * 8 > 1024 * PAGE
            # The debug kernel's clock goes in steps, and misses some.
            return slow < 3 * fast + 10 * time.clock_getres(time.CLOCK_MONOTONIC)

        # The machine may have had more to do the second time; it has not always.
        assert eventually(is_cheap)
    finally:
        device.stop()
        (SYSFS / "limit_bytes").write_text("0")
        device.start(8)


def test_the_last_of_many_tasks(watch: Register, place: Path) -> None:
    """What a task was told is kept for it, however few others are left and whatever was its number.

    A node is given up when no task has something of it: only numbers in use are looked at.
    """
    path = fill(place / "tree/file", 70)
    drop_caches()
    first, second, last = (watch(place / "tree", Mask.EXISTS) for _ in range(3))
    read_page(path, 3)
    read_page(path, 66)
    for one in (first, second, last):
        assert one.news(path) == {3: State.ADDED, 66: State.ADDED}
    for one in (first, second):
        one.task.close()
    evict(path)
    assert last.news(path) == {3: State.REMOVED, 66: State.REMOVED}
    assert counter("nodes") == 0
    again = watch(place / "tree", Mask.EXISTS)
    last.task.close()
    read_page(path, 3)
    assert again.news(path) == {3: State.ADDED}
    evict(path)
    assert again.news(path) == {3: State.REMOVED}
    assert counter("nodes") == 0


@pytest.mark.parametrize("mask", [Mask.ADDED, Mask.EXISTS])
def test_a_file_without_room_is_decided_about_once(
    device: Device, watch: Register, place: Path, mask: Mask
) -> None:
    """Pitfall: where no entry could be made, each page of the file had the whole verdict made.

    The task is told of the loss all the same, and again of what is lost after that.
    """
    path = fill(place / "tree/large", 400)
    others = [fill(place / f"tree/{i}", 1) for i in range(100)]
    drop_caches()
    one = watch(place / "tree", mask)
    with tight(device, 30):
        for other in others:
            read_page(other, 0)
        assert device.info().files < 40
        drops = device.info().drops.limit
        of_it = f"ino == {path.stat().st_ino}"
        with counted("duet/duet_verdict", of_it) as verdicts:
            for page in range(200):
                read_page(path, page)
            assert 1 <= verdicts() <= 20
            assert device.info().drops.limit >= drops + 200
            for _ in range(3):
                items = one.read()
                assert [item for item in items if State.OVERFLOW in item.state] != []
                assert identity(path) not in {item.file for item in items}
                verdicts()
                for page in range(200, 260):
                    read_page(path, page)
                evict(path)
                assert 1 <= verdicts() <= 20
    # There is room now.
    one.read()
    read_page(path, 333)
    assert one.news(path) == {333: State.ADDED}


def test_what_the_last_of_many_was_told_while_it_is_full(device: Device, place: Path) -> None:
    """Of a node that it has no room to queue, what it was told is all that is left to keep it.

    It has the highest number, and the others are gone.
    """
    path, other = fill(place / "tree/file", 70), place / "tree/other"
    drop_caches()
    info = device.info()
    others = [device.register(place / "out", Mask.EXISTS) for _ in range(2)]
    # Room for a file with two nodes.
    limit = info.file_bytes + 2 * info.node_bytes
    last = Watch(device.register(place / "tree", Mask.EXISTS, limit=limit))
    read_page(path, 3)
    read_page(path, 66)
    assert last.news(path) == {3: State.ADDED, 66: State.ADDED}
    for one in others:
        one.close()
    fill(other, 3 * info.node_pages)
    before = device.info().drops.task_limit
    evict(path)
    assert device.info().drops.task_limit > before, "it had no room"
    last.read()
    assert last.tally.cached(identity(path)) == set()
    assert last.disagreements(place / "tree") == []
    last.task.close()
