# SPDX-License-Identifier: MIT
"""Which bytes a subvolume's file has from its snapshot, without a file system."""

import pytest

from pyduet.maintenance.files.extents import Extent, Flag, shared
from pyduet.maintenance.tasks.send import _joined, _split

K = 1 << 10
NONE = Flag(0)


def mapping(*some: tuple[int, int, int] | tuple[int, int, int, Flag]) -> list[Extent]:
    """Extents by first byte, place and length, in KiB, and flags."""
    return [
        Extent(one[0] * K, one[1] * K, one[2] * K, one[3] if len(one) == 4 else NONE)
        for one in some
    ]


def common(one: list[Extent], other: list[Extent], *, encoded: bool = False) -> list[range]:
    return [range(span.start // K, span.stop // K) for span in shared(one, other, encoded=encoded)]


def test_a_place_counts_and_not_how_it_is_told() -> None:
    """One extent may be told as two, and its last one is flagged."""
    whole = mapping((0, 100, 64, Flag.LAST))
    assert common(whole, mapping((0, 100, 16), (16, 116, 48))) == [range(16), range(16, 64)]
    assert common(whole, mapping((0, 100, 16), (16, 500, 8), (24, 124, 40))) == [
        range(16), range(24, 64),
    ]  # fmt: skip
    assert common(mapping((8, 100, 8)), mapping((0, 100, 8))) == []
    assert common(mapping((8, 108, 8), (32, 132, 8)), whole) == [range(8, 16), range(32, 40)]
    assert common([], whole) == []


@pytest.mark.parametrize("flag", [Flag.INLINE, Flag.DELALLOC, Flag.UNKNOWN])
def test_what_has_no_place_is_not_shared(flag: Flag) -> None:
    one = mapping((0, 0, 4, flag))
    assert common(one, one, encoded=True) == []


def test_zeros_that_were_written_to_are_others() -> None:
    one = mapping((0, 100, 4, Flag.UNWRITTEN))
    assert common(one, one) == [range(4)]
    assert common(one, mapping((0, 100, 4))) == []


def test_compressed_extents_want_more_than_a_place() -> None:
    one = mapping((0, 100, 128, Flag.ENCODED), (128, 140, 128, Flag.ENCODED))
    assert common(one, one) == []
    assert common(one, one, encoded=True) == [range(128), range(128, 256)]
    assert common(one, mapping((0, 100, 64, Flag.ENCODED)), encoded=True) == []
    assert common(one, mapping((0, 100, 128)), encoded=True) == []


def test_what_is_wanted_is_split_by_what_is_shared() -> None:
    wanted = [range(10), range(20, 60)]
    assert list(_split(wanted, [])) == [(span, False) for span in wanted]
    assert list(_split(wanted, [range(100)])) == [(span, True) for span in wanted]
    assert list(_split(wanted, [range(5, 25), range(30, 31), range(31, 40), range(70, 80)])) == [
        (range(5), False), (range(5, 10), True),
        (range(20, 25), True), (range(25, 30), False), (range(30, 31), True),
        (range(31, 40), True), (range(40, 60), False),
    ]  # fmt: skip


def test_what_is_wanted_twice_is_written_once() -> None:
    wanted = [range(40, 50), range(10), range(10, 20), range(15, 18), range(60, 99)]
    assert list(_joined(wanted, 70)) == [range(20), range(40, 50), range(60, 70)]
    assert list(_joined(wanted, 5)) == [range(5)]
    assert list(_joined([range(4)], 0)) == []
    assert list(_joined([range(8, 12)], 4)) == []
