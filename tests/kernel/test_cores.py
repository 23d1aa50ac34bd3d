# SPDX-License-Identifier: MIT
"""No lock of Duet's is waited for by processors that work on files of their own.

Truth: the kernel's lock statistics, which the debug kernel keeps.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from actions import read_page, write_at
from conftest import STATES
from truth import Watch, drop_caches, fill

from pyduet import Device

STATISTICS = Path("/proc/lock_stat")
SWITCH = Path("/proc/sys/kernel/lock_stat")
pytestmark = pytest.mark.kernel_with(STATISTICS)

#: Locks for what is kept by inode number.
INO_LOCKS = "&duet_ino_locks[i].lock"
#: Lock classes that are ours, by the names that lockdep gives them.
OURS = ("&file->lock", "&task->lock", "&task->read_lock", "duet_epoch_lock", "duet.lock", INO_LOCKS)
SECONDS = 20

#: Writes a file and removes it, over and over, until its time is over.
CHURN = """
import os, sys, time
path, size, end = sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    with open(path, "wb") as file:
        file.write(bytes(size))
    os.unlink(path)
"""


class Lock(NamedTuple):
    """How often a class of locks was waited for, and how often it was taken."""

    contentions: int
    acquisitions: int


@pytest.fixture
def statistics() -> Iterator[None]:
    """The kernel counts, from zero."""
    SWITCH.write_text("1")
    STATISTICS.write_text("0")
    yield
    SWITCH.write_text("0")


def locks() -> dict[str, Lock]:
    """Return what was counted so far; readers and writers of a class have a line each."""
    found = {}
    for line in STATISTICS.read_text().splitlines():
        name, colon, numbers = line.strip().rpartition(":")
        fields = numbers.split()
        # con-bounces, contentions, four times, acq-bounces, acquisitions, four times
        if colon and len(fields) == 12 and fields[0].isdigit():
            found[name.strip()] = Lock(int(fields[1]), int(fields[7]))
    return found


def churn(where: Path, size: int) -> list[subprocess.Popen[bytes]]:
    """Have a process on each processor write files of its own."""
    return [
        subprocess.Popen(
            [sys.executable, "-c", CHURN, where / f"{number}", str(size), str(SECONDS)]
        )
        for number in range(os.cpu_count() or 1)
    ]


@pytest.mark.usefixtures("statistics")
def test_no_lock_is_waited_for(device: Device, place: Path) -> None:
    """Pitfall: global locks. A process on each processor writes while another file is watched."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    watch = Watch(device.register(path, STATES))
    writers = churn(place / "out", 1 << 20)
    told = 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        read_page(path, 1)
        write_at(path, 2)
        told += len(watch.read())
        drop_caches(1)
    assert told > 0
    assert [writer.wait() for writer in writers] == [0] * len(writers)
    watch.task.close()
    counted = locks()
    assert counted["&file->lock"].acquisitions > 0, "the statistics do not know our locks"
    assert sum(lock.contentions for lock in counted.values()) > 0, "nobody waited for anything"
    waited = {name: lock for name, lock in counted.items() if name.startswith(OURS)}
    assert {name for name, lock in waited.items() if lock.contentions} == set()


@pytest.mark.usefixtures("statistics")
def test_files_that_come_and_go_share_no_lock(device: Device, place: Path) -> None:
    """Pitfall: one lock for all files that go, whichever processor they go on.

    Two files may have the same of 256 locks, and a processor that has one may lose its own.
    """
    watch = Watch(device.register(place / "tree", STATES))
    writers = churn(place / "tree", 4096)
    told = 0
    while any(writer.poll() is None for writer in writers):
        told += len(watch.read())
    assert told > 0
    assert [writer.wait() for writer in writers] == [0] * len(writers)
    watch.task.close()
    lock = locks()[INO_LOCKS]
    assert lock.acquisitions > 500
    assert lock.contentions <= lock.acquisitions // 200
