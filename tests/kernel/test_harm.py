# SPDX-License-Identifier: MIT
"""What somebody does who wants to harm others, and that it does not: they go on."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions import evict, read_page
from conftest import DELAY, EVENTS, STATES, counter, dawdling, eventually
from fuse import Fuse
from mounts import MNT_DETACH, MS_BIND, mount, unmount
from slowmemory import SlowMemory
from truth import PAGE, Watch, drop_caches, fill, identity
from verdicts import verdicts

from pyduet import Device, Mask, State

Register = Callable[..., Watch]

#: Seconds for what should take none, on a busy machine.
SOON = 120


def forked(function: Callable[[], object]) -> int:
    """Run a function in a process of its own, which ends with 0 if that returned."""
    pid = os.fork()
    if not pid:
        try:
            function()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def ended(pid: int, seconds: float = SOON) -> bool:
    """Return whether a process ends well in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.1)
    return False


def stands_in(pid: int, function: str) -> bool:
    """Return whether a process comes to wait in a function of the kernel."""

    def waits() -> bool:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state in "DS" and function in Path(f"/proc/{pid}/stack").read_text()

    return eventually(waits)


@contextlib.contextmanager
def killed(pid: int) -> Iterator[int]:
    """Kill a process at the end."""
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def behind_fuse(place: Path, tmp_path: Path) -> Iterator[int]:
    """Have a process in a call of Duet wait for a FUSE server, which answers no more."""
    subprocess.run(["modprobe", "fuse"], check=True)
    program = tmp_path / "fuse"
    program.mkdir()
    file = fill(place / "tree/file", 1)
    file_id = identity(file)
    ready, go = os.eventfd(0), os.eventfd(0)
    # Who waits for the server goes when that has gone.
    with contextlib.ExitStack() as last, Fuse(program, {"d": None}) as fuse:
        mount(str(place / "tree"), program / "d", flags=MS_BIND)

        def ask() -> None:
            fuse.leave()
            with Device() as mine, mine.register(program / "d", STATES) as task:
                file.rename(place / "out/file")
                os.eventfd_write(ready, 1)
                os.eventfd_read(go)
                task.path_of(file_id, max_age=0)

        pid = last.enter_context(killed(forked(ask)))
        os.eventfd_read(ready)
        fuse.silent = True
        os.eventfd_write(go, 1)
        assert stands_in(pid, "fuse")
        yield pid
    unmount(program, MNT_DETACH)  # what is mounted on it goes with it


@contextlib.contextmanager
def behind_a_reader(place: Path, tmp_path: Path) -> Iterator[int]:
    """Have one wait for a directory that somebody reads for ever, and that another waits to change.

    Who reads it waits for his own memory. Who has a name made in it waits for him, and from then on
    so does whoever looks a name up.
    """
    directory = place / "tree/d"
    directory.mkdir()
    file, other_name = fill(directory / "file", 1), place / "out/name"
    other_name.hardlink_to(file)
    file_id = identity(file)
    ready, go = os.eventfd(0), os.eventfd(0)

    def ask() -> None:
        with Device() as mine, mine.register(place / "tree", STATES) as task:
            assert task.read_batch()
            os.eventfd_write(ready, 1)
            os.eventfd_read(go)
            task.path_of(file_id, max_age=0)

    def read() -> None:
        with SlowMemory(1) as memory:
            memory.list_of(os.open(directory, os.O_RDONLY))

    with (
        contextlib.ExitStack() as last,
        killed(forked(ask)) as pid,
        other_name.open("rb"),
        contextlib.ExitStack() as first,
    ):
        os.eventfd_read(ready)
        drop_caches()  # the name in the directory, which has to be read again
        other_name.read_bytes()
        reader = first.enter_context(killed(forked(read)))
        assert stands_in(reader, "handle_userfault")
        maker = forked((directory / "new").mkdir)
        last.callback(os.waitpid, maker, 0)
        assert stands_in(maker, "filename_create")
        os.eventfd_write(go, 1)
        assert stands_in(pid, "exportfs_decode_fh")
        yield pid


