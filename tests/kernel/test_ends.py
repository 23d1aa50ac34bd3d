# SPDX-License-Identifier: MIT
"""How a task is passed on to others, and how it ends when what it watched is no more."""

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from actions import evict, read_page
from asleep import call_of
from conftest import EVENTS, STATES, counter, eventually
from ordinary import in_child
from raw import errno_of, ioctl, resized
from test_life import POLL, READ, file_system
from truth import Watch, drop_caches, fill, identity

from pyduet import Device, FileId, Mask, State, Task, TaskEndedError, TaskGoneError
from pyduet._driver import abi


def test_a_descriptor_that_is_sent(device: Device, place: Path) -> None:
    """SCM_RIGHTS: the task lives in the message, and then in whoever received it."""
    path = fill(place / "tree/file", 2)
    ours, theirs = socket.socketpair()
    task = device.register(place / "tree", STATES)
    socket.send_fds(ours, [b"x"], [task.fileno()])
    task.close()
    assert counter("tasks") == 1
    file = in_child(lambda: _receive(theirs))
    assert path.stat().st_ino == file.ino
    # The child that received it has ended; nobody has it any more.
    assert eventually(lambda: counter("tasks") == 0)
    ours.close()
    theirs.close()


def _receive(theirs: socket.socket) -> FileId:
    _, [fd], _, _ = socket.recv_fds(theirs, 1, 1)
    with Task.adopt(fd) as task:
        [item] = task.read()
        assert item.state == State.ADDED
        assert not task.is_done(item.file)
        task.mark_many([item.file])
        assert task.are_done([item.file]) == [True]
        assert list(task.marked()) == [item.file]
        return item.file


def test_a_descriptor_in_a_message_that_nobody_receives(device: Device, place: Path) -> None:
    """It ends with the socket, and leaves nothing behind."""
    ours, theirs = socket.socketpair()
    task = device.register(place / "tree", STATES)
    fill(place / "tree/file", 5, sync=False)
    socket.send_fds(ours, [b"x"], [task.fileno()])
    task.close()
    assert counter("tasks") == 1
    ours.close()
    theirs.close()
    assert eventually(lambda: counter("tasks") == counter("nodes") == counter("bytes") == 0)


def test_a_descriptor_that_is_inherited(device: Device, place: Path) -> None:
    """After fork both have the task, and what one reads the other is not told again."""
    path = fill(place / "tree/file", 2)
    watch = Watch(device.register(place / "tree", STATES))
    task, file = watch.task, identity(path)
    assert in_child(lambda: sum(item.pages for item in task.read())) == 2
    assert task.read() == []
    assert in_child(lambda: task.path_of(file, max_age=0)) == str(path)
    assert in_child(lambda: task.mark_done(file)) is None
    assert task.is_done(file)
    task.close()
    assert counter("tasks") == 0


def test_close_in_another_thread_while_a_read_blocks(device: Device, place: Path) -> None:
    """close() waits for nobody; the read goes on with the task it began with, and ends it.

    Pitfall: a reference was dropped, then wake_up called on the freed task.
    """
    path = fill(place / "tree/file", 2)
    drop_caches()
    task = device.register(place / "tree", STATES)
    os.set_blocking(task.fileno(), True)
    fd = task.fileno()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(os.read(fd, 4096)), daemon=True)
    thread.start()
    assert eventually(lambda: _reads(thread))
    start = time.monotonic()
    task.close()
    assert time.monotonic() - start < 60
    path.read_bytes()
    thread.join(120)
    assert not thread.is_alive()
    assert got[0] != b""
    assert eventually(lambda: counter("tasks") == 0)


def _reads(thread: threading.Thread) -> bool:
    """Return whether a thread is asleep in read(2): it may also wait for the interpreter's lock."""
    return call_of(thread.native_id) == READ


