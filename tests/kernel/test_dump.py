# SPDX-License-Identifier: MIT
"""Looking in: tasks, the table, its nodes, what is pending and what is done; consuming nothing."""

import ctypes
import errno
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import EVENTS, STATES, counter
from ordinary import ANNA, CLONE_NEWPID, as_user, in_child, unshare
from raw import ioctl
from truth import PAGE, Watch, drop_caches, fill, identity

from pyduet import Device, FileId, Item, Mask, TaskEndedError, TaskInfo, cached_pages
from pyduet._driver import abi
from pyduet._driver.descriptor import Descriptor
from pyduet._driver.dump import dump
from pyduet.info import NodeInfo

SIZES = {
    abi.IOC_DUMP_TASKS: ctypes.sizeof(abi.TaskInfo),
    abi.IOC_DUMP_NODES: ctypes.sizeof(abi.NodeInfo),
    abi.IOC_DUMP_PENDING: abi.ITEM.size,
    abi.IOC_DUMP_MARKS: ctypes.sizeof(abi.FileRef),
}


def entries(descriptor: Descriptor, number: int, *, tid: int = 0, count: int = 64) -> list[bytes]:
    """Return what a DUMP call returns, with room for so many structures a call."""
    size = SIZES[number]
    found = []
    for data in dump(descriptor, number, size, "it", tid=tid, count=count):
        found += [data[offset : offset + size] for offset in range(0, len(data), size)]
    return found


def bits(word: int) -> set[int]:
    """Return which bits of a word are set."""
    return {bit for bit in range(64) if word >> bit & 1}


def page_set(items: list[Item]) -> dict[tuple[int, int, int], int]:
    """Return file and page of each page that items tell of, with its state; each only once."""
    pages: dict[tuple[int, int, int], int] = {}
    for item in items:
        for page in range(item.index, item.end):
            key = (*item.file, page)
            assert key not in pages
            pages[key] = item.state
    return pages


# Tasks


def test_tasks(device: Device, place: Path) -> None:
    """Every task with what it asked for and what became of it."""
    paths = [fill(place / f"tree/{i}", 3) for i in range(5)]
    before = time.monotonic()
    first = Watch(device.register(place / "tree", EVENTS, name="first", ranges=True))
    second = Watch(device.register(paths[0], STATES, name="sécond", limit=99_999, no_scan=True))
    first.read()
    first.task.mark_done(identity(paths[1]))
    one, two = device.tasks()
    for task, watch in ((one, first), (two, second)):
        assert (task.id, task.fd) == (watch.task.id, watch.task.fileno())
        assert (task.pid, task.uid, task.gone) == (os.getpid(), 0, False)
        assert task.dev == paths[0].stat().st_dev
        assert 0 < task.age <= time.monotonic() - before
        assert (task.drops, task.overflows) == ((0, 0, 0), 0)
    assert one.age >= two.age
    assert (one.name, one.mask, one.path) == ("first", EVENTS, str(place / "tree"))
    assert (two.name, two.mask, two.path) == ("sécond", STATES, str(paths[0]))
    assert (one.ranges, one.no_scan, two.ranges, two.no_scan) == (True, False, False, True)
    assert (one.limit, two.limit) == (device.info().task_limit, 99_999)
    assert (one.delivered, two.delivered) == (5, 0)
    assert (one.done, two.done) == (1, 0)
    assert one.files == 4
    assert one.pending == 0
    paths[2].write_bytes(b"x" * PAGE)
    assert device.tasks()[0].pending > 0
    for watch in (first, second):
        watch.task.close()


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_tasks_a_part_at_a_time(device: Device, place: Path, count: int) -> None:
    """Each comes once, in the order of their identities, whatever the room."""
    device.stop()
    device.start(40)
    tasks = [device.register(place / "tree", STATES, name=f"t{i}") for i in range(40)]
    tasks.pop(7).close()
    raw = entries(device, abi.IOC_DUMP_TASKS, count=count)
    infos = [abi.TaskInfo.from_buffer_copy(data) for data in raw]
    assert [info.tid for info in infos] == [task.id for task in tasks]
    assert [os.fsdecode(info.name) for info in infos] == [task.name for task in tasks]
    for data in raw:
        layout = abi.TaskInfo.reserved
        assert set(data[layout.offset : layout.offset + layout.size]) == {0}
        # Pitfall: stack bytes leaked in the padding.
        for field in (abi.TaskInfo.name, abi.TaskInfo.path):
            text = data[field.offset : field.offset + field.size]
            assert set(text[text.index(b"\0") :]) == {0}
    for task in tasks:
        task.close()


