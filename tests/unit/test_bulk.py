# SPDX-License-Identifier: MIT
"""Batches against a driver of our own making that does only a part at a time."""

import ctypes
import errno

import pytest

from pyduet import DuetError, FileId
from pyduet._driver import abi, bulk
from pyduet._driver.descriptor import Descriptor

FILES = [FileId(ino, 7) for ino in range(1, 2501)]


def at(address: int, kind: type[ctypes.Structure], count: int) -> "ctypes.Array[ctypes.Structure]":
    return (kind * count).from_address(address)


class Driver(Descriptor):
    """Marks odd inodes as done, knows no path of every tenth, and takes a few files a call."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.calls = 0
        self.room = abi.PATH_LEN

    def ioctl(self, number: int, request: ctypes.Structure, *_words: object) -> int:
        assert isinstance(request, abi.Marks | abi.Paths)
        self.calls += 1
        request.nr = min(request.nr, self.step)
        refs = at(request.files, abi.FileRef, request.nr)
        if number == abi.IOC_MARKS:
            for ref in refs:
                ref.result = ref.ino % 2
            return 0
        assert isinstance(request, abi.Paths)
        assert request.len >= self.room
        used = b""
        for ref in refs:
            if ref.ino % 10:
                ref.result = len(used)
                used += f"/srv/{ref.ino}é\0".encode()
            else:
                ref.result = -errno.ENOENT
        ctypes.memmove(request.buf, used, len(used))
        request.len = len(used)
        return 0


@pytest.mark.parametrize("step", [1, 3, 1000, 1024, 10000])
@pytest.mark.parametrize("count", [0, 1, 1023, 1024, 1025, 2500])
def test_every_file_gets_its_own_answer(step: int, count: int) -> None:
    driver = Driver(step)
    files = FILES[:count]
    assert list(bulk.marks(driver, abi.Bmap.CHECK, files)) == [
        (file, file.ino % 2) for file in files
    ]
    assert list(bulk.paths(driver, files)) == [
        (file, f"/srv/{file.ino}é" if file.ino % 10 else -errno.ENOENT) for file in files
    ]


def test_many_files_take_few_calls() -> None:
    driver = Driver(10000)
    assert len(list(bulk.marks(driver, abi.Bmap.SET, iter(FILES)))) == len(FILES)
    assert driver.calls == 3


def test_a_driver_that_does_nothing_is_not_asked_for_ever() -> None:
    driver = Driver(0)
    for ask in (bulk.marks(driver, abi.Bmap.SET, FILES), bulk.paths(driver, FILES)):
        with pytest.raises(DuetError, match="1024 files"):
            next(ask)
