# SPDX-License-Identifier: MIT
"""What is asked of a file itself. That identities are the driver's is tested in the lab."""

import itertools
import mmap
import os
import random
from pathlib import Path

import pytest

from pyduet import (
    NotDirectoryError,
    PathNotFoundError,
    UnsupportedFilesystemError,
    cached_pages,
    cached_ranges,
    files,
    identity_of,
    page_counts,
)

PAGE = mmap.PAGESIZE


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PathNotFoundError, match="check the path"):
        identity_of(tmp_path / "none")
    with pytest.raises(NotDirectoryError, match="check the path"):
        identity_of(tmp_path / "file/below")


def test_only_regular_files_and_nothing_else_is_opened(tmp_path: Path) -> None:
    """To open a pipe without a writer would wait for one."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(ValueError, match=f"{path} is not a regular file"):
            identity_of(path)


def test_a_file_system_without_generations() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(UnsupportedFilesystemError, match=r"/proc/self/status.*no generation"):
        identity_of("/proc/self/status")
    assert os.listdir("/proc/self/fd") == before


# What is cached


def cold_file(path: Path, size: int) -> Path:
    """A file of which nothing is cached; skips where that cannot be had."""
    path.write_bytes(os.urandom(size))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if cached_pages(path):
        pytest.skip("this file system keeps its pages")
    return path


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert cached_pages(tmp_path / "empty") == set()


def test_what_was_written_is_cached_with_the_last_part_of_a_page(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (2 * PAGE + 1))
    assert cached_pages(tmp_path / "file") == {0, 1, 2}


def test_asking_reads_nothing_in_and_one_page_is_found(tmp_path: Path) -> None:
    path = cold_file(tmp_path / "file", 64 * PAGE)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 1, 40 * PAGE)
    assert cached_pages(path) == {40}
    assert cached_pages(path) == {40}


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cached_pages(tmp_path / "none")


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    before = os.listdir("/proc/self/fd")
    cached_pages(tmp_path / "file")
    assert os.listdir("/proc/self/fd") == before


# Sparse files: what is cached can lie anywhere


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """The bytes that mincore is asked of; more than 64 MiB is no look any more, but a walk."""
    parts: list[range] = []
    ask = files._vector

    def noting(fd: int, offset: int, length: int) -> bytes:
        parts.append(range(offset, offset + length))
        assert sum(map(len, parts)) <= 64 << 20
        return ask(fd, offset, length)

    monkeypatch.setattr(files, "_vector", noting)
    return parts


def as_long_as_can_be(path: Path) -> int:
    """Make a file without data, of the largest size that its file system knows; return that."""
    path.touch()
    for bits in range(63, 30, -1):
        try:
            os.truncate(path, (1 << bits) - PAGE)
        except OSError:
            continue
        return path.stat().st_size
    raise AssertionError("no sparse file can be made")


def needs_cachestat(path: Path) -> None:
    with path.open("rb") as file:
        if page_counts(file.fileno()) is None:
            pytest.skip("the kernel has no cachestat(2)")


def test_a_hole_costs_nothing(tmp_path: Path, looked_at: list[range]) -> None:
    size = as_long_as_can_be(tmp_path / "sparse")
    needs_cachestat(tmp_path / "sparse")
    assert size >= 1 << 40
    assert cached_pages(tmp_path / "sparse") == set()
    assert looked_at == []


def test_what_is_cached_is_found_wherever_it_is(tmp_path: Path, looked_at: list[range]) -> None:
    """Of data and of holes: to read a hole makes pages, too."""
    path = tmp_path / "sparse"
    size = as_long_as_can_be(path)
    needs_cachestat(path)
    last = size // PAGE - 1
    with path.open("r+b", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pwrite(file.fileno(), b"x", 12345 * PAGE)
        os.pread(file.fileno(), 1, last // 3 * PAGE)
        os.pread(file.fileno(), 1, last * PAGE)
        found = cached_pages(path)
        assert 12345 in found
        for page in (last // 3, last):  # on a tmpfs, a hole that was read is none of its pages
            assert (page_counts(file.fileno(), page * PAGE, PAGE) == (1, 0, 0)) == (page in found)
        counts = page_counts(file.fileno())
        assert counts is not None
        assert len(found) == counts.cached


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_the_whole_look_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, told: bool
) -> None:
    """With cachestat and without, of pages here and there and of long runs."""
    dice = random.Random(seed)
    path = tmp_path / "file"
    pages = dice.randrange(1, 3 << 18)
    path.touch()
    with path.open("r+b", buffering=0) as file:
        os.truncate(path, pages * PAGE - dice.randrange(PAGE))
        for _ in range(dice.randrange(12)):
            os.pwrite(file.fileno(), b"x" * dice.choice((1, 5 << 20)), dice.randrange(pages) * PAGE)
        size = path.stat().st_size
        whole = [
            offset // PAGE + page
            for offset in range(0, size, 1 << 30)
            for page, bits in enumerate(
                files._vector(file.fileno(), offset, min(1 << 30, size - offset))
            )
            if bits & 1
        ]
        if not told:
            monkeypatch.setattr(files, "page_counts", lambda *_: None)
        found = cached_ranges(file.fileno())
        assert [page for one in found for page in one] == whole
        assert all(one and one.stop < two.start for one, two in itertools.pairwise(found))


def test_where_nothing_tells_a_long_file_is_looked_at_where_it_has_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: list[range]
) -> None:
    path = tmp_path / "sparse"
    as_long_as_can_be(path)
    far = (1 << 40) // PAGE + 7
    with path.open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x" * 3 * PAGE, far * PAGE + 100)
    monkeypatch.setattr(files, "page_counts", lambda *_: None)
    assert cached_pages(path) == {far, far + 1, far + 2, far + 3}
    assert looked_at


def test_how_many_pages_are_cached(tmp_path: Path) -> None:
    path = cold_file(tmp_path / "file", 5 * PAGE)
    needs_cachestat(path)
    with path.open("r+b", buffering=0) as file:
        assert page_counts(file.fileno()) == (0, 0, 0)
        file.read()
        assert page_counts(file.fileno()) == (5, 0, 0)
        assert page_counts(file.fileno(), PAGE, 2 * PAGE) == (2, 0, 0)
        os.pwrite(file.fileno(), b"x", 3 * PAGE)
        counts = page_counts(file.fileno(), 3 * PAGE, PAGE)
        assert counts is not None
        assert counts.cached == counts.dirty + counts.writing == 1
    assert page_counts(-1) is None
