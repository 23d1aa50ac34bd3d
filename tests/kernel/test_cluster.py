# SPDX-License-Identifier: MIT
"""pyduet.cluster.source with Duet: which blocks of a data directory are in memory.

Truth: mincore(2) of each file, by the other source.
"""

import random
from pathlib import Path

import pytest
from actions import evict
from truth import PAGE, drop_caches, fill

from pyduet import Device, OffError
from pyduet.cluster.blocks import Blocks
from pyduet.cluster.source import DuetSource, MincoreSource
from pyduet.cluster.stores import Hdfs, Plain, Store

POOL, PAGES = "BP-1-10.0.0.1-2", 40


def true_ones(directory: Path, store: Store, share: float = 0.9) -> set[str]:
    """Return which blocks have such a share of their pages in memory, as mincore says."""
    blocks = Blocks(store.part, share, share)
    MincoreSource(directory, store, blocks).step(0)
    return set(blocks.resident)


def until_quiet(source: DuetSource) -> None:
    """Have all news added up that there are."""
    for _ in range(3):
        source.step(0)


def test_blocks_of_hdfs(device: Device, place: Path) -> None:
    tree = place / "tree"
    current = tree / f"current/{POOL}/current"
    final, written = current / "finalized/subdir0", current / "rbw"
    final.mkdir(parents=True)
    written.mkdir()
    for number in range(3):
        fill(final / f"blk_{number}", PAGES)
    fill(final / "blk_1_1001.meta", 1)
    drop_caches()
    (final / "blk_2").read_bytes()
    blocks = Blocks(Hdfs.part)
    with DuetSource(device, tree, Hdfs(), blocks) as source:
        until_quiet(source)
        assert blocks.changes() == ((f"{POOL}:2",), ())
        (final / "blk_1").read_bytes()
        (final / "blk_1_1001.meta").read_bytes()
        source.step(10)
        assert blocks.changes() == ((f"{POOL}:1",), ())
        # One that is written, and moved when it is whole: the same all the time.
        fill(written / "blk_7", PAGES)
        until_quiet(source)
        assert blocks.changes() == ((f"{POOL}:7",), ())
        (written / "blk_7").rename(final / "blk_7")
        evict(final / "blk_1")
        (final / "blk_2").unlink()
        until_quiet(source)
        assert blocks.changes() == ((), (f"{POOL}:2", f"{POOL}:1"))
        assert set(blocks.resident) == true_ones(tree, Hdfs()) == {f"{POOL}:7"}


def test_parts_of_plain_files_at_random(
    device: Device, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads, writes, evictions and removals, in 30 rounds."""
    monkeypatch.setattr("pyduet.cluster.source._STALE", 0.0)
    tree, chance = place / "tree", random.Random(5)
    store = Plain(tree, 16 * PAGE)
    blocks = Blocks(store.part)
    compared = 0
    with DuetSource(device, tree, store, blocks) as source:
        for _ in range(30):
            for _ in range(6):
                path = tree / str(chance.randrange(8))
                match chance.randrange(4):
                    case 0:
                        fill(path, chance.randrange(1, 90))
                    case 1 if path.exists():
                        evict(path)
                    case 2 if path.exists():
                        with path.open("rb") as file:
                            file.seek(chance.randrange(90) * PAGE)
                            file.read(chance.randrange(40) * PAGE)
                    case 3 if path.exists():
                        path.unlink()
            until_quiet(source)
            surely, perhaps = true_ones(tree, store), true_ones(tree, store, 0.7)
            assert surely <= set(blocks.resident) <= perhaps
            compared += len(surely)
    assert compared > 100


def test_news_that_were_lost(
    device: Device, restored: dict[str, int], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known then, until there is room: then all that is resident is told again."""
    monkeypatch.setattr("pyduet.cluster.source._PAUSE", 0.0)
    tree = place / "tree"
    store = Plain(tree, PAGES * PAGE)
    blocks = Blocks(store.part)
    with DuetSource(device, tree, store, blocks) as source:
        fill(tree / "first", PAGES)
        until_quiet(source)
        assert blocks.changes() == (("first#0",), ())
        device.set_limits(limit=30 * (device.info().file_bytes + device.info().node_bytes))
        for number in range(100):
            fill(tree / str(number), 1, sync=False)
        until_quiet(source)
        assert source.overflows > 0
        assert blocks.changes() == ((), ("first#0",))
        device.set_limits(limit=restored["limit_bytes"])
        until_quiet(source)
        assert set(blocks.resident) == true_ones(tree, store)
        assert len(blocks.resident) == 101


def test_duet_is_switched_off(device: Device, place: Path) -> None:
    with DuetSource(device, place / "tree", Hdfs(), Blocks(0)) as source:
        device.stop()
        with pytest.raises(OffError):
            source.step(1)
