# SPDX-License-Identifier: GPL-2.0-only
"""Write-back that happens when a test says so, and not when the machine is slow."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_PERIOD = Path("/proc/sys/vm/dirty_writeback_centisecs")


@contextlib.contextmanager
def no_periodic_writeback() -> Iterator[None]:
    """Stop the kernel from writing back what has been dirty for long; sync still does.

    A disk that has written little since the boot may have few dirty pages
    before they are written in the background: it is given its share.
    """
    device = os.stat("/mnt/duet").st_dev
    share = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/min_ratio")
    settings = {_PERIOD: "0\n", **({share: "50\n"} if share.exists() else {})}
    before = {file: file.read_text() for file in settings}
    try:
        for file, value in settings.items():
            file.write_text(value)
        yield
    finally:
        for file, value in before.items():
            file.write_text(value)
