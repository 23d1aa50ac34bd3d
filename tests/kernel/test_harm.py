# SPDX-License-Identifier: MIT
"""What somebody does who wants to harm others, and that it does not: they go on."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import STATES, eventually
from fuse import Fuse
from mounts import MNT_DETACH, MS_BIND, mount, unmount
from truth import Watch, fill, identity

from pyduet import Device, Mask

Register = Callable[..., Watch]

#: Seconds for what should take none, on a busy machine.
SOON = 120


def forked(function: Callable[[], object]) -> int:
    """Run a function in a process of its own, which ends with 0 if that returned."""
    pid = os.fork()
    if not pid:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def ended(pid: int, seconds: float = SOON) -> bool:
    """Return whether a process ends well in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.1)
    return False


@pytest.fixture
def hanging(device: Device, place: Path, tmp_path: Path) -> Iterator[int]:
    """A process in a call of Duet that waits for a FUSE server, which answers no more."""
    subprocess.run(["modprobe", "fuse"], check=True)
    program = tmp_path / "fuse"
    program.mkdir()
    file = fill(place / "tree/file", 1)
    file_id = identity(file)
    ready, go = os.eventfd(0), os.eventfd(0)
    with Fuse(program, {"d": None}) as fuse:
        mount(str(place / "tree"), program / "d", flags=MS_BIND)

        def ask() -> None:
            fuse.leave()
            with Device() as mine, mine.register(program / "d", STATES) as task:
                file.rename(place / "out/file")
                os.eventfd_write(ready, 1)
                os.eventfd_read(go)
                task.path_of(file_id, max_age=0)

        pid = forked(ask)
        os.eventfd_read(ready)
        fuse.silent = True
        os.eventfd_write(go, 1)
        assert eventually(lambda: "fuse" in Path(f"/proc/{pid}/stack").read_text())
        yield pid
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    unmount(program, MNT_DETACH)  # what is mounted on it goes with it


def test_a_lookup_that_never_ends(device: Device, place: Path, hanging: int) -> None:
    """Pitfall: all that others did with Duet waited for who looks a path up."""
    [other] = [task for task in device.tasks() if task.pid == hanging]

    def live_on() -> None:
        with Device() as mine:
            assert mine.info().on
            for _ in range(2):
                with mine.register(place / "out", Mask.EXISTS) as task:
                    assert task.read_batch()
            mine.end(other.id)
            assert [task for task in mine.tasks() if task.id == other.id] == []
            mine.stop()
            mine.start()
            with mine.register(place / "out", Mask.EXISTS) as task:
                assert task.id != other.id
                assert task.read_batch()

    assert ended(forked(live_on))
