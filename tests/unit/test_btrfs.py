# SPDX-License-Identifier: MIT
"""What of btrfs needs no btrfs: where data lie, and the bits that pages are."""

import pytest

from pyduet.maintenance.btrfs.pages_read import bits, runs
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


@pytest.mark.parametrize(
    "ranges", [[], [range(1)], [range(3, 9)], [range(2), range(5, 6), range(70, 200)]]
)
def test_pages_as_bits(ranges: list[range]) -> None:
    assert list(runs(bits(ranges))) == ranges
    assert bits(ranges) == sum(1 << page for pages in ranges for page in pages)
