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

#: Lock classes that are ours, by the names that lockdep gives them.
OURS = ("&file->lock", "&task->lock", "&task->read_lock", "&duet_ino_locks[i].lock")
OURS += ("duet_epoch_lock", "duet.lock")
SECONDS = 20

#: Writes files of 1 MiB, over and over, until its time is over.
CHURN = """
import os, sys, time
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    with open(sys.argv[1], "wb") as file:
        file.write(bytes(1 << 20))
    os.unlink(sys.argv[1])
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


@pytest.mark.usefixtures("statistics")
def test_no_lock_is_waited_for(device: Device, place: Path) -> None:
    """Pitfall: global locks. A process on each processor writes while another file is watched."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    watch = Watch(device.register(path, STATES))
    writers = [
        subprocess.Popen([sys.executable, "-c", CHURN, place / f"out/{number}", str(SECONDS)])
        for number in range(os.cpu_count() or 1)
    ]
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