def test_close_while_events_wake_it(device: Device, place: Path) -> None:
    """A task that ends while another process gives it something to read.

    Pitfall: a reference was dropped, then wake_up called on the freed task. KASAN sees the least
    of it: the debug kernel.
    """
    path = fill(place / "tree/file", 1)
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            while True:
                evict(path)
                read_page(path, 0)
        os._exit(1)
    try:
        woken = 0
        for turn in range(16):
            task = device.register(place / "tree", EVENTS)
            woken += bool(turn % 2) and task.wait(120)
            task.close()
        assert woken == 8
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert counter("tasks") == 0


def test_stop_while_several_readers_block(device: Device, place: Path) -> None:
    """Pitfall: a blocked reader hung STOP. All are told, whatever call they sleep in."""
    tasks = [device.register(place / "tree", STATES) for _ in range(4)]
    answers: list[int] = []

    def block(task: Task) -> None:
        answers.append(errno_of(lambda: os.read(task.fileno(), 4096)))

    threads = [
        threading.Thread(target=block, args=(task,), daemon=True) for task in (*tasks, *tasks)
    ]
    for task in tasks:
        os.set_blocking(task.fileno(), True)
    for thread in threads:
        thread.start()
    assert eventually(lambda: all(_reads(thread) for thread in threads))
    device.stop()
    for thread in threads:
        thread.join(120)
    assert answers == [errno.ESHUTDOWN] * 8
    for task in tasks:
        task.close()


def gone(watch: Watch) -> None:
    """Check that a task says that it has nothing to watch any more, and goes on saying so."""
    for _ in range(2):
        with pytest.raises(TaskGoneError) as error:
            watch.task.read()
        assert error.value.errno == errno.ENODEV
    poller = select.poll()
    poller.register(watch.task.fileno(), select.POLLIN)
    assert poller.poll(0)[0][1] & select.POLLHUP
    os.set_blocking(watch.task.fileno(), True)
    assert errno_of(lambda: os.read(watch.task.fileno(), 4096)) == errno.ENODEV
    with Device() as device:
        assert [task.gone for task in device.tasks() if task.id == watch.task.id] == [True]
    assert errno_of(watch.task.rescan) in (0, errno.ENODEV)
    assert list(watch.task.pending()) == []


@pytest.mark.parametrize("mask", [STATES, EVENTS])
def test_a_watched_directory_that_is_removed(device: Device, place: Path, mask: Mask) -> None:
    """Read returns what is pending, then ENODEV."""
    (place / "tree/dir/sub").mkdir(parents=True)
    path = fill(place / "tree/dir/sub/file", 2)
    watch = Watch(device.register(place / "tree/dir", mask))
    assert len(watch.news(path)) == 2
    file = identity(path)
    path.unlink()
    (place / "tree/dir/sub").rmdir()
    assert watch.task.wait(120)
    (place / "tree/dir").rmdir()
    assert watch.task.wait(120)
    items = watch.task.read()
    assert {item.file for item in items} == {file}
    assert all(State.REMOVED in item.state for item in items)
    gone(watch)
    # What is made in its place is something else.
    (place / "tree/dir").mkdir()
    fill(place / "tree/dir/file", 2)
    gone(watch)
    watch.task.close()


def test_a_reader_that_blocks_while_its_directory_is_removed(device: Device, place: Path) -> None:
    """It wakes and is told."""
    (place / "tree/dir").mkdir()
    task = device.register(place / "tree/dir", STATES)
    os.set_blocking(task.fileno(), True)
    answers: list[int] = []
    thread = threading.Thread(
        target=lambda: answers.append(errno_of(lambda: os.read(task.fileno(), 4096))), daemon=True
    )
    thread.start()
    assert eventually(lambda: _reads(thread))
    (place / "tree/dir").rmdir()
    thread.join(120)
    assert answers == [errno.ENODEV]
    task.close()


def test_a_renamed_directory_is_not_removed(device: Device, place: Path) -> None:
    """Nor is one of which only the contents go."""
    (place / "tree/dir").mkdir()
    watch = Watch(device.register(place / "tree/dir", STATES))
    (place / "tree/dir").rename(place / "out/dir")
    path = fill(place / "out/dir/file", 2)
    assert len(watch.news(path)) == 2
    path.unlink()
    watch.read()
    assert watch.read() == []
    assert not watch.task.wait(0)
    assert [task.gone for task in device.tasks()] == [False]
    watch.task.close()


