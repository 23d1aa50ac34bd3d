# SPDX-License-Identifier: MIT
"""What pyduet adds to the calls: threads, descriptors that travel, limits, paths it remembers."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from asleep import wait_until_asleep
from conftest import STATES, eventually, settings
from ordinary import ANNA, as_user, device_for_group, in_child
from truth import Watch, drop_caches, fill, identity

from pyduet import Device, InUseError, Mask, PermissionDeniedError, State, Task

PROJECT = Path(__file__).parents[2]


def told(task: Task) -> dict[tuple[int, int], set[int]]:
    """Return what is pending: the pages by file."""
    pages: dict[tuple[int, int], set[int]] = {}
    for item in task.read():
        known = pages.setdefault((item.file.ino, item.file.generation), set())
        known.update(range(item.index, item.end))
    return pages


def test_the_ten_lines_of_the_readme(device: Device, place: Path) -> None:
    """They work as pasted, but for the directory and the time that they wait."""
    [code] = re.findall(r"## Use it from Python\n\n```python\n(.*?)```", readme(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    path = fill(place / "tree/file", 3)
    drop_caches()
    path.read_bytes()
    device.stop()  # the lines begin with switching it on
    assert '"/home"' in code
    assert "timeout=10" in code
    code = code.replace('"/home"', repr(os.fspath(place / "tree"))).replace("=10", "=0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{path} 0 3 added\n", "")


def readme() -> str:
    return (PROJECT / "README.md").read_text()


def test_the_dummy_task(device: Device, place: Path) -> None:
    """The example of the cover letter counts what is read, and marks it done."""
    for number in range(5):
        fill(place / f"tree/{number}", 4)
    done = subprocess.run(
        [sys.executable, PROJECT / "examples/dummy_task.py", place / "tree", "0.1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "5 items, 20 pages, 5 files marked done\n"


def test_a_batch_is_what_the_objects_are(device: Device, place: Path) -> None:
    """The three ways of looking at one read name the same pages of the same file."""
    path = fill(place / "tree/file", 70)
    for ranges in (False, True):
        with device.register(place / "tree", STATES, ranges=ranges) as task:
            batch = task.read_batch()
            assert len(batch) == (1 if ranges else 70)
            array = batch.array()
            runs = {
                "objects": [(item.index, item.pages) for item in batch],
                "rows": [(row[3], row[5] or 1) for row in batch.rows()],
                "array": array[["index", "pages"]].tolist(),
            }
            for way, found in runs.items():
                pages = {page for index, number in found for page in range(index, index + number)}
                assert pages == set(range(70)), way
            assert set(zip(array["ino"].tolist(), array["generation"].tolist(), strict=True)) == {
                identity(path)
            }
            assert set(array["state"].tolist()) == {State.ADDED}
            assert set(array["task"].tolist()) == {task.id}


def test_close_wakes_a_reader(device: Device, place: Path) -> None:
    """A thread in events() ends when another closes the task, and the driver's task is gone."""
    task = device.register(place / "tree", STATES)
    thread = threading.Thread(target=lambda: list(task.events()))
    thread.start()
    assert thread.native_id
    wait_until_asleep(thread.native_id)
    task.close()
    thread.join(120)
    assert not thread.is_alive()
    assert eventually(lambda: device.tasks() == [])


def test_threads_share_a_task(device: Device, place: Path) -> None:
    """Marks, paths and dumps from several threads, while one reads: each gets its own answers."""
    paths = [fill(place / f"tree/{number}", 1) for number in range(24)]
    one = Watch(device.register(place / "tree", STATES))
    files = {identity(path): str(path) for path in paths}
    wrong: list[object] = []

    def ask(part: int) -> None:
        try:
            for file, path in list(files.items())[part::4]:
                for _ in range(10):
                    one.task.mark_done(file)
                    if not one.task.is_done(file) or file not in set(one.task.marked()):
                        wrong.append(file)
                    one.task.unmark(file)
                    if one.task.path_of(file, max_age=0) != path:
                        wrong.append(path)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        one.task.read()
    one.task.close()
    assert not wrong


def test_over_fork(device: Device, place: Path) -> None:
    """Both processes have the task; what one reads the other does not; the last close ends it."""
    path = fill(place / "tree/file", 3)
    task = device.register(place / "tree", STATES)
    assert in_child(lambda: told(task)) == {identity(path): {0, 1, 2}}
    assert told(task) == {}
    in_child(task.close)
    assert [one.id for one in device.tasks()] == [task.id]
    task.close()
    assert eventually(lambda: device.tasks() == [])