def test_a_task_tells_of_itself(device: Device, place: Path) -> None:
    """Pitfall: who was handed a task could not ask what it is. Over its descriptor, it alone."""
    fill(place / "tree/file", 2)
    others = [device.register(place / "out", EVENTS) for _ in range(3)]
    with device.register(place / "tree", STATES, name="handed on", limit=99_999) as task:
        [seen] = [one for one in device.tasks() if one.id == task.id]
        assert replace(task.info(), age=0) == replace(seen, age=0)

        def ask() -> tuple[TaskInfo, list[TaskInfo]]:
            return task.info(), device.tasks()

        # No task of this user's; what would tell of files that he may not know of is 0.
        told, listed = as_user(ANNA, ask)
        assert listed == []
        assert replace(told, age=0) == replace(seen, age=0, pending=0, files=0)
        assert (told.pid, told.uid, told.limit, told.name) == (os.getpid(), 0, 99_999, "handed on")
        assert seen.pending > 0
        assert len(entries(task, abi.IOC_DUMP_TASKS, count=1)) == 1
        device.end(task.id)
        with pytest.raises(TaskEndedError):
            task.info()
    for other in others:
        other.close()


def test_a_process_that_cannot_be_seen(device: Device, place: Path) -> None:
    """In another process namespace the number would mean somebody else: it is 0."""
    with device.register(place / "tree", STATES):

        def pids() -> tuple[int, int]:
            here = device.tasks()[0].pid
            unshare(CLONE_NEWPID)
            return here, in_child(lambda: device.tasks()[0].pid)

        assert in_child(pids) == (os.getpid(), 0)


# Buffers and cursors, of every dump


@pytest.fixture
def filled(device: Device, place: Path) -> Iterator[Watch]:
    """Return a task with items pending and files marked done."""
    for i in range(20):
        fill(place / f"tree/{i}", 1 + i * 20, sync=False)
    watch = Watch(device.register(place / "tree", STATES))
    watch.task.mark_many(FileId(2**40 + i, 3) for i in range(200))
    yield watch
    watch.task.close()


