# SPDX-License-Identifier: MIT
"""pyduet.cluster.blocks and .stores: which block a file is, and which blocks are resident."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyduet.cluster.blocks import Blocks
from pyduet.cluster.stores import Hdfs, MooseFs, Plain

DATA = "/data/current/BP-1190-10.0.0.1-1700/current"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"{DATA}/finalized/subdir0/subdir31/blk_1073741825", "BP-1190-10.0.0.1-1700:1073741825"),
        (f"{DATA}/rbw/blk_1073741825", "BP-1190-10.0.0.1-1700:1073741825"),
        (f"{DATA}/finalized/blk_-77", "BP-1190-10.0.0.1-1700:-77"),
        (f"{DATA}/finalized/subdir0/subdir31/blk_1073741825_1001.meta", None),
        (f"{DATA}/lazyPersist/blk_1073741825", None),
        (f"{DATA}/VERSION", None),
        ("/data/current/blk_1", None),
    ],
)
def test_blocks_of_hdfs(path: str, name: str | None) -> None:
    assert Hdfs().name(path) == name


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/mnt/d1/00/chunk_0000000000000004_00000001.mfs", "0000000000000004"),
        ("/mnt/d1/FF/chunk_00000000000000FF_0000000A.mfs", "00000000000000FF"),
        ("/mnt/d1/.lock", None),
        ("/mnt/d1/00/chunk_0000000000000004_00000001.mfs.tmp", None),
    ],
)
def test_chunks_of_moosefs(path: str, name: str | None) -> None:
    assert MooseFs().name(path) == name


def test_parts_of_plain_files() -> None:
    store = Plain("/data/", 8 << 12)
    assert (store.name("/data/a/b"), store.part) == ("a/b", 8)
    assert store.name("/database/a") is None
    assert store.name("/data/") is None
    for part in (0, 100, (1 << 20) + 1, -4096):
        with pytest.raises(ValueError, match=f"{part} bytes"):
            Plain("/data", part)


def test_a_block_is_resident_from_nine_tenths_on_until_below_seven() -> None:
    blocks = Blocks(0)
    blocks.met("file", "b", 100)
    blocks.change("file", 0, 89, cached=True)
    assert blocks.changes() == ((), ())
    blocks.change("file", 95, 1, cached=True)
    assert blocks.resident == ("b",)
    assert blocks.changes() == (("b",), ())
    blocks.change("file", 0, 20, cached=False)
    assert blocks.changes() == ((), ())
    blocks.change("file", 20, 1, cached=False)
    assert blocks.changes() == ((), ("b",))
    assert (blocks.pages, blocks.resident) == (69, ())


def test_what_came_and_went_is_no_change() -> None:
    blocks = Blocks(0)
    blocks.met("file", "b", 4)
    blocks.change("file", 0, 4, cached=True)
    blocks.change("file", 0, 4, cached=False)
    assert blocks.changes() == ((), ())
    assert not blocks.knows("file")


def test_a_block_that_grows_is_resident_no_more() -> None:
    blocks = Blocks(0)
    blocks.met("file", "b", 4)
    blocks.change("file", 0, 4, cached=True)
    assert blocks.resident == ("b",)
    blocks.met("file", "b", 6)
    assert blocks.resident == ()
    blocks.change("file", 4, 2, cached=True)
    assert blocks.resident == ("b",)


def test_the_last_part_of_a_file_is_smaller() -> None:
    blocks = Blocks(10)
    blocks.met("file", "f", 23)
    blocks.change("file", 9, 14, cached=True)
    assert blocks.resident == ("f#1", "f#2")
    blocks.change("file", 0, 9, cached=True)
    assert blocks.resident == ("f#1", "f#2", "f#0")
    blocks.gone("file")
    assert (blocks.resident, blocks.pages) == ((), 0)


@pytest.mark.parametrize("part", [0, 1])
def test_a_file_that_is_renamed_is_another_block(part: int) -> None:
    blocks, end = Blocks(part), "#1" if part else ""
    blocks.met("file", "old", 2)
    blocks.change("file", 0 if not part else 1, 2, cached=True)
    blocks.changes()
    blocks.met("file", "new", 2)
    assert blocks.changes().gained[0] == f"new{end}"
    blocks.met("file", None, 2)
    assert blocks.resident == ()
    assert blocks.pages == 0


def test_what_is_cached_counts_before_it_is_known_which_block_it_is() -> None:
    blocks = Blocks(0)
    blocks.change("file", 0, 9, cached=True)
    assert (blocks.resident, blocks.named("file"), blocks.knows("file")) == ((), False, True)
    blocks.met("file", "b", 10)
    assert (blocks.resident, blocks.named("file")) == (("b",), True)


def test_what_is_held_takes_the_place_of_what_was_told() -> None:
    blocks = Blocks(10)
    blocks.hold("file", "f", 20, [range(10), range(12, 20)])
    assert blocks.resident == ("f#0",)
    blocks.hold("file", "f", 20, [range(10, 20)])
    assert blocks.resident == ("f#1",)
    blocks.hold("file", "f", 20, [])
    assert (blocks.resident, blocks.knows("file")) == ((), False)


def test_nothing_is_known_after_a_clear() -> None:
    blocks = Blocks(0)
    blocks.hold("file", "b", 2, [range(2)])
    blocks.changes()
    blocks.clear()
    assert blocks.changes() == ((), ("b",))


@pytest.mark.parametrize(("gain", "lose"), [(0.5, 0.6), (1.1, 0.5), (0.5, 0.0)])
def test_shares_that_are_none(gain: float, lose: float) -> None:
    with pytest.raises(ValueError, match=str(gain)):
        Blocks(0, gain, lose)


@given(
    part=st.sampled_from((0, 3, 5)),
    pages=st.integers(1, 17),
    steps=st.lists(st.tuples(st.integers(0, 16), st.integers(1, 8), st.booleans()), max_size=30),
)
def test_against_sets_of_pages(part: int, pages: int, steps: list[tuple[int, int, bool]]) -> None:
    """What a state-based task tells: each page that was not cached, or was."""
    blocks, cached, resident = Blocks(part), set[int](), dict[str, None]()
    for index, count, comes in steps:
        for page in range(index, min(index + count, pages)):
            if (page in cached) == comes:
                continue
            blocks.met("file", "f", pages)
            blocks.change("file", page, 1, cached=comes)
            cached ^= {page}
            number = page // part if part else 0
            of = set(range(pages)[number * part : (number + 1) * part if part else None])
            share = len(of & cached) / len(of)
            if share >= 0.9:
                resident.setdefault(f"f#{number}" if part else "f")
            elif share < 0.7:
                resident.pop(f"f#{number}" if part else "f", None)
    assert blocks.resident == tuple(resident)
    assert blocks.pages == len(cached)
