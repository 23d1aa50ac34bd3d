# SPDX-License-Identifier: MIT
"""Owning a descriptor: forgotten ones, and forks while other threads are in a call."""

import contextlib
import errno
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asleep import wait_until_asleep

from pyduet import Device, Mask
from pyduet._driver.descriptor import Descriptor
from pyduet.task import Task

#: Seconds after which a child hangs.
_LATE = 60


def make() -> tuple[Task, int]:
    """Return a task over a pipe, and the pipe's other end."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    return Task(reader, task_id=3, name="n", path="/p", mask=Mask.EXISTS | Mask.MODIFIED), writer


@pytest.fixture
def task() -> Iterator[Task]:
    task, writer = make()
    with task:
        yield task
    os.close(writer)


def is_open(fd: int) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def in_child(check: Callable[[], bool]) -> str:
    """Fork, and return what became of the check in the child."""
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if check() else 1)
        except BaseException:
            os._exit(2)
    end = time.monotonic() + _LATE
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return ("true", "false", "error")[os.waitstatus_to_exitcode(status)]
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"


# Forgotten


def forget(things: list[Any]) -> None:
    """Drop the first of some things, of which there is no other reference."""
    del things[0]
    gc.collect()


def test_a_forgotten_task_is_closed_with_a_warning() -> None:
    before = os.listdir("/proc/self/fd")
    made = [*make()]
    with pytest.warns(ResourceWarning, match=r"unclosed <Task 3 'n' on '/p', "):
        forget(made)
    os.close(made.pop())
    assert os.listdir("/proc/self/fd") == before


def test_a_forgotten_device_is_closed_with_a_warning() -> None:
    before = os.listdir("/proc/self/fd")
    made = [Device("/dev/null")]
    with pytest.warns(ResourceWarning, match="unclosed <Device '/dev/null'>"):
        forget(made)
    assert os.listdir("/proc/self/fd") == before


def test_who_closes_is_not_warned(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task, writer = make()
        task.close()
        os.close(writer)
        with Device("/dev/null"):
            pass
        with contextlib.suppress(OSError):
            Device(tmp_path / "none")
        del task
        gc.collect()
    assert [str(one.message) for one in caught] == []


def test_a_task_that_cannot_be_made_leaves_its_descriptor_to_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reader, writer = os.pipe2(os.O_CLOEXEC)

    def full(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "eventfd", full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(OSError, match="Too many open files"):
            Task(reader, task_id=3, name="n", path="/p", mask=Mask.EXISTS)
        gc.collect()
    assert is_open(reader)
    os.close(reader)
    os.close(writer)


# Forks


def test_a_child_of_threads_in_calls_has_the_task_to_itself(task: Task) -> None:
    """Whatever moment of whatever call the threads are in when the process forks."""
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            task.read_batch()

    def make_and_close() -> None:
        while not stop.is_set():
            other, writer = make()
            other.close()
            os.close(writer)

    def check() -> bool:
        fd, bell = task.fileno(), task._bell.fileno()
        task.read_batch()
        with contextlib.suppress(OSError):
            task.rescan()
        task.close()
        return not is_open(fd) and not is_open(bell)

    threads = [threading.Thread(target=read) for _ in range(3)]
    threads.append(threading.Thread(target=make_and_close))
    for thread in threads:
        thread.start()
    try:
        found = [in_child(check) for _ in range(100)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(found) == {"true"}
    assert task.read_batch() is not None


def test_a_child_does_not_wait_for_who_is_in_a_call(task: Task) -> None:
    """The thread that was using it would never be done with it: in the child there is none."""
    inside, leave = threading.Event(), threading.Event()

    def use() -> None:
        with task._use():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=use)
    thread.start()
    inside.wait()
    fd = task.fileno()

    def closes() -> bool:
        task.close()
        return not is_open(fd)

    try:
        assert in_child(closes) == "true"
        task.close()
        assert is_open(fd)
        # Closed, but for the user: in the child that was the last word.
        assert in_child(lambda: not is_open(fd)) == "true"
    finally:
        leave.set()
        thread.join()
    assert not is_open(fd)


def test_a_child_can_wait_although_a_thread_was_waiting(task: Task) -> None:
    """A poll object that is being polled says so for ever."""
    thread = threading.Thread(target=task.wait)
    thread.start()
    assert thread.native_id
    wait_until_asleep(thread.native_id)
    try:
        assert in_child(lambda: task.wait(0) is False) == "true"
    finally:
        task.close()
        thread.join()


def test_who_forks_in_a_call_goes_on_with_it_in_the_child(task: Task) -> None:
    """As a handler of a signal may."""
    fd = task.fileno()

    def check() -> bool:
        task.close()
        if not is_open(fd):
            return False
        using.close()
        return not is_open(fd)

    with contextlib.ExitStack() as using:
        using.enter_context(task._use())
        assert in_child(check) == "true"
    assert not task.closed


def test_a_fork_waits_for_who_is_closing() -> None:
    """In the child nobody could tell whether it was closed already."""
    closing, goes_on, forked = threading.Event(), threading.Event(), threading.Event()

    class Slow(Descriptor):
        def _release(self) -> None:
            super()._release()
            closing.set()
            goes_on.wait()

    fd = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    slow = Slow(fd, "the slow one")
    found = []

    def fork() -> None:
        found.append(in_child(lambda: not is_open(fd) and goes_on.is_set()))
        forked.set()

    threads = [threading.Thread(target=slow.close), threading.Thread(target=fork)]
    threads[0].start()
    closing.wait()
    threads[1].start()
    assert threads[1].native_id
    wait_until_asleep(threads[1].native_id)
    assert not forked.is_set()
    goes_on.set()
    for thread in threads:
        thread.join()
    assert found == ["true"]


# What they are called


def test_what_they_are_called(task: Task) -> None:
    assert repr(task) == "<Task 3 'n' on '/p', modified,exists>"
    task.close()
    assert repr(task) == "<Task 3 'n' on '/p', modified,exists, closed>"
    with Device("/dev/null") as device:
        assert repr(device) == "<Device '/dev/null'>"
        assert repr(device.task(7)) == "<TaskHandle 7 over <Device '/dev/null'>>"
    assert repr(device) == "<Device '/dev/null', closed>"
    with Descriptor(os.open("/dev/null", os.O_RDONLY), "the thing") as thing:
        assert repr(thing) == "<Descriptor of the thing>"
