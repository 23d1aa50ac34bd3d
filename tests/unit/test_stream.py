# SPDX-License-Identifier: MIT
"""Reading and waiting, over a pipe in the driver's place; the lab tests the driver itself."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Iterator

import pytest
from asleep import wait_until_asleep

from pyduet import Item, Mask, State
from pyduet._driver import abi
from pyduet.task import Task


def item(index: int) -> bytes:
    return abi.ITEM.pack(5, 1, 1, index, State.ADDED, 0)


class Pipe:
    """A task that reads what is put into a pipe."""

    def __init__(self) -> None:
        reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.task = Task(reader, task_id=1, name="n", path="/p", mask=Mask.ADDED)

    def put(self, *indexes: int) -> None:
        os.write(self._writer, b"".join(map(item, indexes)))

    def close(self) -> None:
        self.task.close()
        os.close(self._writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with contextlib.closing(Pipe()) as pipe:
        yield pipe


def indexes(items: list[Item]) -> list[int]:
    return [index for item in items for index in range(item.index, item.end)]


def test_events_end_with_the_timeout(pipe: Pipe) -> None:
    pipe.put(1, 3)
    begin = time.monotonic()
    assert indexes(list(pipe.task.events(timeout=0.2))) == [1, 3]
    assert time.monotonic() - begin >= 0.2


def test_a_task_is_iterated_as_its_events_are(pipe: Pipe) -> None:
    pipe.put(1, 3)
    found = []
    for item in pipe.task:
        found.append(item.index)
        if len(found) == 2:
            pipe.task.close()
    assert found == [1, 3]


def test_a_batch_has_at_most_what_is_asked_for(pipe: Pipe) -> None:
    pipe.put(1, 3, 5)
    assert [len(batch) for batch in pipe.task.batches(0, max_items=2)] == [2, 1]


def test_who_closes_in_the_loop_leaves_it(pipe: Pipe) -> None:
    pipe.put(1)
    for _ in pipe.task.events():
        pipe.task.close()


def test_close_wakes_a_thread_that_waits(pipe: Pipe) -> None:
    found: list[list[Item]] = []
    thread = threading.Thread(target=lambda: found.append(list(pipe.task.events())))
    thread.start()
    pipe.put(4)
    assert thread.native_id
    wait_until_asleep(thread.native_id)
    pipe.task.close()
    thread.join(60)
    assert not thread.is_alive()
    assert indexes(found[0]) == [4]


def test_a_descriptor_in_use_is_closed_by_its_last_user(pipe: Pipe) -> None:
    """While a thread is in a call, nobody else can get the number."""
    fd = pipe.task.fileno()
    with pipe.task._use():
        pipe.task.close()
        os.fstat(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_many_threads_and_one_that_closes() -> None:
    for _ in range(200):
        with contextlib.closing(Pipe()) as pipe:
            errors: list[BaseException] = []

            def read(task: Task = pipe.task, errors: list[BaseException] = errors) -> None:
                try:
                    while True:
                        task.read_batch()
                except ValueError:
                    pass
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            pipe.task.close()
            for thread in threads:
                thread.join(60)
            assert not errors


def test_a_child_that_closes_its_task_ends_no_wait_here(pipe: Pipe) -> None:
    pid = os.fork()
    if not pid:
        pipe.task.close()
        os._exit(0)
    os.waitpid(pid, 0)
    begin = time.monotonic()
    assert not pipe.task.wait(0.3)
    assert time.monotonic() - begin >= 0.3
    assert not pipe.task.closed
    pipe.put(1)
    assert pipe.task.wait(60)


def test_async_for(pipe: Pipe) -> None:
    found: list[int] = []

    async def collect() -> None:
        async for item in pipe.task:
            found.extend(indexes([item]))

    async def main() -> None:
        collecting = asyncio.create_task(collect())
        for index in (2, 4):
            await asyncio.sleep(0.05)
            pipe.put(index)
            while found[-1:] != [index]:
                await asyncio.sleep(0.01)
        pipe.task.close()
        await collecting

    asyncio.run(asyncio.wait_for(main(), 60))
    assert found == [2, 4]


def test_nothing_stays_in_the_loop(pipe: Pipe) -> None:
    """A descriptor that the loop still knew would wake it for ever, or be another's later."""
    before = os.listdir("/proc/self/fd")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.SelectorEventLoop)
        known = set(loop._selector.get_map())
        loop.call_later(0.05, pipe.put, 1)
        assert await asyncio.wait_for(pipe.task.wait_async(), 60)
        assert set(loop._selector.get_map()) == known

    asyncio.run(main())
    assert os.listdir("/proc/self/fd") == before


def test_a_reader_of_the_application_stays(pipe: Pipe) -> None:
    """The loop knows one of a descriptor."""
    called = 0

    def count() -> None:
        nonlocal called
        called += 1

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(pipe.task.fileno(), count)
        loop.call_later(0.05, pipe.put, 1)
        assert await asyncio.wait_for(pipe.task.wait_async(), 60)
        await asyncio.sleep(0)
        assert called
        assert loop.remove_reader(pipe.task.fileno())

    asyncio.run(main())


def test_cancelling_loses_nothing(pipe: Pipe) -> None:
    async def first() -> Item:
        async for item in pipe.task:
            return item
        raise AssertionError

    async def main() -> None:
        waiting = asyncio.create_task(first())
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        pipe.put(9)
        assert (await asyncio.wait_for(first(), 60)).index == 9

    asyncio.run(main())


def test_a_child_that_closes_its_task_ends_no_await_here(pipe: Pipe) -> None:
    pid = os.fork()
    if not pid:
        pipe.task.close()
        os._exit(0)
    os.waitpid(pid, 0)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pipe.task.wait_async()
        pipe.put(1)
        assert await asyncio.wait_for(pipe.task.wait_async(), 60)

    asyncio.run(main())


def test_several_tasks_in_one_loop() -> None:
    before = threading.active_count()
    with contextlib.closing(Pipe()) as one, contextlib.closing(Pipe()) as other:
        found: list[list[int]] = [[], []]

        async def collect(pipe: Pipe, told: list[int]) -> None:
            async for item in pipe.task:
                told.extend(indexes([item]))

        async def main() -> None:
            both = asyncio.gather(collect(one, found[0]), collect(other, found[1]))
            for step in range(10):
                await asyncio.sleep(0.01)
                (one, other)[step % 2].put(step * 2)
            while sum(map(len, found)) < 10:
                await asyncio.sleep(0.01)
            one.task.close()
            other.task.close()
            await both

        asyncio.run(asyncio.wait_for(main(), 60))
        assert found == [[0, 4, 8, 12, 16], [2, 6, 10, 14, 18]]
        assert threading.active_count() == before


def test_a_second_coroutine_is_refused(pipe: Pipe) -> None:
    async def main() -> None:
        waiting = asyncio.create_task(pipe.task.wait_async())
        await asyncio.sleep(0.05)
        with pytest.raises(RuntimeError, match="another coroutine waits for the task on /p"):
            await pipe.task.wait_async()
        pipe.put(1)
        assert await asyncio.wait_for(waiting, 60)

    asyncio.run(main())