def test_over_a_socket(device: Device, place: Path) -> None:
    """A descriptor that is received is a task with everything it had; fdinfo says whose."""
    path = fill(place / "tree/file\n\\", 2)
    name = "n\né \\"
    ours, theirs = socket.socketpair()
    sent = device.register(place / "tree", Mask.EXISTS, name=name, ranges=True)
    socket.send_fds(ours, [b"x"], [sent.fileno()])
    sent_id = sent.id
    sent.close()
    with Task.adopt(socket.recv_fds(theirs, 1, 1)[1][0]) as task:
        assert (task.id, task.name, task.path) == (sent_id, name, str(place / "tree"))
        assert (task.mask, task.snapshot) == (Mask.EXISTS, False)
        assert not os.get_inheritable(task.fileno())
        [item] = task.read()
        assert (item.file.ino, item.file.generation, item.index, item.pages) == (
            *identity(path), 0, 2,
        )  # fmt: skip
        assert task.path_of(item.file) == str(path)
        task.mark_done(item.file)
        assert list(task.marked()) == [item.file]
    assert eventually(lambda: device.tasks() == [])


def test_over_exec(device: Device, place: Path) -> None:
    """A program that is given the descriptor adopts it; without being given it has none."""
    path = fill(place / "tree/file", 2)
    with device.register(place / "tree", STATES) as task:
        program = (
            "import sys; from pyduet import Task\n"
            "with Task.adopt(int(sys.argv[1])) as task:\n"
            "    print(*[task.path_of(item.file) for item in task.read()])\n"
        )
        command = [sys.executable, "-c", program, str(task.fileno())]
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "is not of a task of Duet" in refused.stderr
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, pass_fds=[task.fileno()]
        )
        assert done.stdout == f"{path}\n"


def test_only_a_task_is_adopted(device: Device) -> None:
    """The control device's descriptor is refused, and stays open."""
    with pytest.raises(ValueError, match="is not of a task"):
        Task.adopt(device.fileno())
    assert device.is_on()


def test_a_path_is_remembered_for_a_while(device: Device, place: Path) -> None:
    """Within max_age it is the old one, with 0 the new one, which is then remembered."""
    path = fill(place / "tree/file", 1)
    with device.register(place / "tree", STATES) as task:
        file = task.read()[0].file
        assert task.path_of(file) == str(path)
        path.rename(moved := place / "tree/moved")
        assert task.path_of(file, max_age=3600) == str(path)
        assert task.path_of(file, max_age=0) == str(moved)
        assert task.path_of(file, max_age=3600) == str(moved)
        moved.rename(path)
        assert task.paths_of([file]) == {file: str(path)}
        assert task.path_of(file, max_age=3600) == str(path)


def test_set_limits(device: Device, restored: None) -> None:
    """Each of them, alone and together, and 0 for the driver's own."""
    before = settings()
    device.set_limits(limit=64 << 20)
    device.set_limits(task_limit=8 << 20)
    assert settings() == {**before, "limit_bytes": 64 << 20, "task_limit_bytes": 8 << 20}
    device.stop()
    device.set_limits(limit=0, task_limit=0, max_tasks=5)
    assert settings() == {**before, "max_tasks": 5}


def test_a_limit_below_what_is_in_use_changes_nothing(
    device: Device, place: Path, restored: None
) -> None:
    """Not even what could have been set beside it."""
    fill(place / "tree/file", 4)
    before = settings()
    with device.register(place / "tree", STATES):
        with pytest.raises(InUseError, match="more is in use"):
            device.set_limits(limit=64)
        with pytest.raises(InUseError, match="duet stop"):
            device.set_limits(task_limit=1 << 20, max_tasks=9)
        with pytest.raises(InUseError, match="more is in use"):
            device.set_limits(max_tasks=before["max_tasks"], limit=64, task_limit=1 << 20)
        assert settings() == before
        # The other way round: what came first is put back.
        with pytest.raises(OSError, match="cannot set"):
            device.set_limits(limit=(64 << 20), task_limit=(1 << 63) - 1, max_tasks=9)
        assert settings() == before


def test_limits_are_roots(device: Device) -> None:
    """An ordinary user is told so, and nothing changes."""
    before = settings()
    with device_for_group():
        for limits in ({"limit": 0}, {"task_limit": 1}, {"max_tasks": 3}):
            with pytest.raises(PermissionDeniedError, match="root"):
                as_user(ANNA, lambda limits=limits: Device().set_limits(**limits))
    assert settings() == before


def test_hooks(device: Device, place: Path) -> None:
    """A word for each, as in sysfs: alive while a task needs it."""
    names = {"added", "removed", "dirtied", "flushed", "evicted"}
    assert device.hooks() == dict.fromkeys(names, "detached")
    with device.register(place / "tree", Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED):
        assert device.hooks() == dict.fromkeys(names, "alive")
