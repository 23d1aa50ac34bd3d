# SPDX-License-Identifier: MIT
"""A batch says the same whichever way it is looked at."""

import subprocess
import sys

import numpy as np
import pytest

from pyduet import Batch, FileId, Item, State
from pyduet._driver import abi


def packed(*rows: tuple[int, int, int, int, int, int]) -> bytes:
    return b"".join(abi.ITEM.pack(*row) for row in rows)


ROWS = [
    (7, 0xFFFFFFFF, 3, 0, State.ADDED, 0),
    (7, 0xFFFFFFFF, 3, 1, State.ADDED, 0),
    ((1 << 64) - 1, 1, 255, (1 << 64) - 9, State.DIRTY | State.REMOVED, 8),
    (9, 1, 255, 0, State.OVERFLOW, 0),
]
BATCH = Batch(packed(*ROWS))


def test_objects_are_merged() -> None:
    assert list(BATCH) == [
        Item(FileId(7, 0xFFFFFFFF), 0, 2, State.ADDED),
        Item(FileId((1 << 64) - 1, 1), (1 << 64) - 9, 8, State.DIRTY | State.REMOVED),
        Item(FileId(9, 1), 0, 0, State.OVERFLOW),
    ]


def test_rows_are_the_drivers() -> None:
    assert list(BATCH.rows()) == ROWS
    assert len(BATCH) == 4
    assert bytes(BATCH.data) == packed(*ROWS)
    assert BATCH.data.readonly


def test_the_array_has_the_same_fields() -> None:
    array = BATCH.array()
    assert [tuple(row) for row in array.tolist()] == [
        (*row[:5], row[5] or (0 if row[4] == State.OVERFLOW else 1)) for row in ROWS
    ]
    assert array.dtype.itemsize == abi.ITEM.size
    array["pages"] = 5  # its own memory
    assert list(BATCH.rows()) == ROWS


def test_nothing() -> None:
    assert not Batch()
    assert len(Batch()) == len(Batch().array()) == 0
    assert list(Batch()) == list(Batch().rows()) == []


def test_a_part_of_an_item_is_refused() -> None:
    with pytest.raises(ValueError, match="33 bytes are no whole number"):
        Batch(bytes(33))


def test_without_numpy_the_error_names_it() -> None:
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        "import pyduet\n"
        "try: pyduet.Batch().array()\n"
        "except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "Batch.array() needs NumPy: pip install numpy\n"


def test_the_sums_of_a_large_one() -> None:
    rows = [(ino, 1, 1, index, State.ADDED, 0) for ino in range(100) for index in range(64)]
    batch = Batch(packed(*rows))
    assert int(batch.array()["pages"].sum()) == 6400
    assert sum(item.pages for item in batch) == 6400
    assert np.unique(batch.array()["ino"]).size == len(list(batch)) == 100
