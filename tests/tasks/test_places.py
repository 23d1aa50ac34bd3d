# SPDX-License-Identifier: MIT
"""The places that the tests run in are what they are taken for."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from command import run_duet
from ordinary import as_user
from places import USER, Mounted


def test_a_scrub(tree: Path, tmp_path: Path) -> None:
    (tree / "file").write_bytes(b"data")
    first = run_duet("run", "scrub", tree, "--state", tmp_path / "ledger")
    assert first.status == 0, first.words
    again = run_duet("run", "scrub", tree, "--state", tmp_path / "ledger", "--json")
    assert again.status == 0, again.words
    assert again.objects[-1]["files_done"] == 1


@pytest.mark.root
def test_a_file_system_of_its_own(mounted: Mounted) -> None:
    assert mounted.path.is_mount()
    assert not list(mounted.path.iterdir())


@pytest.mark.user
def test_an_ordinary_user(tmp_path: Path) -> None:
    assert os.geteuid()
    assert not os.access("/etc/shadow", os.R_OK)


@pytest.mark.root
def test_another_user(tmp_path: Path) -> None:
    assert as_user(USER, os.geteuid) == USER


@pytest.mark.root
def test_two_file_systems_with_equal_inode_numbers(new_mount: Callable[..., Mounted]) -> None:
    one, other = new_mount("ext4"), new_mount("ext4")
    for mounted in (one, other):
        (mounted.path / "file").touch()
    assert (one.path / "file").stat().st_ino == (other.path / "file").stat().st_ino
    assert (one.path / "file").stat().st_dev != (other.path / "file").stat().st_dev


def test_nobody_else_sees_the_mounts(mounted: Mounted) -> None:
    assert str(mounted.path) not in Path("/proc/1/mounts").read_text()
