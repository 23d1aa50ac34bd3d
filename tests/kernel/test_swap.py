# SPDX-License-Identifier: MIT
"""Anonymous memory on its way to swap takes the same road as write-back, and is no event."""

import mmap
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from truth import Watch, fill

MIB = 1 << 20
MADV_PAGEOUT = 21  # include/uapi/asm-generic/mman-common.h

Register = Callable[..., Watch]


@pytest.fixture
def swap(place: Path) -> Iterator[None]:
    """Swap to a file beside the watched tree."""
    path = place / "out/swap"
    path.write_bytes(bytes(32 * MIB))
    path.chmod(0o600)
    subprocess.run(["mkswap", "-q", path], check=True)
    subprocess.run(["swapon", path], check=True)
    yield
    subprocess.run(["swapoff", path], check=True)


def swapped_out() -> int:
    """Return how many pages were written to swap since the boot."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("pswpout "))


@pytest.mark.fs("ext4", "xfs")
@pytest.mark.parametrize("flags", [mmap.MAP_PRIVATE, mmap.MAP_SHARED], ids=["anonymous", "shmem"])
@pytest.mark.usefixtures("swap")
def test_swap_is_no_flush(watch: Register, place: Path, flags: int) -> None:
    """folio_clear_dirty_for_io() of an anonymous folio, whose mapping is none, does no harm.

    Only private memory is anonymous; what is shared is in a page cache, of no file system here.
    """
    path = fill(place / "tree/file", 4)
    one = watch(place / "tree")
    assert len(one.news(path)) == 4
    before = swapped_out()
    with mmap.mmap(-1, 16 * MIB, flags | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"d" * len(memory)
        memory.madvise(MADV_PAGEOUT)
    assert swapped_out() >= before + 1000
    assert one.disagreements(place / "tree") == []
