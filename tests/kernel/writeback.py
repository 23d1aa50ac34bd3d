# SPDX-License-Identifier: MIT
"""Write-back that happens when a test says so, and not when the machine is slow."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/mnt/duet")
_PERIOD = Path("/proc/sys/vm/dirty_writeback_centisecs")
_BDI = Path("/sys/class/bdi")
#: Longer than any test. Not 0, which is "never" for what has been dirty for long, but has a disk
#: looked at as soon as something of it is dirty, instead of some seconds later.
_HOUR = 3600


@contextlib.contextmanager
def no_periodic_writeback() -> Iterator[None]:
    """Stop the kernel from writing back what has been dirty for long; sync still does.

    A disk that has written little of late may have few dirty pages before they
    are written in the background: it is given its share. ext4's journal writes
    the end of a file that was cut inside a page along with its next commit.
    """
    # What is dirty now would be written some time after the period has changed.
    os.sync()
    device = os.stat(MOUNT).st_dev
    shares = [_BDI / f"{os.major(device)}:{os.minor(device)}", *_BDI.glob("btrfs-*")]
    settings = {share / "min_ratio": "50\n" for share in shares if share.exists()}
    settings[_PERIOD] = f"{_HOUR * 100}\n"
    before = {file: file.read_text() for file in settings}
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    journal = any(mount[1:3] == [str(MOUNT), "ext4"] for mount in mounts)
    try:
        for file, value in settings.items():
            file.write_text(value)
        if journal:
            _commit_every(_HOUR)
        yield
    finally:
        if journal:
            _commit_every(0)  # the default
        for file, value in before.items():
            file.write_text(value)


def _commit_every(seconds: int) -> None:
    subprocess.run(["mount", "-o", f"remount,commit={seconds}", MOUNT], check=True)
