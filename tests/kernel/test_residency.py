# SPDX-License-Identifier: MIT
"""pyduet.residency against mincore of each file: what is cached now, and nothing else."""

import os
from pathlib import Path

import pytest
from conftest import STATES, eventually
from ordinary import ANNA, as_user, device_for_group
from truth import PAGE, drop_caches, fill, identity, mincore

from pyduet import Device, IncompleteError, OffError, PathNotFoundError, Residency, residency


def pages_of(found: Residency) -> set[int]:
    return {page for one in found.ranges for page in range(one.index, one.index + one.pages)}


def by_path(path: Path) -> dict[str | None, Residency]:
    found = list(residency(path))
    answer = {one.path: one for one in found}
    assert len(answer) == len(found), "a file came twice"
    return answer


def test_it_is_what_mincore_says(device: Device, place: Path) -> None:
    """Of every file below the directory, page for page; what is not cached is not told."""
    (place / "tree/deep/er").mkdir(parents=True)
    files = [
        fill(place / f"tree/{directory}/{number}", number + 1)
        for directory in (".", "deep", "deep/er")
        for number in range(40)
    ]
    outside = fill(place / "out/file", 4)
    drop_caches()
    for number, path in enumerate(files):
        if number % 3:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
                for page in range(0, number % 40 + 1, number % 3):
                    file.seek(page * PAGE)
                    file.read(1)
    outside.read_bytes()
    truth = {os.path.normpath(path): pages for path in files if (pages := mincore(path))}
    assert 0 < len(truth) < len(files)
    found = by_path(place / "tree")
    assert {path: pages_of(one) for path, one in found.items()} == truth
    for path, one in found.items():
        assert path
        assert (one.file.ino, one.file.generation) == identity(Path(path))
        assert (one.cached, one.dirty) == (len(truth[path]), 0)
        indexes = [part.index for part in one.ranges]
        assert indexes == sorted(indexes)


def test_dirty_pages_are_told_apart(device: Device, place: Path) -> None:
    """A range ends where dirtiness does."""
    path = fill(place / "tree/file", 6)
    with path.open("r+b") as file:
        file.seek(2 * PAGE)
        file.write(bytes(PAGE))
        file.flush()
        [one] = residency(place / "tree")
    dirty = {
        page
        for part in one.ranges
        if part.dirty
        for page in range(part.index, part.index + part.pages)
    }
    assert 2 in dirty
    assert one.dirty == len(dirty)
    assert pages_of(one) == set(range(6))


def test_one_file(device: Device, place: Path) -> None:
    """Asked of a file, it is told of that one."""
    path, _ = fill(place / "tree/file", 3), fill(place / "tree/other", 5)
    [one] = residency(path)
    assert (one.path, one.cached) == (str(path), 3)


def test_more_files_than_a_call_names(device: Device, place: Path) -> None:
    """Each of 3,000 comes with its own name."""
    for number in range(3000):
        (place / f"tree/{number}").write_bytes(b"x")
    os.sync()
    found = by_path(place / "tree")
    assert set(found) == {str(place / f"tree/{number}") for number in range(3000)}
    for path, one in list(found.items())[::500]:
        assert path
        assert (one.file.ino, one.file.generation) == identity(Path(path))


def test_a_file_without_a_name(device: Device, place: Path) -> None:
    """It is cached all the same, and has no path."""
    path = fill(place / "tree/file", 2)
    with path.open("rb") as file:
        path.unlink()
        [one] = residency(place / "tree")
        assert (one.path, one.cached) == (None, 2)
        assert one.file.ino == os.fstat(file.fileno()).st_ino


def test_its_task_goes_with_it(device: Device, place: Path) -> None:
    """Whether it was read to the end or not, and other tasks hear nothing of it."""
    for number in range(10):
        fill(place / f"tree/{number}", 1)
    with device.register(place / "tree", STATES) as task:
        task.read()
        list(residency(place / "tree"))
        some = residency(place / "tree")
        next(some)
        assert len(device.tasks()) == 2
        some.close()  # type: ignore[attr-defined]
        assert [one.id for one in device.tasks()] == [task.id]
        assert task.read() == []


def test_an_ordinary_user(device: Device, place: Path) -> None:
    """Is told of what he owns or may write, as by mincore(2)."""
    own, foreign = fill(place / "tree/own", 2), fill(place / "tree/foreign", 2)
    os.chown(own, ANNA, ANNA)
    for path in (place.parent, place, place / "tree"):
        path.chmod(0o755)
    with device_for_group():
        found = as_user(ANNA, lambda: list(residency(place / "tree")))
    assert [one.path for one in found] == [str(own)]
    assert {one.path for one in residency(place / "tree")} == {str(own), str(foreign)}


def test_errors(device: Device, place: Path) -> None:
    """They come when the first file is asked for, and leave no task."""
    fill(place / "tree/file", 1)
    with pytest.raises(PathNotFoundError):
        list(residency(place / "nowhere"))
    assert device.tasks() == []
    device.stop()
    with pytest.raises(OffError, match="duet start"):
        list(residency(place / "tree"))


def test_what_does_not_fit_is_no_silent_half(device: Device, place: Path) -> None:
    """A limit that cannot hold all of it is an error that names the remedy."""
    for number in range(2000):
        (place / f"tree/{number}").write_bytes(b"x")
    os.sync()
    before = device.info()
    try:
        device.set_limits(task_limit=4096)
        with pytest.raises(IncompleteError, match="duet set --limit") as caught:
            list(residency(place / "tree"))
        assert str(place / "tree") in str(caught.value)
    finally:
        device.set_limits(task_limit=before.task_limit)
    assert eventually(lambda: device.tasks() == [])
    assert len(list(residency(place / "tree"))) == 2000
