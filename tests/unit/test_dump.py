# SPDX-License-Identifier: MIT
"""Paging through the DUMP calls, against a driver of our own making; and what comes of it."""

import ctypes
import itertools

import pytest

from pyduet import DriverInfo, Mask, NodeInfo, TableInfo, TaskInfo
from pyduet._driver import abi, dump
from pyduet._driver.descriptor import Descriptor


class Driver(Descriptor):
    """Has some structures, gives a few of them a call, and sometimes none."""

    def __init__(self, entries: list[abi.FileRef], sizes: list[int]) -> None:
        self.data = [bytes(entry) for entry in entries]
        self.sizes = itertools.cycle(sizes)
        self.requests: list[tuple[int, int, int, int]] = []

    def ioctl(self, _number: int, request: ctypes.Structure, *_words: object) -> int:
        assert isinstance(request, abi.Dump)
        self.requests.append((request.tid, request.cursor, request.first, request.end))
        start = request.cursor & 0xFFFFF
        size = ctypes.sizeof(abi.FileRef)
        some = self.data[start:][: min(next(self.sizes), request.len // size)]
        ctypes.memmove(request.buf, b"".join(some), size * len(some))
        request.nr = len(some)
        request.cursor += len(some)
        if start + len(some) >= len(self.data):
            request.cursor = abi.CURSOR_END
        return 0


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
@pytest.mark.parametrize("sizes", [[1], [64], [0, 5], [1000]])
def test_everything_comes_once(count: int, sizes: list[int]) -> None:
    driver = Driver([abi.FileRef(ino=ino, gen=1, result=1) for ino in range(count)], sizes)
    found = dump.dump_structures(driver, abi.IOC_DUMP_MARKS, abi.FileRef, "it", tid=9)
    assert [ref.ino for ref in list(found)] == list(range(count))
    assert {(tid, first, end) for tid, _, first, end in driver.requests} == {(9, 0, 0)}


def test_it_begins_and_ends_where_it_is_told() -> None:
    driver = Driver([], [1])
    assert list(dump.dump(driver, abi.IOC_DUMP_NODES, 16, "it", first=3, end=8)) == []
    assert driver.requests == [(0, 0, 3, 8)]


def test_a_task_becomes_an_object() -> None:
    raw = abi.TaskInfo(
        tid=3,
        mask=abi.Page.DIRTY | abi.Page.FD_NONBLOCK,
        flags=abi.Register.RANGES | abi.Register.INHERIT,
        pid=10,
        uid=11,
        dev=0xFE01,
        fd=5,
        age=1_500_000_000,
        drops=(1, 2, 3),
        overflows=4,
        name=b"n\xc3\xa9",
        path=b"/srv/\xff",
    )
    task = TaskInfo.of(raw)
    assert (task.id, task.fd, task.pid, task.uid, task.dev) == (3, 5, 10, 11, 0xFE01)
    assert task.mask is Mask.DIRTY
    assert (task.ranges, task.no_scan, task.snapshot, task.gone) == (True, False, False, False)
    assert task.age == 1.5
    assert (task.drops.limit, task.drops.task_limit, task.drops.nomem) == (1, 2, 3)
    assert (task.name, task.path) == ("né", "/srv/\udcff")
    assert task.overflows == 4


def test_the_settings_become_an_object() -> None:
    info = DriverInfo.of(
        abi.Info(
            on=1,
            max_tasks=8,
            hooks_found=0b1111,
            hooks_alive=0b1001,
            limit=7,
            page_shift=14,
            item_size=40,
            features=abi.Feature.TABLE | 1 << 60,
            register_flags=abi.Register.RANGES | abi.Register.SNAPSHOT | 1 << 40,
            masks=abi.Page.ADDED | abi.Page.EXISTS | 1 << 50,
        )
    )
    assert info.on is True
    assert info.hooks_found == Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED
    assert info.hooks_alive == Mask.ADDED | Mask.FLUSHED
    assert (info.max_tasks, info.limit) == (8, 7)
    assert info.page_size == 16384
    # Those of a later driver have no names here.
    assert (info.features, info.register_flags) == (("table",), ("ranges", "snapshot"))
    assert info.masks is Mask.ADDED | Mask.EXISTS
    assert info.item_size == 40


def test_every_field_of_a_structure_is_told() -> None:
    """What the kernel tells is not lost on the way, whatever it is called here."""
    renamed = {
        abi.Info: {
            "flags", "reserved", "nr_tasks", "nr_files", "nr_nodes", "page_shift",
        },
        abi.TaskInfo: {"reserved", "flags", "tid", "pad"},
        abi.Table: {"flags", "reserved"},
        abi.NodeInfo: {"gen", "idx", "tid"},
    }  # fmt: skip
    for raw, kind in zip(renamed, (DriverInfo, TaskInfo, TableInfo, NodeInfo), strict=True):
        names = {field[0] for field in raw._fields_} - renamed[raw]
        assert names <= set(kind.__slots__), kind


def test_the_objects_are_frozen() -> None:
    for value in (
        DriverInfo.of(abi.Info()), TaskInfo.of(abi.TaskInfo()),
        TableInfo.of(abi.Table()), NodeInfo.of(abi.NodeInfo()),
    ):  # fmt: skip
        with pytest.raises(AttributeError):
            setattr(value, type(value).__slots__[0], 1)
