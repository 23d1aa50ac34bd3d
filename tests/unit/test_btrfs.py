# SPDX-License-Identifier: MIT
"""What of btrfs needs no btrfs: where data lie, and which pages count as verified."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyduet._driver import abi
from pyduet.maintenance.btrfs import pages_read
from pyduet.maintenance.btrfs.trees import Chunk, Place, Profile

STRIPE = 64 << 10


def chunk(profile: Profile, devices: int, sub_stripes: int = 1) -> Chunk:
    places = tuple(Place(number, number * 10**9) for number in range(1, devices + 1))
    return Chunk(1 << 30, 8 * STRIPE, STRIPE, Profile.DATA | profile, places, sub_stripes)


@pytest.mark.parametrize(
    ("one", "offset", "wanted", "follow"),
    [
        (chunk(Profile(0), 1), 5 * STRIPE + 7, [(1, 5 * STRIPE + 7)], 3 * STRIPE - 7),
        (chunk(Profile.RAID1, 2), STRIPE, [(1, STRIPE), (2, STRIPE)], 7 * STRIPE),
        (chunk(Profile.RAID1C3, 3), 9, [(1, 9), (2, 9), (3, 9)], 8 * STRIPE - 9),
        (chunk(Profile.RAID0, 3), 4 * STRIPE + 9, [(2, STRIPE + 9)], STRIPE - 9),
        (chunk(Profile.RAID10, 4, 2), 3 * STRIPE, [(3, STRIPE), (4, STRIPE)], STRIPE),
    ],
)
def test_where_a_byte_lies(
    one: Chunk, offset: int, wanted: list[tuple[int, int]], follow: int
) -> None:
    """Copies on each mirror, stripes in turn."""
    places, length = one.at((1 << 30) + offset)
    assert [(place.device, place.physical % 10**9) for place in places] == wanted
    assert length == follow
    assert one.copies == len(wanted)


def test_parity_is_refused() -> None:
    with pytest.raises(NotImplementedError):
        chunk(Profile.RAID5, 3).at(1 << 30)


ADDED, REMOVED = abi.Page.ADDED.value, abi.Page.REMOVED.value
DIRTY, FLUSHED = abi.Page.DIRTY.value, abi.Page.FLUSHED.value
RUNS = st.builds(
    lambda start, length: range(start, start + length), st.integers(0, 40), st.integers(1, 9)
)
STATES = st.sampled_from([ADDED, REMOVED, DIRTY, FLUSHED, ADDED | REMOVED, ADDED | DIRTY])


@given(st.lists(st.tuples(RUNS, STATES)))
def test_which_pages_are_believed(told: list[tuple[range, int]]) -> None:
    """Against sets of single pages."""
    pages = pages_read._Pages()
    came: set[int] = set()
    went: set[int] = set()
    for run, state in told:
        pages.take_in(run, state)
        if state & (DIRTY | FLUSHED):
            came.difference_update(run)
            continue
        if state & ADDED:
            came.update(run)
            went.difference_update(run)
        if state & REMOVED:
            went.update(run)
    assert {page for run in pages.came for page in run} == came
    assert {page for run in pages.went for page in run} == went
    pages.forget_gone()
    assert {page for run in pages.came for page in run} == came - went
    assert len(pages) == len(pages.came)
