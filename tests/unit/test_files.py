# SPDX-License-Identifier: MIT
"""Inode number and generation of a path. That they are the driver's is tested in the lab."""

import os
from pathlib import Path

import pytest

from pyduet import (
    NotDirectoryError,
    PathNotFoundError,
    UnsupportedFilesystemError,
    identity_of,
)


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
