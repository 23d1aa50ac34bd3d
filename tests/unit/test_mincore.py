# SPDX-License-Identifier: MIT
"""The snapshot of the page cache, on a file system of the host."""

import mmap
import os
from pathlib import Path

import pytest

from pyduet import cached_pages

PAGE = mmap.PAGESIZE


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


def test_pages_behind_the_first_window(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        os.pwrite(file.fileno(), b"x", (1 << 30) + 5 * PAGE)
    first = (1 << 30) // PAGE
    assert first + 5 in cached_pages(path)
    assert min(cached_pages(path)) >= first


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cached_pages(tmp_path / "none")


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    before = os.listdir("/proc/self/fd")
    cached_pages(tmp_path / "file")
    assert os.listdir("/proc/self/fd") == before
