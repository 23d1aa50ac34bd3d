# SPDX-License-Identifier: MIT
"""A scrub's checksum, and what follows from it."""

import os

import pytest
import xxhash

from pyduet.maintenance.frame.ledger import Record
from pyduet.maintenance.tasks.scrub import Checksum, Note, Verdict, judge
from pyduet.maintenance.work import Stamp

BLOCK = 64 << 10
STAMP = Stamp(1, 100, 1000, 2000)


def checksum(size: int, *pieces: tuple[int, bytes]) -> str:
    made = Checksum()
    for offset, data in pieces:
        made.add(offset, data)
    return made.end(size)


def test_the_checksum_is_what_it_is_said_to_be() -> None:
    """Who changes it has to give it another number, or all files of all ledgers are different."""
    block, end = os.urandom(BLOCK), os.urandom(100)
    size = 3 * BLOCK + 100
    by_hand = xxhash.xxh3_128()
    for part in (BLOCK.to_bytes(8, "little"), block, (3 * BLOCK).to_bytes(8, "little"), end):
        by_hand.update(part)
    by_hand.update(size.to_bytes(8, "little"))
    assert checksum(size, (BLOCK, block), (3 * BLOCK, end)) == by_hand.hexdigest()
    assert checksum(0) == xxhash.xxh3_128_hexdigest(bytes(8))


def test_it_does_not_depend_on_holes_and_pieces() -> None:
    block, end = os.urandom(BLOCK), os.urandom(10) + bytes(10)
    zeros = bytes(BLOCK)
    size = 3 * BLOCK + 20
    first = checksum(size, (0, block), (3 * BLOCK, end))
    whole = block + zeros + zeros + end
    assert checksum(size, (0, whole)) == first
    for step in (1000, BLOCK + 1, 2 * BLOCK):
        pieces = [(at, whole[at : at + step]) for at in range(0, size, step)]
        assert checksum(size, *pieces) == first
    assert checksum(size, (0, block), (2 * BLOCK, zeros), (3 * BLOCK, end)) == first


def test_it_tells_apart_what_is_not_the_same() -> None:
    block = os.urandom(BLOCK)
    other = bytes([block[0] ^ 1]) + block[1:]
    assert len({
        checksum(0), checksum(1), checksum(BLOCK), checksum(2 * BLOCK),
        checksum(2 * BLOCK, (0, block)), checksum(2 * BLOCK, (BLOCK, block)),
        checksum(2 * BLOCK, (0, other)), checksum(2 * BLOCK, (0, block), (BLOCK, block)),
        checksum(2 * BLOCK + 1, (0, block)), checksum(2 * BLOCK + 1, (2 * BLOCK, b"x")),
    }) == 10  # fmt: skip


@pytest.mark.parametrize(
    ("change", "found", "expected"),
    [
        ({}, "one", Verdict.ON_DISK),
        ({}, "other", Verdict.DIFFERENT),
        ({"ctime_ns": 1}, "one", Verdict.ON_DISK),
        ({"ctime_ns": 1}, "other", Verdict.DIFFERENT),
        ({"mtime_ns": 1}, "other", Verdict.CHANGED),
        ({"mtime_ns": 1}, "one", Verdict.CHANGED),
        ({"size": 1}, "other", Verdict.CHANGED),
    ],
)
def test_what_follows(change: dict[str, int], found: str, expected: Verdict) -> None:
    note = Note("one", 0, Verdict.NEW).kept()
    before = Record("path", STAMP, 1, True, 1, note)
    now = STAMP._replace(**change)
    assert judge(before, now, found, 0) is expected
    assert judge(None, now, found, 0) is Verdict.NEW
    of_another_kind = before._replace(note=["another kind", "one"])
    assert judge(of_another_kind, now, found, 0) is Verdict.NEW


def test_what_was_being_written_proves_nothing() -> None:
    note = Note("one", 0, Verdict.NEW).kept()
    before = Record("path", STAMP, 1, False, 1, note)
    assert judge(before, STAMP, "other", 0) is Verdict.UNSETTLED
    assert judge(before, STAMP, "one", 1) is Verdict.IN_MEMORY