@pytest.fixture(params=[behind_fuse, behind_a_reader])
def hanging(
    request: pytest.FixtureRequest, device: Device, place: Path, tmp_path: Path
) -> Iterator[int]:
    """A process in a call of Duet that does not return, which the kernel is to say nothing of."""
    patience = Path("/proc/sys/kernel/hung_task_timeout_secs")
    before = patience.read_text()
    patience.write_text("0")
    try:
        with request.param(place, tmp_path) as pid:
            yield pid
    finally:
        patience.write_text(before)


def test_a_lookup_that_never_ends(device: Device, place: Path, hanging: int) -> None:
    """Pitfall: all that others did with Duet waited for who looks a path up."""
    [other] = [task for task in device.tasks() if task.pid == hanging]

    def live_on() -> None:
        with Device() as mine:
            assert mine.info().on
            for _ in range(2):
                with mine.register(place / "out", Mask.EXISTS) as task:
                    assert task.read_batch()
            mine.end(other.id)
            assert [task for task in mine.tasks() if task.id == other.id] == []
            mine.stop()
            mine.start()
            with mine.register(place / "out", Mask.EXISTS) as task:
                assert task.id != other.id
                assert task.read_batch()

    assert ended(forked(live_on))


#: Steps that a verdict takes where nothing may wait, and how often it is begun: verdict.c.
STEPS, TRIES = 1024, 4
#: More directories, or names, than that is enough for.
MANY = 1500