def test_a_file_system_that_is_unmounted(device: Device, place: Path) -> None:
    """Pitfall: the registered path pinned its mount for ever.

    The umount is not held up by a task, nor by one on a single file; both are
    told, after what was pending.
    """
    with file_system(place, "one") as mounted:
        path = fill(mounted / "tree/file", 3)
        watches = [Watch(device.register(where, STATES)) for where in (mounted / "tree", path)]
        for watch in watches:
            assert len(watch.news(path)) == 3
        subprocess.run(["umount", mounted], check=True)
        for watch in watches:
            assert watch.task.wait(120)
            assert {item.state for item in watch.task.read()} == {State.REMOVED}
            gone(watch)
            watch.task.close()


def test_closing_a_task_whose_file_system_is_gone(device: Device, place: Path) -> None:
    """Nobody read, nobody was told: it ends all the same, and nothing is left."""
    with file_system(place, "one") as mounted:
        fill(mounted / "tree/file", 3)
        task = device.register(mounted / "tree", STATES)
        subprocess.run(["umount", mounted], check=True)
        task.close()
    assert eventually(lambda: counter("bytes") == counter("files") == 0)


def test_nothing_is_left_after_many_registrations(device: Device, place: Path) -> None:
    """Pitfall: leaks on error paths. Of every way to register and to end, nothing stays."""
    path = fill(place / "tree/file", 10)
    for turn in range(30):
        tasks = [
            device.register(place / "tree", STATES, ranges=bool(turn % 2)),
            device.register(path, EVENTS, no_scan=bool(turn % 3)),
        ]
        tasks[0].mark_many(FileId(2**40 + i, 1) for i in range(10))
        if turn % 4:
            tasks[1].read()
        if turn % 5 == 0:
            device.stop()
            assert [counter(name) for name in ("files", "nodes", "bytes")] == [0, 0, 0]
            device.start()
        for task in tasks:
            task.close()
        assert [counter(name) for name in ("tasks", "files", "nodes", "bytes")] == [0, 0, 0, 0]


def test_a_task_that_was_ended(device: Device, place: Path) -> None:
    """Who waits for it is told at once, the others go on, and its number means another task."""
    path = fill(place / "tree/file", 3)
    drop_caches()
    ended = device.register(place / "tree", Mask.ADDED)
    other = device.register(place / "tree", Mask.ADDED)
    os.set_blocking(ended.fileno(), True)
    answers: list[int] = []
    reader = threading.Thread(
        target=lambda: answers.append(errno_of(lambda: os.read(ended.fileno(), 4096)))
    )
    reader.start()
    assert eventually(lambda: call_of(reader.native_id) == READ)
    device.end(ended.id, pid=os.getpid())
    reader.join(60)
    assert answers == [errno.ECANCELED]
    poll = select.poll()
    poll.register(ended.fileno(), select.POLLIN)
    assert poll.poll(0) == [(ended.fileno(), select.POLLHUP | select.POLLERR)]
    assert [task.id for task in device.tasks()] == [other.id]
    with device.register(place / "tree", Mask.ADDED) as again:
        assert again.id == ended.id
        path.read_bytes()
        file = identity(path)
        # The old descriptor does not act on the new task of its number.
        assert errno_of(lambda: ended.mark_done(file)) == errno.ECANCELED
        assert errno_of(ended.read) == errno.ECANCELED
        assert errno_of(lambda: device.end(ended.id, pid=1)) == errno.ESRCH
        ended.close()
        for task in (again, other):
            [item] = task.read()
            assert (item.file, item.index, item.pages) == (identity(path), 0, 3)
    other.close()
    assert device.tasks() == []


