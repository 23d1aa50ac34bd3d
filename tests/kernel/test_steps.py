# SPDX-License-Identifier: MIT
"""What may be long goes in steps, between which others have the processor, and comes out whole."""

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import EVENTS
from ordinary import ANNA, device_for_group, register_as
from test_cost import counted
from truth import PAGE, TRACEFS, Watch, fill, identity

from pyduet import Device, FileId, Mask, State

Register = Callable[..., Watch]

PREEMPTION = Path("/sys/kernel/debug/sched/preempt")
#: Nodes of one file, so many that to look at all of them takes long.
MANY = 6000


def probe(line: str) -> None:
    """Add or remove a probe of the kernel."""
    fd = os.open(TRACEFS / "kprobe_events", os.O_WRONLY | os.O_APPEND)
    os.write(fd, line.encode() + b"\n")
    os.close(fd)


@contextlib.contextmanager
def given_way() -> Iterator[Callable[[], int]]:
    """Return a function that says how often this thread offered the processor to others.

    Since it was last asked. Where the kernel takes the processor itself nobody is asked, as in the
    debug kernel; only one that can be told how to preempt says how it does.
    """
    if not (PREEMPTION.exists() and "(voluntary)" in PREEMPTION.read_text()):
        pytest.skip("this kernel does not say that it asks before it preempts")
    probe("p:duet_steps/asked __cond_resched")
    try:
        with counted("duet_steps/asked", f"common_pid == {threading.get_native_id()}") as take:
            yield take
    finally:
        probe("-:duet_steps/asked")


def sparse(path: Path, device: Device, nodes: int = MANY) -> Path:
    """Make a file of nothing, so long that it has so many nodes."""
    with path.open("wb") as file:
        file.truncate(nodes * device.info().node_pages * PAGE)
    return path


def touch(path: Path, device: Device, order: list[int]) -> None:
    """Have the first page of each of these nodes' runs read, and leave none in the cache."""
    run = device.info().node_pages * PAGE
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    for node in order:
        os.pread(fd, 1, node * run)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def shuffled(number: int) -> list[int]:
    """Return numbers in an order that is none, and always the same."""
    order = list(range(number))
    random.Random(19).shuffle(order)
    return order


UP = list(range(500))
ORDERS = {
    "up": UP,
    "down": UP[::-1],
    "one": [7],
    "two": [7, 3],
    "shuffled": shuffled(500),
    "saw": [*UP[::3], *UP[1::3], *UP[2::3]],
    "two streams": [node for pair in zip(UP[:250], UP[250:], strict=True) for node in pair],
    "towards the middle": [n for pair in zip(UP, UP[::-1], strict=True) for n in pair][:500],
    "down by tens": [node for ten in range(490, -1, -10) for node in UP[ten : ten + 10]],
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_pages_come_in_order(
    device: Device, watch: Register, place: Path, order: list[int]
) -> None:
    """Of one file, whatever the order was in which they were read, and each once."""
    path = sparse(place / "tree/file", device, 500)
    one = watch(place / "tree", Mask.ADDED)
    one.read()
    touch(path, device, order)
    items = one.read()
    pages = device.info().node_pages
    assert {item.file for item in items} == {identity(path)}
    assert [item.index for item in items] == [node * pages for node in sorted(order)]
    assert {item.state for item in items} == {State.ADDED}


def test_many_nodes_are_put_in_order_in_steps(device: Device, watch: Register, place: Path) -> None:
    """Pitfall: a file's nodes were sorted in one go, for seconds when there were millions."""
    path, short = (sparse(place / "tree" / name, device) for name in ("file", "short"))
    one = watch(place / "tree", Mask.ADDED)
    with given_way() as asked:
        touch(short, device, [0, 1])
        asked()
        assert len(one.task.read(1)) == 1
        anyway = asked()
        one.read()
        touch(path, device, shuffled(MANY))
        asked()
        items = one.task.read(1)
        assert asked() >= anyway + 150
    items += one.read()
    pages = device.info().node_pages
    assert [item.index for item in items] == [node * pages for node in range(MANY)]


@pytest.mark.fs("ext4", "xfs")
def test_a_file_that_goes_with_many_nodes(device: Device, watch: Register, place: Path) -> None:
    """Pitfall: its nodes were looked at in one go, by whoever deleted it."""
    path, outside = (sparse(place / name, device) for name in ("tree/file", "out/file"))
    one = watch(place / "tree", EVENTS)
    with given_way() as asked:
        touch(outside, device, list(range(MANY)))
        asked()
        outside.unlink()
        anyway = asked()
        touch(path, device, list(range(MANY)))
        asked()
        path.unlink()
        assert asked() >= anyway + 150
    items = one.read()
    assert len(items) == MANY
    assert {item.state for item in items} == {State.ADDED | State.REMOVED}


def test_poll_leaves_the_work_to_who_reads(watch: Register, place: Path) -> None:
    """Pitfall: poll(), which may not wait, looked at all inodes, and names up.

    It says readable where that is due; the read may find nothing, and then that is known.
    """
    path = fill(place / "tree/file", 3)
    one = watch(place / "tree")
    one.read()
    with counted("duet/duet_verdict") as verdicts:

        def poll_then_read() -> None:
            verdicts()
            assert one.task.wait(0)
            assert verdicts() == 0
            assert one.read() == []
            assert verdicts() > 0
            assert not one.task.wait(0)

        one.task.rescan()
        poll_then_read()
        second = place / "tree/second"
        second.hardlink_to(path)
        one.read()
        second.unlink()
        poll_then_read()


def test_many_marks_go_in_steps(device: Device, place: Path) -> None:
    """Pitfall: the end of a task freed all its marks under a spinlock."""
    before = device.info().bytes
    with given_way() as asked:
        task = device.register(place / "tree", Mask.EXISTS)
        asked()
        task.close()
        anyway = asked()
        for step in (1, 64, 1 << 20):
            task = device.register(place / "tree", Mask.EXISTS)
            task.mark_many(FileId(1 + i * step, 1) for i in range(30_000))
            asked()
            task.close()
            assert asked() >= anyway + 100
    assert device.info().bytes == before


def test_refused_files_are_passed_over_in_steps(device: Device, place: Path) -> None:
    """Pitfall: who asked for done files looked through all refused ones in one go."""
    for i in range(2100):
        fill(place / f"tree/{i}", 1, sync=False)
    with device_for_group():
        task = register_as(ANNA, place / "tree", Mask.EXISTS)
    with task, given_way() as asked:
        for _ in range(3):  # the first time Python has much to find
            asked()
            assert list(task.marked()) == []
            empty = asked()
        assert task.read() == []
        asked()
        assert list(task.marked()) == []
        assert asked() >= empty + 6