@contextlib.contextmanager
def deep(top: Path, levels: int) -> Iterator[Path]:
    """Make a chain of directories; rm takes it away, which minds no depth."""
    path = top / "/".join(["d"] * levels)
    subprocess.run(["mkdir", "-p", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", top / "d"], check=True)


@contextlib.contextmanager
def many_names(file: Path, names: Path) -> Iterator[None]:
    """Give a file many more names, in a directory of their own."""
    names.mkdir()
    for number in range(MANY):
        (names / str(number)).hardlink_to(file)
    yield
    shutil.rmtree(names)


@contextlib.contextmanager
def looping(function: Callable[[], object]) -> Iterator[None]:
    """Have a process do something again and again, as fast as it can, which it has begun to."""
    begun = os.eventfd(0)

    def go_on() -> None:
        function()
        os.eventfd_write(begun, 1)
        while True:
            function()

    with killed(forked(go_on)):
        os.eventfd_read(begun)
        os.close(begun)
        yield


@pytest.mark.parametrize("mask", [STATES, EVENTS])
def test_directories_too_deep_for_a_probe(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: a walk up without an end, by whoever reads a page. The readers walk it now."""
    (place / "else").mkdir()
    tops = [place / name for name in ("tree", "out", "else")]
    with deep(tops[0], MANY) as first, deep(tops[1], MANY) as second, deep(tops[2], MANY) as third:
        files = [fill(path / "file", 20) for path in (first, second, third)]
        for file in files:
            evict(file)
        one, two = watch(tops[0], mask), watch(tops[1], mask)
        with verdicts() as taken:
            for file in files:
                read_page(file, 7)
            found = taken()
            assert {verdict.ino for verdict in found} == {file.stat().st_ino for file in files}
            assert all(verdict.later for verdict in found)
            assert max(verdict.steps for verdict in found) in range(STEPS // 2, STEPS + 1)
            assert one.news(files[0]) == {7: State.ADDED}
            assert two.news(files[1]) == {7: State.ADDED}
            taken()
            # It is known by now whose they are, and of the third that it is nobody's.
            for file in files:
                read_page(file, 9)
                evict(file)
            assert [verdict for verdict in taken() if verdict.steps] == []
        gone = {7: State.REMOVED, 9: State.ADDED | State.REMOVED}
        if mask == STATES:
            del gone[9]
        assert one.news(files[0]) == gone
        assert two.news(files[1]) == gone
        assert counter("files") == 2


def test_the_directories_of_others_cost_no_step(watch: Register, place: Path) -> None:
    """Pitfall: each directory above a file was held against that of each task."""
    levels, tasks = 100, 7
    with deep(place / "tree", levels) as bottom:
        file = fill(bottom / "file", 1)
        evict(file)
        for _ in range(tasks - 1):
            watch(place / "out", STATES)
        one = watch(place / "tree", STATES)
        one.read()
        with verdicts() as taken:
            read_page(file, 0)
            [verdict] = [verdict for verdict in taken() if verdict.ino == file.stat().st_ino]
        # DUET_STEPS_LEVEL for each level, and DUET_STEPS_ROOT for each task in a directory or two.
        assert 3 * levels <= verdict.steps <= 3 * (levels + 6) + 2 * 2 * tasks
        assert one.news(file) == {0: State.ADDED}


@pytest.mark.parametrize("mask", [STATES, EVENTS])
def test_more_names_than_a_probe_looks_at(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: every name, and every directory above it, with preemption off."""
    own, other = fill(place / "tree/file", 20), fill(place / "out/file", 20)
    evict(own)
    evict(other)
    with many_names(own, place / "out/own"), many_names(other, place / "out/other"):
        one = watch(place / "tree", mask)
        assert one.read() == []
        with verdicts() as taken:
            for file in (own, other):
                read_page(place / "out" / file.name if file == other else file, 3)
            found = taken()
            assert any(verdict.later for verdict in found)
            assert max(verdict.steps for verdict in found) <= STEPS
        assert one.news(own) == {3: State.ADDED}
        evict(own)
        evict(other)
        assert one.news(own) == {3: State.REMOVED}
        # A name that is removed: the others are looked at, and this one is left.
        (place / "out/own/0").unlink()
        read_page(own, 5)
        assert one.news(own) == {5: State.ADDED}
        own.unlink()
        assert {state & State.REMOVED for state in one.news(identity(place / "out/own/1")).values()}


@pytest.mark.parametrize("many", [False, True])
def test_who_renames_in_a_loop(watch: Register, place: Path, tmp_path: Path, many: bool) -> None:
    """Pitfall: a verdict was begun again for every rename, of anything, without an end."""
    own = fill(place / "tree/file", 64)
    evict(own)
    (place / "tree/directory").mkdir()
    (tmp_path / "name").touch()

    def back_and_forth(path: Path, other: Path) -> Callable[[], None]:
        def rename() -> None:
            path.rename(other)
            other.rename(path)

        return rename

    def create() -> None:
        (place / "out/new").touch()
        (place / "out/new").unlink()

    loops = [
        back_and_forth(own, place / "tree/other"),
        back_and_forth(tmp_path / "name", tmp_path / "other"),
        # Across the border: no verdict of before counts any more.
        back_and_forth(place / "tree/directory", place / "out/directory"),
        create,
    ]
    one = watch(place / "tree", STATES)
    fd = os.open(own, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    ino = os.fstat(fd).st_ino
    with contextlib.ExitStack() as stack:
        if many:
            stack.enter_context(many_names(own, place / "out/own"))
        taken = stack.enter_context(verdicts())

        def read() -> bool:
            """Read the file anew, and return whether something came between."""
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            for page in range(64):
                os.pread(fd, 1, page * PAGE)
            found = [verdict for verdict in taken() if verdict.ino == ino]
            assert len(found) <= 64 * TRIES
            assert max((verdict.steps for verdict in found), default=0) <= STEPS
            return bool(found)

        with contextlib.ExitStack() as looped:
            for loop in loops:
                looped.enter_context(looping(loop))
            assert eventually(read)
        one.read()
        assert one.disagreements(place / "tree") == []
    os.close(fd)


@pytest.mark.kernel_with(DELAY)
def test_who_changes_a_file_while_it_is_decided(watch: Register, place: Path) -> None:
    """Pitfall: the same, met for sure: while each verdict dawdles, something comes between.

    Each change of the file's mode counts as one of its names, and costs who makes it no verdict.
    """
    own = fill(place / "tree/file", 2)
    evict(own)
    one = watch(place / "tree", STATES)
    read_page(own, 0)  # from here on it is known
    ino = own.stat().st_ino

    def change() -> None:
        own.chmod(0o600)
        own.chmod(0o644)

    with verdicts() as taken, looping(change), own.open("rb") as file:

        def put_off() -> bool:
            """Have it decided anew for a page that comes; return whether there was no end to it."""
            os.posix_fadvise(file.fileno(), PAGE, PAGE, os.POSIX_FADV_DONTNEED)
            watch(place / "out", Mask.EXISTS).task.close()  # that voids what was decided
            taken()
            with dawdling("verdict", 5000):
                read_page(own, 1)
            found = [verdict for verdict in taken() if verdict.ino == ino]
            assert len(found) <= TRIES
            return any(verdict.later for verdict in found)

        assert eventually(put_off)
    one.read()
    assert one.disagreements(place / "tree") == []
