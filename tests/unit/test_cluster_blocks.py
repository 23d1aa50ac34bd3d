# SPDX-License-Identifier: MIT
"""pyduet.cluster.blocks and .stores: which block a file is, and which blocks are resident."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyduet.cluster.blocks import Blocks
from pyduet.cluster.stores import Hdfs, MooseFs, Place, Plain

DATA = "/data/current/BP-1190-10.0.0.1-1700/current"


@pytest.mark.parametrize(
    ("path", "place"),
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
def test_blocks_of_hdfs(path: str, place: str | None) -> None:
    assert Hdfs().place(path) == (Place(place) if place else None)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/mnt/d1/00/chunk_0000000000000004_00000001.mfs", "0000000000000004"),
        ("/mnt/d1/FF/chunk_00000000000000FF_0000000A.mfs", "00000000000000FF"),
        ("/mnt/d1/.lock", None),
        ("/mnt/d1/00/chunk_0000000000000004_00000001.mfs.tmp", None),
    ],
)
def test_chunks_of_moosefs(path: str, place: str | None) -> None:
    assert MooseFs().place(path) == (Place(place) if place else None)


def test_parts_of_plain_files() -> None:
    store = Plain("/data/", 8 << 12)
    place = store.place("/data/a/b")
    assert place == Place("a/b", 8)
    assert (place.block(0), place.block(3)) == ("a/b#0", "a/b#3")
    assert store.place("/database/a") is None
    assert store.place("/data/") is None
    for part in (0, 100, (1 << 20) + 1, -4096):
        with pytest.raises(ValueError, match=f"{part} bytes"):
            Plain("/data", part)


def test_a_block_is_resident_from_nine_tenths_on_until_below_seven() -> None:
    blocks = Blocks()
    blocks.met("file", Place("b"), 100)
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
    blocks = Blocks()
    blocks.met("file", Place("b"), 4)
    blocks.change("file", 0, 4, cached=True)
    blocks.change("file", 0, 4, cached=False)
    assert blocks.changes() == ((), ())
    assert not blocks.knows("file")


def test_a_block_that_grows_is_resident_no_more() -> None:
    blocks = Blocks()
    blocks.met("file", Place("b"), 4)
    blocks.change("file", 0, 4, cached=True)
    assert blocks.resident == ("b",)
    blocks.met("file", Place("b"), 6)
    assert blocks.resident == ()
    blocks.change("file", 4, 2, cached=True)
    assert blocks.resident == ("b",)


def test_the_last_part_of_a_file_is_smaller() -> None:
    blocks = Blocks()
    blocks.met("file", Place("f", 10), 23)
    blocks.change("file", 9, 14, cached=True)
    assert blocks.resident == ("f#1", "f#2")
    blocks.change("file", 0, 9, cached=True)
    assert blocks.resident == ("f#1", "f#2", "f#0")
    blocks.gone("file")
    assert (blocks.resident, blocks.pages) == ((), 0)


def test_a_file_that_is_renamed_is_another_block() -> None:
    blocks = Blocks()
    blocks.met("file", Place("old"), 2)
    blocks.change("file", 0, 2, cached=True)
    blocks.met("parts", Place("f", 1), 2)
    blocks.change("parts", 1, 1, cached=True)
    blocks.changes()
    blocks.met("file", Place("new"), 2)
    blocks.met("parts", Place("g", 1), 2)
    assert blocks.changes() == (("new", "g#1"), ("old", "f#1"))


def test_what_is_held_takes_the_place_of_what_was_told() -> None:
    blocks = Blocks()
    blocks.hold("file", Place("f", 10), 20, [range(10), range(12, 20)])
    assert blocks.resident == ("f#0",)
    blocks.hold("file", Place("f", 10), 20, [range(10, 20)])
    assert blocks.resident == ("f#1",)
    blocks.hold("file", Place("f", 10), 20, [])
    assert (blocks.resident, blocks.knows("file")) == ((), False)


def test_nothing_is_known_after_a_clear() -> None:
    blocks = Blocks()
    blocks.hold("file", Place("b"), 2, [range(2)])
    blocks.changes()
    blocks.clear()
    assert blocks.changes() == ((), ("b",))


@pytest.mark.parametrize(("gain", "lose"), [(0.5, 0.6), (1.1, 0.5), (0.5, 0.0)])
def test_shares_that_are_none(gain: float, lose: float) -> None:
    with pytest.raises(ValueError, match=str(gain)):
        Blocks(gain, lose)


@given(
    part=st.sampled_from((0, 3, 5)),
    pages=st.integers(1, 17),
    steps=st.lists(st.tuples(st.integers(0, 16), st.integers(1, 8), st.booleans()), max_size=30),
)
def test_against_sets_of_pages(part: int, pages: int, steps: list[tuple[int, int, bool]]) -> None:
    """What a state-based task tells: each page that was not cached, or was."""
    blocks, cached, resident = Blocks(), set[int](), dict[str, None]()
    place = Place("f", part)
    for index, count, comes in steps:
        for page in range(index, min(index + count, pages)):
            if (page in cached) == comes:
                continue
            blocks.met("file", place, pages)
            blocks.change("file", page, 1, cached=comes)
            cached ^= {page}
            number = page // part if part else 0
            of = set(range(pages)[number * part : (number + 1) * part if part else None])
            share = len(of & cached) / len(of)
            if share >= 0.9:
                resident.setdefault(place.block(number))
            elif share < 0.7:
                resident.pop(place.block(number), None)
    assert blocks.resident == tuple(resident)
    assert blocks.pages == len(cached)
