# SPDX-License-Identifier: MIT
"""The arithmetic of ranges, against sets of single numbers."""

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from pyduet.maintenance.files.ranges import RangeSet, common, within, without

RANGE = st.builds(
    lambda start, length: range(start, start + length), st.integers(0, 60), st.integers(1, 9)
)


def all_of(ranges: Iterable[range]) -> set[int]:
    """Return the single numbers; asserts that no two ranges overlap, and all are in order."""
    found = list(ranges)
    assert all(found)
    assert all(one.stop <= other.start for one, other in itertools.pairwise(found))
    return {number for one in found for number in one}


def ranges_of(numbers: Iterable[int]) -> list[range]:
    """Return ranges that touch each other now and then, as those of extents do."""
    found: list[range] = []
    for number in sorted(numbers):
        if found and found[-1].stop == number and number % 7:
            found[-1] = range(found[-1].start, number + 1)
        else:
            found.append(range(number, number + 1))
    return found


LISTS = st.sets(st.integers(0, 60)).map(ranges_of)


@given(LISTS, LISTS, RANGE)
def test_lists_of_ranges(some: list[range], others: list[range], window: range) -> None:
    assert all_of(without(some, others)) == all_of(some) - all_of(others)
    assert all_of(common(some, others)) == all_of(some) & all_of(others)
    assert all_of(within(some, window)) == all_of(some) & set(window)


@given(st.lists(st.tuples(st.booleans(), RANGE)))
def test_a_set_of_ranges(changes: list[tuple[bool, range]]) -> None:
    found, wanted = RangeSet(), set()
    for is_added, one in changes:
        if is_added:
            found.add(one)
            wanted.update(one)
        else:
            found.remove(one)
            wanted.difference_update(one)
        assert all_of(found) == wanted
        # Of ranges that touch each other one is made.
        assert len(found) == len([number for number in wanted if number - 1 not in wanted])
    found.clear()
    assert list(found) == []


def test_far_away_is_as_cheap_as_near() -> None:
    """At the last pages of the largest file, as near its beginning."""
    far = (1 << 51) - 100
    pages = RangeSet()
    for number in range(0, 50, 2):
        pages.add(range(far + number, far + number + 1))
    assert len(list(pages)) == 25
    assert list(within(list(pages), range(far, far + 3))) == [
        range(far, far + 1),
        range(far + 2, far + 3),
    ]
