# SPDX-License-Identifier: MIT
"""pyduet.cluster.source without Duet: looks at the files of a data directory."""

import os
from pathlib import Path

import pytest
from kept import kept
from places import Mounted

from pyduet.cluster.blocks import Blocks
from pyduet.cluster.source import MincoreSource
from pyduet.cluster.stores import Hdfs, Plain

PAGE, POOL = 4096, "BP-1-10.0.0.1-2"
PAGES = 12


def write(path: Path, pages: int) -> Path:
    """Write a file of so many pages, of which none stays in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(pages * PAGE))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


def test_blocks_of_hdfs(mounted: Mounted) -> None:
    """What is in memory is resident until it is not, and what is no block never."""
    final = mounted.path / f"current/{POOL}/current/finalized/subdir0/subdir1"
    paths = [write(final / f"blk_{number}", PAGES) for number in range(3)]
    meta = write(final / "blk_1_1001.meta", 1)
    blocks = Blocks(Hdfs.part)
    with MincoreSource(mounted.path, Hdfs(), blocks, interval=0) as source:
        source.step(0)
        assert blocks.resident == ()
        with kept(paths[1]), kept(meta):
            source.step(0)
            assert blocks.changes() == ((f"{POOL}:1",), ())
            assert blocks.pages == PAGES
        paths[1].unlink()
        source.step(0)
        assert blocks.changes() == ((), (f"{POOL}:1",))


def test_parts_of_a_plain_file(mounted: Mounted) -> None:
    """Which pages are in memory counts, not how many."""
    write(mounted.path / "a/whole", 2 * PAGES)
    write(mounted.path / "a/half", 2 * PAGES)
    store = Plain(mounted.path, PAGES * PAGE)
    blocks = Blocks(store.part)
    with MincoreSource(mounted.path, store, blocks, interval=0) as source:
        with kept(mounted.path / "a/whole"):
            with (mounted.path / "a/half").open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                os.pread(file.fileno(), PAGES * PAGE, PAGES * PAGE)
                source.step(0)
            found = blocks.changes().gained
        assert {"a/whole#0", "a/whole#1"} <= set(found) <= {"a/whole#0", "a/whole#1", "a/half#1"}


def test_it_waits_for_its_time(mounted: Mounted) -> None:
    """It looks at once, and then when the interval is over."""
    path = write(mounted.path / "f", PAGES)
    store = Plain(mounted.path, PAGES * PAGE)
    blocks = Blocks(store.part)
    with MincoreSource(mounted.path, store, blocks, interval=3600) as source:
        source.step(0)
        with kept(path):
            source.step(0.01)
            assert blocks.resident == ()


@pytest.mark.user
def test_what_may_not_be_read_is_left_out(mounted: Mounted) -> None:
    path = write(mounted.path / "f", PAGES)
    path.chmod(0)
    store = Plain(mounted.path, PAGES * PAGE)
    blocks = Blocks(store.part)
    with MincoreSource(mounted.path, store, blocks, interval=0) as source:
        source.step(0)
    assert blocks.resident == ()


def test_a_directory_that_is_not_there(mounted: Mounted) -> None:
    blocks = Blocks(0)
    with (
        MincoreSource(mounted.path / "none", Hdfs(), blocks) as source,
        pytest.raises(FileNotFoundError, match="none"),
    ):
        source.step(0)
