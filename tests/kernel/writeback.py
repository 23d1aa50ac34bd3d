# SPDX-License-Identifier: GPL-2.0-only
"""Write-back that happens when a test says so, and not when the machine is slow."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

_PERIOD = Path("/proc/sys/vm/dirty_writeback_centisecs")


@contextlib.contextmanager
def no_periodic_writeback() -> Iterator[None]:
    """Stop the kernel from writing back what has been dirty for long; sync still does."""
    before = _PERIOD.read_text()
    _PERIOD.write_text("0\n")
    try:
        yield
    finally:
        _PERIOD.write_text(before)