def test_each_end_has_an_error_of_its_own(device: Device, place: Path) -> None:
    """Pitfall: one errno for "Duet is off", "switched off under you" and "somebody ended you"."""
    path = fill(place / "tree/file", 1)
    ended, stopped = (device.register(place / "tree", STATES) for _ in range(2))
    calls: list[Callable[[Task], object]] = [
        Task.read,
        Task.rescan,
        lambda task: list(task.marked()),
        lambda task: list(task.pending()),
        lambda task: task.is_done(identity(path)),
        lambda task: task.mark_many([identity(path)]),
        lambda task: task.path_of(identity(path), max_age=0),
        lambda task: task.paths_of([identity(path)]),
    ]
    device.end(ended.id)
    for _ in range(2):
        for call in calls:
            assert errno_of(partial(call, ended)) == errno.ECANCELED
        with pytest.raises(TaskEndedError, match="somebody ended the task"):
            ended.read()
        # It stays so when Duet is switched off, which is what the other is told.
        if device.is_on():
            device.stop()
    for call in calls:
        assert errno_of(partial(call, stopped)) == errno.ESHUTDOWN
    device.start()
    for task in (ended, stopped):
        task.close()


def test_what_end_refuses(device: Device, place: Path) -> None:
    """Nothing ends, and the answer says why."""
    with device.register(place / "tree", STATES) as task:
        for answer, request in (
            (errno.EINVAL, abi.End(tid=task.id, flags=1)),
            (errno.EINVAL, abi.End(tid=task.id, reserved=1)),
            (errno.EINVAL, abi.End()),
            (errno.ESRCH, abi.End(tid=task.id + 1)),
            (errno.ESRCH, abi.End(tid=1 << 31)),
            (errno.ESRCH, abi.End(tid=task.id, pid=1)),
        ):
            assert ioctl(device.fileno(), abi.IOC_END, request) == -answer
        small = resized(abi.IOC_END, 8)
        assert ioctl(device.fileno(), small, abi.End(tid=task.id)) == -errno.EINVAL
        assert [one.id for one in device.tasks()] == [task.id]
        # Over its own descriptor 0 is enough, and there is no second time.
        assert ioctl(task.fileno(), abi.IOC_END, abi.End()) == 0
        assert device.tasks() == []
        assert ioctl(task.fileno(), abi.IOC_END, abi.End()) == -errno.ECANCELED
    with pytest.raises(TaskGoneError, match="no such task"):
        device.end(7)


def test_two_end_a_task_that_is_closed(device: Device, place: Path) -> None:
    """Whoever is first, it ends once, and nothing of it is left."""
    path = fill(place / "tree/file", 3)
    for _ in range(30):
        task = device.register(place / "tree", STATES)
        path.read_bytes()
        with ThreadPoolExecutor(3) as pool:
            ends = [pool.submit(errno_of, partial(device.end, task.id)) for _ in range(2)]
            pool.submit(task.close)
        answers = [end.result() for end in ends]
        assert set(answers) <= {0, errno.ECANCELED, errno.ESRCH}
        assert answers.count(0) <= 1
        assert device.tasks() == []
    assert eventually(lambda: counter("nodes") == counter("bytes") == 0)


@pytest.mark.parametrize("how", ["end", "stop"])
def test_a_reader_and_a_poller_of_one_task_are_told(device: Device, place: Path, how: str) -> None:
    """The poller also where it looks before the reader has left: nothing would wake it again."""
    for _ in range(5):
        if not device.is_on():
            device.start()
        task = device.register(place / "tree", STATES)
        os.set_blocking(task.fileno(), True)
        with ThreadPoolExecutor(2) as pool:
            try:
                read = pool.submit(errno_of, partial(os.read, task.fileno(), 4096))
                assert eventually(partial(_somebody_is_in, pool, READ))
                polled = pool.submit(_poll, task.fileno())
                assert eventually(partial(_somebody_is_in, pool, POLL))
                device.stop() if how == "stop" else device.end(task.id)
            except BaseException:
                device.stop()  # or the pool would wait for the reader for ever
                raise
        assert read.result() == (errno.ESHUTDOWN if how == "stop" else errno.ECANCELED)
        assert polled.result() == [(task.fileno(), select.POLLHUP | select.POLLERR)]
        task.close()


