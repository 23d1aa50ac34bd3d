# SPDX-License-Identifier: MIT
"""examples/watch.c: what the header alone is enough for."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import eventually
from ordinary import ANNA, as_user
from test_limits import tight
from truth import PAGE, drop_caches, fill, identity

from pyduet import Device, Mask

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the example, as the strictest of its readers would build it."""
    path = tmp_path_factory.mktemp("example") / "watch"
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{TOP}/driver/uapi", "-o", path,
         TOP / "examples/watch.c"],
        check=True,
    )  # fmt: skip
    return path


@contextlib.contextmanager
def started(program: Path, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the example on a directory or a file; what it prints has an end, if a late one."""
    with subprocess.Popen(
        [program, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        late = threading.Timer(300, process.kill)
        late.start()
        try:
            yield process
        finally:
            late.cancel()
            process.kill()


def line(process: subprocess.Popen[str]) -> tuple[str, set[int], str]:
    """Return what the next line says: state, pages, path."""
    assert process.stdout
    text = process.stdout.readline()
    match = re.fullmatch(r"(\S+) +(\d+)-(\d+) +(\S.*)\n", text)
    assert match, text
    return match[1], set(range(int(match[2]), int(match[3]) + 1)), match[4]


def refused(program: Path, *arguments: object) -> tuple[int, str]:
    """Run the example, which ends by itself; return its status and its one line of words."""
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    return done.returncode, done.stderr


def test_which_pages_of_which_file(program: Path, device: Device, place: Path) -> None:
    """What is cached to begin with, then each change, until Ctrl-C."""
    path, other = fill(place / "tree/file", 6), fill(place / "tree/a b\n", 1)
    outside = fill(place / "out/file", 2)
    drop_caches()
    path.read_bytes()
    with started(program, place / "tree") as process:
        assert line(process) == ("added", set(range(6)), str(path))
        outside.read_bytes()
        other.read_bytes()
        assert line(process) == ("added", {0}, f"{place}/tree/a b\\012")
        with path.open("r+b") as file:
            file.seek(2 * PAGE)
            file.write(b"x")
            file.flush()
            # Dirtiness is a folio's, and that may have pages around this one.
            state, dirty, name = line(process)
            assert (state, 2 in dirty, name) == ("dirty", True, str(path))
            os.fsync(file.fileno())
        assert line(process) == ("flushed", dirty, str(path))
        [task] = device.tasks()
        assert (task.name, task.pid, task.path) == ("watch.c", process.pid, str(place / "tree"))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (-signal.SIGINT, "", "")
    assert eventually(lambda: device.tasks() == [])


def test_a_deleted_file(program: Path, device: Device, place: Path) -> None:
    """It has no path any more, but what names it."""
    path = fill(place / "tree/file", 6)
    ino, generation = identity(path)
    with started(program, place / "tree") as process:
        assert line(process) == ("added", set(range(6)), str(path))
        path.unlink()
        left = set(range(6))
        while left:
            state, pages, name = line(process)
            assert (state, name) == ("removed", f"(inode {ino}, generation {generation})")
            assert pages <= left
            left -= pages


def test_a_file(program: Path, device: Device, place: Path) -> None:
    """The path may be that of a file, and what is beside it is not told."""
    fill(place / "tree/other", 1)
    path = fill(place / "tree/file", 3)
    with started(program, path) as process:
        assert line(process) == ("added", {0, 1, 2}, str(path))


def test_an_overflow(program: Path, device: Device, place: Path) -> None:
    """It is said when not all could be told."""
    with started(program, place / "tree") as process, tight(device, 10):
        assert eventually(lambda: len(device.tasks()) == 1)
        for number in range(50):
            fill(place / f"tree/{number}", 1, sync=False)
        assert process.stdout
        assert any(
            line.split(maxsplit=2) == ["overflow", "?", "(files that are not known)\n"]
            for line in process.stdout
        )


def test_refused(program: Path, device: Device, place: Path) -> None:
    """A line that says what, and mostly what helps."""
    tree = place / "tree"
    assert refused(program) == (2, "usage: watch PATH\n")
    assert refused(program, tree, tree)[0] == 2
    for path, words in (
        (place / "nowhere", "No such file or directory"),
        ("/proc", "its file system cannot be watched here; duet doctor says more"),
    ):
        assert refused(program, path) == (1, f"watch: {path}: {words}\n")
    with contextlib.ExitStack() as tasks:
        for _ in range(device.info().max_tasks):
            tasks.enter_context(device.register(tree, Mask.DIRTY))
        status, words = refused(program, tree)
    assert (status, "every task is taken; end one" in words) == (1, True)
    device.stop()
    status, words = refused(program, tree)
    assert (status, "Duet is off; switch it on" in words) == (1, True)


def test_not_permitted(program: Path, device: Device, place: Path) -> None:
    """Who may not open the device is told what to do."""
    shutil.copy(program, place / "watch")
    refusal = as_user(ANNA, lambda: refused(place / "watch", place))
    assert refusal == (1, "watch: /dev/duet: not permitted; be root\n")


@pytest.mark.parametrize("end", ["off", "gone"])
def test_the_end(end: str, program: Path, device: Device, place: Path) -> None:
    """It ends with what it watches, and says why."""
    with started(program, place / "tree") as process:
        assert eventually(lambda: len(device.tasks()) == 1)
        if end == "off":
            device.stop()
            words = "Duet is off; switch it on as root: duet start"
        else:
            (place / "tree").rmdir()
            words = "it is gone, or its file system was unmounted"
        _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (1, f"watch: {place}/tree: {words}\n")