@pytest.mark.parametrize("number", SIZES)
def test_a_part_at_a_time_is_the_same(device: Device, filled: Watch, number: int) -> None:
    """Whatever the room for a call, all comes, once, and nothing is written behind its end."""
    over = {abi.IOC_DUMP_TASKS: device, abi.IOC_DUMP_NODES: device}.get(number, filled.task)
    size = SIZES[number]
    whole = entries(over, number, count=5000)
    assert whole
    if number != abi.IOC_DUMP_TASKS:  # which tells its age
        assert len(set(whole)) == len(whole)
        for count in (1, 3, 64):
            assert sorted(entries(over, number, count=count)) == sorted(whole)
    buffer = ctypes.create_string_buffer(b"\x5a" * (4 * size), 4 * size)
    for room in (size, 2 * size - 1, 2 * size):
        ctypes.memset(buffer, 0x5A, len(buffer))
        request = abi.Dump(len=room, buf=ctypes.addressof(buffer), size=size)
        assert ioctl(over.fileno(), number, request) == 0
        assert request.nr == min(room // size, len(whole))
        assert set(buffer.raw[request.nr * size :]) == {0x5A}


@pytest.mark.parametrize("number", SIZES)
def test_no_room_for_one(device: Device, filled: Watch, number: int) -> None:
    """Is an error, not a cursor that never moves."""
    over = {abi.IOC_DUMP_TASKS: device, abi.IOC_DUMP_NODES: device}.get(number, filled.task)
    buffer = ctypes.create_string_buffer(SIZES[number])
    for room in (0, SIZES[number] - 1):
        request = abi.Dump(len=room, buf=ctypes.addressof(buffer), size=SIZES[number])
        assert ioctl(over.fileno(), number, request) == -errno.EINVAL


@pytest.mark.parametrize("number", SIZES)
def test_a_caller_that_knows_another_structure(device: Device, filled: Watch, number: int) -> None:
    """A longer one is filled up with zeros; a shorter one than the first was never known."""
    over = {abi.IOC_DUMP_TASKS: device, abi.IOC_DUMP_NODES: device}.get(number, filled.task)
    size = SIZES[number]
    whole = entries(over, number, count=5000)
    buffer = ctypes.create_string_buffer(b"\x5a" * (3 * (size + 8)), 3 * (size + 8))
    request = abi.Dump(len=len(buffer) - 1, buf=ctypes.addressof(buffer), size=size + 8)
    assert ioctl(over.fileno(), number, request) == 0
    assert request.nr == min(2, len(whole))
    for i in range(request.nr):
        entry = buffer.raw[i * (size + 8) : (i + 1) * (size + 8)]
        assert entry[size:] == bytes(8)
        if number != abi.IOC_DUMP_TASKS:  # which tells its age
            assert entry[:size] == whole[i]
    assert set(buffer.raw[request.nr * (size + 8) :]) == {0x5A}
    for wrong in (0, size - 8, size - 1, len(buffer) + 1, 2**32 - 1):
        request = abi.Dump(len=len(buffer), buf=ctypes.addressof(buffer), size=wrong)
        assert ioctl(over.fileno(), number, request) == -errno.EINVAL, wrong
    # Nor one of more than 64 KiB, though there is room: the rest of it is cleared in one go.
    large = ctypes.create_string_buffer((64 << 10) + 8)
    for known, answer in ((64 << 10, 0), ((64 << 10) + 1, -errno.EINVAL)):
        request = abi.Dump(len=len(large), buf=ctypes.addressof(large), size=known)
        assert ioctl(over.fileno(), number, request) == answer, known


@pytest.mark.parametrize("number", SIZES)
def test_cursors_from_nowhere(device: Device, filled: Watch, number: int) -> None:
    """Any cursor is taken for what it says: it may find nothing, it does no harm."""
    over = {abi.IOC_DUMP_TASKS: device, abi.IOC_DUMP_NODES: device}.get(number, filled.task)
    size = SIZES[number]
    buffer = ctypes.create_string_buffer(100 * size)
    for cursor in (1, 0xFFFFF, 1 << 20, 1 << 63, abi.CURSOR_END - 1, abi.CURSOR_END):
        for end in (0, 1, 2**44 - 1, 2**64 - 1):
            request = abi.Dump(
                cursor=cursor, end=end, len=len(buffer), buf=ctypes.addressof(buffer), size=size
            )
            assert ioctl(over.fileno(), number, request) in (0, -errno.EINVAL)
            assert request.nr <= 100
            request.first, request.cursor = end, cursor
            assert ioctl(over.fileno(), number, request) in (0, -errno.EINVAL)
            assert request.nr <= 100
    request = abi.Dump(
        cursor=abi.CURSOR_END, len=len(buffer), buf=ctypes.addressof(buffer), nr=77, size=size
    )
    if ioctl(over.fileno(), number, request) == 0:
        assert (request.nr, request.cursor) == (0, abi.CURSOR_END)


# The table and its nodes


def test_the_table(device: Device, place: Path) -> None:
    """Its shape adds up, and no chain is long.

    Pitfall: page 0 of every file hashed to one bucket.
    """
    assert device.table().nodes == 0
    watch = Watch(device.register(place / "tree", STATES))
    for i in range(1000):
        (place / f"tree/{i}").write_bytes(b"x")
    fill(place / "tree/large", 3000, sync=False)
    watch.read()
    table = device.table()
    assert len(table.chains) == abi.CHAIN_LENGTHS
    assert sum(table.chains) == table.buckets
    assert sum(length * count for length, count in enumerate(table.chains)) == table.nodes
    assert table.nodes == counter("nodes")
    assert table.longest == max(length for length, count in enumerate(table.chains) if count)
    assert table.longest == counter("longest_chain")
    assert table.longest <= 8
    watch.task.close()
    assert sum(device.table().chains[1:]) == 0


def nodes_of(found: list[NodeInfo], path: Path, task: int) -> dict[int, NodeInfo]:
    """Return the nodes of a file that say something to a task, by their first page."""
    ino, generation = identity(path)
    chosen = [n for n in found if (n.ino, n.generation, n.task) == (ino, generation, task)]
    by_index = {node.index: node for node in chosen}
    assert len(by_index) == len(chosen)
    assert {node.dev for node in chosen} <= {path.stat().st_dev}
    return by_index


def test_nodes_of_a_state_based_task(device: Device, place: Path) -> None:
    """They say what is cached and dirty, and as what the task knows it."""
    pages = 150
    clean = fill(place / "tree/clean", pages)
    dirty = fill(place / "tree/dirty", pages, sync=False)
    watch = Watch(device.register(place / "tree", STATES))
    task, run = watch.task.id, device.info().node_pages

    def pages_by(path: Path, word: str) -> set[int]:
        nodes = nodes_of(list(device.nodes()), path, task)
        found: set[int] = set()
        for index, node in nodes.items():
            assert index % run == 0
            value = getattr(node, word) if hasattr(node, word) else getattr(node.bits, word)
            found |= {index + bit for bit in bits(value)}
        return found

    watch.read()
    for path in (clean, dirty):
        assert pages_by(path, "cached") == pages_by(path, "added") == cached_pages(path)
        assert pages_by(path, "removed") == pages_by(path, "flushed") == set()
        assert not any(node.queued for node in nodes_of(list(device.nodes()), path, task).values())
    assert pages_by(clean, "dirty") == pages_by(clean, "dirtied") == set()
    assert pages_by(dirty, "dirty") == pages_by(dirty, "dirtied") == set(range(pages))

    # What has happened and was not read yet: the truth has moved, the task's knowledge has not.
    with clean.open("r+b") as file:
        file.truncate(100 * PAGE)
    assert pages_by(clean, "cached") == set(range(100))
    assert pages_by(clean, "added") == set(range(pages))
    nodes = nodes_of(list(device.nodes()), clean, task)
    assert {index: node.queued for index, node in nodes.items()} == {
        index: index + run > 100 for index in range(0, pages, run)
    }
    watch.read()
    assert pages_by(clean, "added") == set(range(100))
    watch.task.close()


def test_nodes_of_an_event_based_task(device: Device, place: Path) -> None:
    """They say what happened and was not read yet; read, they are gone."""
    watch = Watch(device.register(place / "tree", EVENTS))
    path = fill(place / "tree/file", 100)
    run = device.info().node_pages
    nodes = nodes_of(list(device.nodes()), path, watch.task.id)
    assert set(nodes) == set(range(0, 100, run))
    for index, node in nodes.items():
        here = set(range(min(run, 100 - index)))
        assert node.queued
        for kind in ("added", "dirtied", "flushed"):
            assert bits(getattr(node.bits, kind)) == here, kind
        assert node.bits.removed == 0
    watch.read()
    assert nodes_of(list(device.nodes()), path, watch.task.id) == {}
    watch.task.close()


def test_a_node_says_something_to_each_task(device: Device, place: Path) -> None:
    """One entry for each task that it says something to, in the same bucket."""
    path = fill(place / "tree/file", 10)
    watches = [Watch(device.register(place / "tree", mask)) for mask in (STATES, EVENTS, STATES)]
    ino, generation = identity(path)
    found = [node for node in device.nodes() if (node.ino, node.generation) == (ino, generation)]
    assert sorted(node.task for node in found) == [watch.task.id for watch in watches]
    assert len({(node.bucket, node.index) for node in found}) == 1
    for watch in watches:
        watch.task.close()


def test_buckets_can_be_chosen(device: Device, place: Path) -> None:
    """The parts of the table together are the table, and none overlaps."""
    watch = Watch(device.register(place / "tree", STATES))
    for i in range(300):
        (place / f"tree/{i}").write_bytes(b"x")
    watch.read()
    buckets = device.table().buckets
    whole = list(device.nodes())
    assert len(whole) == 300
    assert all(node.bucket < buckets for node in whole)
    step = -(-buckets // 5)
    parts: list[NodeInfo] = []
    for first in range(0, buckets, step):
        part = list(device.nodes(first, first + step))
        assert all(first <= node.bucket < first + step for node in part)
        parts += part
    key = lambda node: (node.bucket, node.ino)  # noqa: E731
    assert sorted(parts, key=key) == sorted(whole, key=key)
    assert list(device.nodes(buckets)) == []
    assert list(device.nodes(5, 5)) == []
    watch.task.close()


# What is pending


@pytest.mark.parametrize("mask", [STATES, EVENTS, Mask.EXISTS, Mask.DIRTY])
@pytest.mark.parametrize("ranges", [False, True])
def test_pending_is_what_is_read_next(
    device: Device, place: Path, mask: Mask, ranges: bool
) -> None:
    """The dump says what the next read says, and leaves it there."""
    watch = Watch(device.register(place / "tree", mask, ranges=ranges))
    paths = [fill(place / f"tree/{i}", 1 + 30 * i, sync=False) for i in range(8)]
    for _ in range(2):
        pending = page_set(list(watch.task.pending()))
        assert watch.task.wait(0)
    told = page_set(watch.read())
    assert set(told) == {
        (*identity(path), page) for i, path in enumerate(paths) for page in range(1 + 30 * i)
    }
    assert pending == told
    assert list(watch.task.pending()) == []
    watch.task.close()


def test_pending_within_a_read(device: Device, place: Path) -> None:
    """What a read has fetched and not returned yet is pending still."""
    path = fill(place / "tree/file", 200)
    watch = Watch(device.register(place / "tree", STATES))
    told = page_set(watch.task.read(3))
    assert len(told) == 3
    pending = page_set(list(watch.task.pending()))
    assert set(told) | set(pending) == {(*identity(path), page) for page in range(200)}
    rest = page_set(watch.read())
    assert set(rest) == set(pending)
    watch.task.close()


def test_pending_shows_overflows_or_leaves_them(device: Device, place: Path) -> None:
    """A dump takes no overflow away from the reader."""
    info = device.info()
    watch = Watch(device.register(place / "tree", EVENTS, limit=4 * info.node_bytes))
    for i in range(10):
        fill(place / f"tree/{i}", 2 * info.node_pages, sync=False)
    list(watch.task.pending())
    lost = [item for item in watch.read() if not item.pages]
    assert len(lost) == device.tasks()[0].overflows > 0
    watch.task.close()


# What is done


@pytest.mark.parametrize("count", [1, 16, 5000])
def test_marks(device: Device, place: Path, count: int) -> None:
    """The dump says which files are marked done: with an inode or without."""
    watch = Watch(device.register(place / "tree", STATES))
    paths = [fill(place / f"tree/{i}", 1) for i in range(10)]
    files = {identity(path) for path in paths[:5]}
    files |= {FileId(2**40 + i, i % 3) for i in range(300)}
    watch.task.mark_many(files)
    raw = entries(watch.task, abi.IOC_DUMP_MARKS, count=count)
    refs = [abi.FileRef.from_buffer_copy(data) for data in raw]
    assert {ref.result for ref in refs} == {1}
    assert sorted((ref.ino, ref.gen) for ref in refs) == sorted(file for file in files)
    assert set(watch.task.marked()) == files
    for path in paths:
        path.unlink()
    drop_caches()
    some = set(list(files)[:50])
    watch.task.unmark_many(some)
    assert {file for file in watch.task.marked() if file.ino >= 2**40} == {
        file for file in files - some if file.ino >= 2**40
    }
    watch.task.close()


def test_marks_are_shown_to_their_own_task(device: Device, place: Path) -> None:
    """Each task's marks by its own descriptor; root may ask for another by number."""
    one, two = (device.register(place / "tree", STATES) for _ in range(2))
    one.mark_many([FileId(7, 7)])
    assert [list(task.marked()) for task in (one, two)] == [[FileId(7, 7)], []]
    for task, count in ((one, 1), (two, 0)):
        found = in_child(lambda task=task: len(entries(device, abi.IOC_DUMP_MARKS, tid=task.id)))
        assert found == count
        task.close()


# While everything moves


def test_looking_in_while_everything_moves(device: Device, place: Path) -> None:
    """Dumps beside writes, reads, marks and tasks that end: each ends, and is well-formed."""
    going = True
    problems: list[str] = []

    def look() -> None:
        while going:
            try:
                buckets = device.table().buckets
                if any(node.bucket >= buckets for node in device.nodes()):
                    problems.append("a bucket beyond the table")
                if any(not 1 <= task.id <= 8 for task in device.tasks()):
                    problems.append("a task's number")
                list(watch.task.pending())
                list(watch.task.marked())
            except OSError as error:
                problems.append(str(error))

    watch = Watch(device.register(place / "tree", STATES))
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for turn in range(30):
            with device.register(place / "tree", EVENTS) as other:
                for i in range(4):
                    path = fill(place / f"tree/{i}", 1 + 40 * ((turn + i) % 3), sync=False)
                    other.mark_done(identity(path))
                    if turn % 3 == 0:
                        path.unlink()
                watch.read()
    finally:
        going = False
        thread.join(120)
    assert problems == []
    assert watch.disagreements(place / "tree") == []
    watch.task.close()


# Buckets


def read_runs(path: Path, device: Device, runs: list[int]) -> None:
    """Read the first page of some runs of a sparse file, which is made."""
    run = device.info().node_pages * PAGE
    with path.open("wb") as file:
        file.truncate((max(runs) + 1) * run)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for number in runs:
        os.pread(fd, 1, number * run)
    os.close(fd)


def test_buckets_show_no_address(device: Device, place: Path) -> None:
    """Pitfall: the runs of a file were at distances that told where its entry is in memory."""
    names = ("one", "other")
    runs = list(range(40))
    with device.register(place / "tree", EVENTS):
        for name in names:
            read_runs(place / "tree" / name, device, runs)
        pages = device.info().node_pages
        bucket = {(node.ino, node.index // pages): node.bucket for node in device.nodes()}
        buckets = device.table().buckets
        inos = [(place / "tree" / name).stat().st_ino for name in names]
    one, other = ([bucket[ino, run] - bucket[ino, 0] for run in runs[1:]] for ino in inos)
    apart = [(a - b) % buckets for a, b in zip(one, other, strict=True)]
    assert sum(distance in (0, 1, buckets - 1) for distance in apart) < 5


def test_nobody_chooses_buckets(device: Device, restored: dict[str, int], place: Path) -> None:
    """Pitfall: whoever read the right pages of a file had all of them in one bucket."""
    device.stop()
    device.set_limits(limit=512 * device.info().node_bytes)
    device.start()
    assert device.table().buckets == 1 << 10
    # What the hash once multiplied a run with: those that it had put in the first bucket.
    factor = 0xFF51AFD7ED558CCD * 0x61C8864680B583EB
    runs = [run for run in range(160_000) if not run * factor >> 54 & 0x3FF]
    assert len(runs) > 100
    with device.register(place / "tree", EVENTS):
        read_runs(place / "tree/file", device, runs)
        assert device.info().nodes == len(runs)
        assert device.table().longest < 12