def _poll(fd: int) -> list[tuple[int, int]]:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return poll.poll(60_000)


def _somebody_is_in(pool: ThreadPoolExecutor, number: int) -> bool:
    """Return whether a thread of the pool sleeps in a system call."""
    return number in [call_of(thread.native_id) for thread in pool._threads]


def test_a_task_that_is_ended_while_it_registers(device: Device, place: Path) -> None:
    """Before, while and after it looks at what is cached: it is told, and nothing stays.

    What it would have looked at went with its end. KASAN sees that it does not: the debug kernel.
    """
    for number in range(100):
        fill(place / f"tree/{number}", 1)
    registering = True

    def end_all() -> int:
        ended = 0
        while registering:
            for task_id in range(1, 5):
                ended += not errno_of(partial(device.end, task_id))
        return ended

    def register(mask: Mask, snapshot: bool) -> int:
        refused = 0
        for _ in range(40):
            try:
                device.register(place / "tree", mask, snapshot=snapshot).close()
            except TaskEndedError:
                refused += 1
        return refused

    with ThreadPoolExecutor(4) as pool:
        ends = pool.submit(end_all)
        try:
            kinds = ((STATES, False), (EVENTS, False), (STATES, True))
            refused = sum(
                [one.result() for one in [pool.submit(register, *kind) for kind in kinds]]
            )
        finally:
            registering = False
    assert 0 < refused <= ends.result()
    assert device.is_on()
    assert [counter(name) for name in ("tasks", "files", "nodes", "bytes")] == [0, 0, 0, 0]


def test_a_task_that_is_ended_while_duet_is_switched_off(device: Device, place: Path) -> None:
    """Whoever is first, a reader is told, and Duet can be switched on again."""
    path = fill(place / "tree/file", 3)
    for _ in range(20):
        task = device.register(place / "tree", STATES)
        path.read_bytes()
        with ThreadPoolExecutor(3) as pool:
            told = pool.submit(_read_to_the_end, task)
            stop = pool.submit(device.stop)
            end = pool.submit(errno_of, partial(device.end, task.id))
        assert stop.result() is None
        assert end.result() in (0, errno.ESHUTDOWN, errno.ESRCH)
        assert told.result() == (errno.ESHUTDOWN if end.result() else errno.ECANCELED)
        assert [counter(name) for name in ("tasks", "files", "nodes", "bytes")] == [0, 0, 0, 0]
        device.start()
        task.close()


def _read_to_the_end(task: Task) -> int:
    """Read until there is an error, and return it."""
    while not (error := errno_of(lambda: task.wait(60) and task.read())):
        pass
    return error


def test_marks_that_are_dumped_while_the_task_ends(device: Device, place: Path) -> None:
    """It tells them all, or that the task has ended, and never some of them for all.

    They are freed at the end. KASAN sees that nobody looks at them then: the debug kernel.
    """
    for _ in range(10):
        task = device.register(place / "tree", STATES)
        task.mark_many(FileId(2**40 + i, 1) for i in range(3000))
        counts: list[int] = []
        with ThreadPoolExecutor(2) as pool:
            told = [pool.submit(_dump_marks, task, counts) for _ in range(2)]
            assert eventually(partial(any, counts))
            device.end(task.id)
        assert [one.result() for one in told] == [errno.ECANCELED] * 2
        assert set(counts) == {3000}
        task.close()
    assert counter("bytes") == 0


def _dump_marks(task: Task, counts: list[int]) -> int:
    """Dump a task's marks until there is an error, which is returned, and count them."""
    buffer = ctypes.create_string_buffer(64 << 10)
    while True:
        request = abi.Dump(
            len=len(buffer), buf=ctypes.addressof(buffer), size=ctypes.sizeof(abi.FileRef)
        )
        if error := ioctl(task.fileno(), abi.IOC_DUMP_MARKS, request):
            return -error
        assert request.cursor == abi.CURSOR_END
        counts.append(request.nr)
