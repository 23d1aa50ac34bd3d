# SPDX-License-Identifier: MIT
"""Decoding and merging."""

import itertools
import random

import pytest

from pyduet import FileId, Item, Mask, State
from pyduet._driver import abi
from pyduet.events import decode

ONE = FileId(11, 1)
OTHERS = [FileId(12, 1), FileId(11, 2)]
#: As duet_check_mask() of driver/task.c has it.
EXCLUDED = {
    Mask.EXISTS: Mask.ADDED | Mask.REMOVED,
    Mask.MODIFIED: Mask.DIRTY | Mask.FLUSHED,
}
Raw = tuple[FileId, int, State]


def encoded(raw: list[Raw], nr: int = 0) -> bytes:
    return b"".join(abi.ITEM.pack(*file, 1, index, state, nr) for file, index, state in raw)


def expanded(items: list[Item]) -> list[Raw]:
    return [(item.file, page, item.state) for item in items for page in range(item.index, item.end)]


def test_nothing_is_no_item() -> None:
    assert list(decode(b"")) == []


def test_consecutive_pages_are_one_item() -> None:
    raw = [(ONE, index, State.ADDED) for index in range(5, 9)]
    assert list(decode(encoded(raw))) == [Item(ONE, 5, 4, State.ADDED)]


@pytest.mark.parametrize("other", OTHERS)
def test_another_file_is_another_item(other: FileId) -> None:
    raw = [(ONE, 5, State.ADDED), (other, 6, State.ADDED)]
    assert len(list(decode(encoded(raw)))) == 2


@pytest.mark.parametrize(
    "second",
    [
        (ONE, 6, State.REMOVED),  # says something else
        (ONE, 7, State.ADDED),  # a gap
        (ONE, 5, State.ADDED),  # the same page again
        (ONE, 4, State.ADDED),  # backwards
    ],
)
def test_what_does_not_follow_is_another_item(second: Raw) -> None:
    raw = [(ONE, 5, State.ADDED), second]
    assert expanded(list(decode(encoded(raw)))) == raw
    assert len(list(decode(encoded(raw)))) == 2


def test_page_0_of_inode_0_is_an_item() -> None:
    file = FileId(0, 0)
    assert list(decode(encoded([(file, 0, State(0))]))) == [Item(file, 0, 1, State(0))]


def test_the_largest_numbers() -> None:
    file = FileId(2**64 - 1, 2**32 - 1)
    raw = [(file, 2**64 - 1, State.FLUSHED)]
    assert list(decode(encoded(raw))) == [Item(file, 2**64 - 1, 1, State.FLUSHED)]


@pytest.mark.parametrize("seed", range(50))
def test_merging_loses_nothing_and_is_complete(seed: int) -> None:
    dice = random.Random(seed)
    raw: list[Raw] = []
    for _ in range(dice.randrange(60)):
        file = dice.choice([ONE, *OTHERS])
        first = dice.randrange(12)
        state = State(dice.randrange(16))
        raw += [(file, first + page, state) for page in range(dice.randrange(1, 6))]
    items = list(decode(encoded(raw)))
    assert expanded(items) == raw
    for before, after in itertools.pairwise(items):
        follows = (before.file, before.end, before.state) == (after.file, after.index, after.state)
        assert not follows, "two neighbours could have been one"


def test_a_part_of_an_item_is_refused() -> None:
    with pytest.raises(ValueError, match="no whole number"):
        list(decode(encoded([(ONE, 1, State.ADDED)])[:-1]))


def test_an_unknown_state_is_refused() -> None:
    data = abi.ITEM.pack(11, 1, 1, 0, 0x10, 0)
    with pytest.raises(ValueError, match="unknown state 0x10 of page 0 of inode 11"):
        list(decode(data))


def test_a_run_is_as_long_as_it_says() -> None:
    [item] = decode(encoded([(ONE, 5, State.ADDED)], nr=7))
    assert (item.index, item.nr, item.pages, item.end) == (5, 7, 7, 12)


def test_one_page_is_one_page_with_and_without_ranges() -> None:
    for nr in (0, 1):
        assert list(decode(encoded([(ONE, 5, State.DIRTY)], nr))) == [Item(ONE, 5, 1, State.DIRTY)]


def test_runs_that_follow_each_other_are_one_item() -> None:
    raw = [(ONE, 0, State.ADDED), (ONE, 64, State.ADDED)]
    assert list(decode(encoded(raw, nr=64))) == [Item(ONE, 0, 128, State.ADDED)]
    raw = [(ONE, 0, State.ADDED), (ONE, 65, State.ADDED)]
    assert [item.pages for item in decode(encoded(raw, nr=64))] == [64, 64]


def test_an_overflow_is_of_no_page_and_stays_where_it_was() -> None:
    unknown = FileId(0, 0)
    raw = [
        (ONE, 0, State.ADDED),
        (ONE, 0, State.OVERFLOW),
        (ONE, 0, State.OVERFLOW),
        (ONE, 1, State.ADDED),
        (unknown, 0, State.OVERFLOW),
    ]
    assert list(decode(encoded(raw))) == [
        Item(file, index, 0 if state is State.OVERFLOW else 1, state) for file, index, state in raw
    ]
    assert State.OVERFLOW.names == ["overflow"]


def test_an_overflow_is_alone_in_its_state() -> None:
    data = abi.ITEM.pack(11, 1, 1, 0, 0x8001, 0)
    with pytest.raises(ValueError, match="unknown state 0x8001"):
        list(decode(data))


def test_items_are_frozen() -> None:
    item = Item(ONE, 0, 1, State.ADDED)
    with pytest.raises(AttributeError):
        item.pages = 2  # type: ignore[misc]


def test_names_of_a_state() -> None:
    assert (State.ADDED | State.DIRTY).names == ["added", "dirty"]
    assert State(0).names == []


@pytest.mark.parametrize(
    ("mask", "snapshot", "words"),
    [
        (0, False, "an empty mask asks for nothing; choose of added, removed, "),
        (0x4000 | Mask.ADDED, False, "bits that mean nothing, 0x4000"),
        (Mask.EXISTS | Mask.ADDED, False, "exists excludes added and removed; leave out"),
        (Mask.EXISTS | Mask.REMOVED | Mask.DIRTY, False, "exists excludes added and removed"),
        (Mask.MODIFIED | Mask.FLUSHED, False, "modified excludes dirty and flushed"),
        (Mask.EXISTS | Mask.DIRTY, True, "a snapshot tells no dirty; choose of modified and exi"),
    ],
)
def test_a_mask_that_the_driver_refuses(mask: int, snapshot: bool, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Mask(mask).check(snapshot=snapshot)


@pytest.mark.parametrize("number", range(1, 64))
def test_a_mask_is_taken_when_no_bit_excludes_another(number: int) -> None:
    mask = Mask(sum(bit for at, bit in enumerate(Mask) if number >> at & 1))
    if any(one in mask and other & mask for one, other in EXCLUDED.items()):
        with pytest.raises(ValueError, match="excludes"):
            mask.check()
        assert mask & mask.excluded
    else:
        mask.check()
        assert not mask & mask.excluded
