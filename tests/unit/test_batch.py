# SPDX-License-Identifier: GPL-2.0-only
"""Batches against a driver of our own making that does only a part at a time."""

import ctypes
import errno
import itertools

import pytest

from pyduet import DuetError, FileId, abi, batch

FILES = [FileId(ino, 7, 3) for ino in range(1, 2501)]


def at(address: int, kind: type[ctypes.Structure], count: int) -> "ctypes.Array[ctypes.Structure]":
    return (kind * count).from_address(address)


class Driver:
    """Marks odd inodes as done, knows no path of every tenth, and takes a few files a call."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.calls = 0
        self.room = abi.PATH_LEN

    def call(self, _fd: int, number: int, request: abi.Marks | abi.Paths, *_words: object) -> int:
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
def test_every_file_gets_its_own_answer(
    monkeypatch: pytest.MonkeyPatch, step: int, count: int
) -> None:
    driver = Driver(step)
    monkeypatch.setattr(batch, "call", driver.call)
    files = FILES[:count]
    assert list(batch.marks(lambda: -1, abi.Bmap.CHECK, files)) == [
        (file, file.ino % 2) for file in files
    ]
    assert list(batch.paths(lambda: -1, files)) == [
        (file, f"/srv/{file.ino}é" if file.ino % 10 else -errno.ENOENT) for file in files
    ]


def test_many_files_take_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(10000)
    monkeypatch.setattr(batch, "call", driver.call)
    assert len(list(batch.marks(lambda: -1, abi.Bmap.SET, iter(FILES)))) == len(FILES)
    assert driver.calls == 3


def test_a_driver_that_does_nothing_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "call", Driver(0).call)
    for ask in (batch.marks(lambda: -1, abi.Bmap.SET, FILES), batch.paths(lambda: -1, FILES)):
        with pytest.raises(DuetError, match="1024 files"):
            next(ask)


def test_the_descriptor_is_asked_for_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is closed meanwhile is an error, not somebody else's descriptor."""
    monkeypatch.setattr(batch, "call", Driver(10000).call)
    numbers = itertools.count()
    list(batch.marks(lambda: next(numbers), abi.Bmap.SET, FILES))
    assert next(numbers) == 3
