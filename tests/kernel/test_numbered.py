# SPDX-License-Identifier: MIT
"""Tasks by their number, over the device: marks, paths and what is pending of anybody's task.

Truth: what the same task says over its own descriptor; stat(2) and
FS_IOC_GETVERSION for what a file is called.
"""

import errno
from pathlib import Path

import pytest
from conftest import EVENTS, STATES
from ordinary import ANNA, BERT, as_user, device_for_group, in_child, register_as, without_admin
from raw import errno_of
from truth import Watch, drop_caches, fill, identity

from pyduet import Device, FileId, Item, PathNotFoundError, TaskHandle, identity_of


@pytest.mark.parametrize("where", [lambda call: call(), in_child], ids=["own", "other's"])
def test_it_says_and_does_the_same(device: Device, place: Path, where: object) -> None:
    """Of a task of this process, and of another process's: what the task itself says."""
    assert callable(where)
    paths = [fill(place / f"tree/{i}", 1 + 40 * i, sync=False) for i in range(6)]
    outside = fill(place / "out/file", 1)
    one, two = (device.register(place / "tree", STATES) for _ in range(2))
    files = [identity(path) for path in paths]
    many = [FileId(2**40 + i, i % 3) for i in range(2000)]
    away = identity(outside)

    def ask() -> tuple[object, ...]:
        with Device() as own:
            task = own.task(one.id)
            assert isinstance(task, TaskHandle)
            pending = list(task.pending())
            task.mark_many(files[:2] + many)
            task.mark_done(files[2])
            task.unmark_many(files[1:2])
            done = task.are_done([*files, away, many[-1]])
            paths = task.paths_of([*files, away])
            try:
                missing = task.path_of(away)
            except PathNotFoundError as error:
                missing = str(error)
            return pending, done, paths, task.path_of(files[3]), missing, set(task.marked())

    before = list(one.pending())
    pending, done, paths_of, path_of, missing, marked = where(ask)
    assert page_set(pending) == page_set(before)
    assert len(page_set(before)) == sum(1 + 40 * i for i in range(6))
    assert done == [True, False, True, False, False, False, True, True]
    assert paths_of == dict(zip(files, map(str, paths), strict=True))
    assert path_of == str(paths[3])
    assert str(away) in missing
    assert marked == {files[0], files[2], *many} == set(one.marked())
    # The other task of the same directory was not meant.
    assert list(two.marked()) == []
    assert {item.file.ino for item in Watch(one).read()} == {
        file.ino for file in (files[1], *files[3:])
    }
    for task in (one, two):
        task.close()


def page_set(items: list[Item]) -> set[tuple[FileId, int]]:
    """Return the pages that items tell of."""
    return {(item.file, page) for item in items for page in range(item.index, item.end)}


def test_rescan_of_anothers_task(device: Device, place: Path) -> None:
    """The task's reader gets the news."""
    path = fill(place / "tree/file", 3)
    watch = Watch(device.register(place / "tree", EVENTS))
    assert len(watch.news(path)) == 3
    assert watch.read() == []
    in_child(device.task(watch.task.id).rescan)
    assert set(watch.news(path)) == {0, 1, 2}
    watch.task.close()


def test_a_number_that_is_nobodys(device: Device, place: Path) -> None:
    """Before there is such a task, and after it ended."""
    task = device.task(1)
    with device.register(place / "tree", STATES) as own:
        assert own.id == 1
        assert list(task.marked()) == []
    file = FileId(1, 1)
    for use in (
        lambda: list(task.marked()),
        lambda: list(task.pending()),
        lambda: task.mark_many([file]),
        lambda: task.unmark(file),
        lambda: task.is_done(file),
        lambda: task.path_of(file),
        lambda: task.paths_of([file]),
        task.rescan,
    ):
        assert errno_of(use) == errno.ESRCH


def test_others_tasks_take_cap_sys_admin(device: Device, place: Path) -> None:
    """One's own process's do not, except for what is pending; nothing comes of trying."""
    path = fill(place / "tree/file", 1)
    file = identity(path)
    calls = {
        "marked": lambda task: list(task.marked()),
        "pending": lambda task: list(task.pending()),
        "mark": lambda task: task.mark_many([file]),
        "check": lambda task: task.are_done([file]),
        "path": lambda task: task.paths_of([file]),
        "rescan": lambda task: task.rescan(),
    }

    def attempts() -> dict[str, int]:
        with Device() as own:
            return {
                name: errno_of(lambda call=call: call(own.task(1))) for name, call in calls.items()
            }

    def own_task() -> dict[str, int]:
        with Device() as own, own.register(place / "tree", STATES) as task:
            assert task.id == 1
            return attempts()

    with device_for_group():
        fine = dict.fromkeys(calls, 0) | {"pending": errno.EPERM}
        assert as_user(ANNA, own_task) == fine
        task = register_as(ANNA, place / "tree", STATES)
        refused = dict.fromkeys(calls, errno.EPERM)
        # Another process of hers may ask what is done.
        assert as_user(ANNA, attempts) == refused | {"check": 0}
        assert as_user(BERT, attempts) == without_admin(attempts) == refused
        assert list(task.marked()) == []
        assert attempts() == dict.fromkeys(calls, 0)
        task.close()


def test_what_a_file_is_called(device: Device, place: Path) -> None:
    """The numbers of a path are those that the driver tells of it, and looking caches nothing."""
    paths = [fill(place / f"tree/{i}", 2) for i in range(3)]
    (place / "link").symlink_to(paths[0])
    with device.register(place / "tree", STATES) as task:
        told = {item.file for item in task.read()}
        assert {identity_of(path) for path in paths} == told
        assert identity_of(place / "link") == identity_of(paths[0]) == identity(paths[0])
        # A number that comes again is another file's.
        drop_caches()
        task.read()
        assert [identity_of(path) for path in paths] == [identity(path) for path in paths]
        assert task.read() == []
    paths[1].chmod(0o600)
    assert as_user(ANNA, lambda: errno_of(lambda: identity_of(paths[1]))) == errno.EACCES
