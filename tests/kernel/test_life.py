# SPDX-License-Identifier: MIT
"""How tasks begin, wait and end: descriptors, signals, stop, unmount."""

import contextlib
import errno
import fcntl
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from asleep import call_of, wait_until_asleep
from conftest import EVENTS, STATES, SYSFS, counter, eventually
from journal import probe
from test_unmount import Disk
from truth import TRACEFS, Watch, drop_caches, fill, identity

from pyduet import Device, DuetError, Mask, OffError, State, TaskGoneError, TooManyTasksError
from pyduet._driver import abi

Register = Callable[..., Watch]
#: Of asm/unistd_64.h.
READ, POLL = 0, 7


@contextlib.contextmanager
def blocking(watch: Watch) -> Iterator[int]:
    """Make a task's descriptor block, as published programs use it."""
    os.set_blocking(watch.task.fileno(), True)
    yield watch.task.fileno()
    os.set_blocking(watch.task.fileno(), False)


def read_errno(fd: int, size: int = 4096) -> int:
    """Return the error that a read ends with, 0 for none."""
    try:
        os.read(fd, size)
    except OSError as error:
        return error.errno or -1
    return 0


def test_task_limit(device: Device, place: Path) -> None:
    """Pitfall: no task limit, and a 16-bit limit cut to 8 bits."""
    device.stop()
    for wrong in (256, 257, 65535):
        request = abi.StatusArgs(size=12, flags=abi.Status.START, maxtasks=wrong)
        with pytest.raises(OSError, match="Invalid argument"):
            fcntl.ioctl(device.fileno(), abi.IOC_STATUS, request)
        assert not device.is_on()
    device.start(255)
    tasks = [device.register(place / "tree", Mask.EXISTS) for _ in range(255)]
    assert [task.id for task in device.tasks()] == list(range(1, 256))
    with pytest.raises(TooManyTasksError):
        device.register(place / "tree", Mask.EXISTS)
    path = fill(place / "tree/file", 1)
    for task in (tasks[0], tasks[63], tasks[64], tasks[254]):
        assert Watch(task).news(path) == {0: State.ADDED}
    for task in tasks:
        task.close()
    assert device.tasks() == []


def test_identities_are_reused_but_descriptors_keep_theirs(watch: Register, place: Path) -> None:
    """Pitfall: an old descriptor read somebody else's task after stop and start."""
    with Device() as device:
        old = watch(place / "tree")
        device.stop()
        device.start()
        new = watch(place / "tree")
        assert new.task.id == 1
        fill(place / "tree/file", 1)
        with pytest.raises(OffError):
            old.task.read()
        assert new.read() != []
        old.task.close()
        fill(place / "tree/other", 1)
        assert new.read() != []


def test_stop_wakes_blocked_readers_and_pollers(watch: Register, place: Path) -> None:
    """Pitfall: a blocked reader hung STOP. Now it is told, and so is who polls."""
    one, two = watch(place / "tree"), watch(place / "tree")
    results: list[int] = []

    def poll() -> None:
        poller = select.poll()
        poller.register(two.task.fileno(), select.POLLIN)
        results.append(poller.poll(120_000)[0][1] & select.POLLHUP)

    with blocking(one) as fd:
        threads = [
            threading.Thread(target=lambda: results.append(read_errno(fd))),
            threading.Thread(target=poll),
        ]
        for thread in threads:
            thread.start()
        assert eventually(lambda: [call_of(thread.native_id) for thread in threads] == [READ, POLL])
        start = time.monotonic()
        with Device() as device:
            device.stop()
        for thread in threads:
            thread.join(60)
        assert time.monotonic() - start < 60
    assert sorted(results) == sorted([errno.ESHUTDOWN, select.POLLHUP])


def test_blocking_read_returns_as_soon_as_there_is_one_item(watch: Register, place: Path) -> None:
    """A read sleeps until something happens, and then returns what it has."""
    path = fill(place / "tree/file", 1)
    drop_caches()
    one = watch(place / "tree")
    one.read()
    with blocking(one) as fd:
        start = time.monotonic()
        threading.Timer(1, path.read_bytes).start()
        assert len(os.read(fd, 100 * abi.ITEM.size)) == abi.ITEM.size
        assert time.monotonic() - start > 0.5


def test_a_read_that_may_not_block_waits_for_no_other(watch: Register, place: Path) -> None:
    """Pitfall: it slept until another one that did block returned."""
    path = fill(place / "tree/file", 1)
    drop_caches()
    one = watch(place / "tree")
    one.read()
    with blocking(one) as fd:
        pid = os.fork()
        if not pid:
            try:
                os.read(fd, 4096)
            finally:  # or it would go on with the tests, as we do
                os._exit(0)
        wait_until_asleep(pid)
        os.set_blocking(fd, False)
        other = threading.Thread(target=lambda: errors.append(read_errno(fd)), daemon=True)
        errors: list[int] = []
        other.start()
        other.join(20)
        assert errors == [errno.EAGAIN]
    path.read_bytes()
    os.waitpid(pid, 0)


def exit_code(pid: int, seconds: float = 60) -> int | None:
    """Return how a child ended; None if it did not in time, and was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def test_a_poller_is_told_what_a_reader_left(watch: Register, place: Path) -> None:
    """Pitfall: one that looked while another read slept on, whatever that left.

    It sleeps without a limit: poll() looks again when its time is over, and would find it then.
    """
    path = fill(place / "tree/file", 10)
    one = watch(place / "tree")
    for _ in range(20):
        drop_caches()
        one.read()
        with blocking(one) as fd:
            readers = []
            for call in (READ, POLL):
                pid = os.fork()
                if not pid:
                    try:
                        if call == READ:
                            os.read(fd, abi.ITEM.size)
                            os._exit(0)
                        poll = select.poll()
                        poll.register(fd, select.POLLIN)
                        os._exit(not poll.poll())
                    finally:
                        os._exit(2)
                readers.append(pid)
                wait_until_asleep(pid)
            path.read_bytes()
            ends = [exit_code(pid) for pid in readers]
        assert ends == [0, 0]


def test_signal_ends_a_blocking_read(watch: Register, place: Path) -> None:
    """EINTR, without an item lost."""
    one = watch(place / "tree")
    with blocking(one) as fd:
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGALRM, lambda *_: os._exit(7))
            # Again and again: the first may come before the call that it is to end.
            signal.setitimer(signal.ITIMER_REAL, 1, 1)
            os.read(fd, 4096)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_read_sizes(watch: Register, place: Path) -> None:
    """Pitfall: a buffer smaller than an item blocked for ever instead of EINVAL."""
    path = fill(place / "tree/file", 5)
    one = watch(place / "tree")
    fd = one.task.fileno()
    with blocking(one):
        assert read_errno(fd, abi.ITEM.size - 1) == errno.EINVAL
        assert read_errno(fd, 0) == errno.EINVAL
    assert len(os.read(fd, 2 * abi.ITEM.size + 31)) == 2 * abi.ITEM.size
    assert one.news(path) == dict.fromkeys([2, 3, 4], State.ADDED)
    assert read_errno(fd) == errno.EAGAIN


def test_fault_loses_no_item(
    watch: Register, place: Path, compile_c: Callable[[str], Path]
) -> None:
    """Pitfall: an item was lost when copy_to_user failed."""
    path = fill(place / "tree/file", 3)
    one = watch(place / "tree")
    program = compile_c(
        "#include <unistd.h>\n#include <errno.h>\n"
        "int main(int argc, char **argv) { char *nowhere = (char *)(argc * 16L);\n"
        "return read(0, nowhere, 4096) == -1 && errno == EFAULT ? 0 : 1; }"
    )
    subprocess.run([program], stdin=one.task.fileno(), check=True)
    assert one.task.wait(0)
    assert one.news(path) == dict.fromkeys(range(3), State.ADDED)


def test_poll_leaks_nothing(watch: Register, place: Path) -> None:
    """Pitfall: every poll() leaked a task reference, and close() hung for ever after."""
    one = watch(place / "tree")
    for _ in range(1000):
        one.task.wait(0)
    start = time.monotonic()
    one.task.close()
    assert time.monotonic() - start < 60
    assert counter("tasks") == 0


def test_no_free_descriptor(device: Device, place: Path) -> None:
    """Pitfall: double free when no descriptor is free (EMFILE). Nothing is left behind."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(device.fileno()))
        request = abi.InitArgs(size=4360, regmask=abi.Page.EXISTS, name=b"x", path=b"/mnt/duet")
        with pytest.raises(OSError, match="Too many open files"):
            fcntl.ioctl(device.fileno(), abi.IOC_INIT, request)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert device.tasks() == []
    assert counter("tasks") == 0


def test_killed_process_takes_its_task_along(device: Device, place: Path) -> None:
    """SIGKILL closes the descriptor, and with it everything of the task goes."""
    fill(place / "tree/file", 100)
    pid = os.fork()
    if not pid:
        with device.register(place / "tree", STATES):
            signal.pause()
    assert eventually(lambda: counter("tasks") == 1 and counter("nodes") > 0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert eventually(lambda: counter("tasks") == counter("nodes") == counter("files") == 0)


def test_descriptor_lives_in_whoever_holds_it(watch: Register, place: Path) -> None:
    """A forked child's descriptor keeps the task after the parent closed its own."""
    path = fill(place / "tree/file", 2)
    one = watch(place / "tree")
    copy = os.dup(one.task.fileno())
    one.task.close()
    assert counter("tasks") == 1
    assert len(os.read(copy, 4096)) == 2 * abi.ITEM.size
    path.unlink()
    assert len(os.read(copy, 4096)) == 2 * abi.ITEM.size
    os.close(copy)
    assert counter("tasks") == 0


def test_module_in_use_cannot_be_removed(watch: Register, place: Path, device: Device) -> None:
    """Pitfall: no owner on the file operations: rmmod freed the code of open descriptors."""
    one = watch(place / "tree")
    device.close()
    assert subprocess.run(["rmmod", "duet"], capture_output=True, check=False).returncode != 0
    assert one.read() == []
    one.task.close()


def test_start_and_stop_in_a_loop_under_load(device: Device, place: Path) -> None:
    """Pitfall: a failed start or stop left the status stuck; races must leave nothing behind."""
    pid = os.fork()
    if not pid:
        while True:
            fill(place / "tree/file", 20)
            (place / "tree/file").rename(place / "out/file")
            (place / "out/file").unlink()
    try:
        for i in range(15):
            tasks = [device.register(place / "tree", mask) for mask in (STATES, EVENTS)]
            tasks[0].read()
            if i % 2:
                tasks.pop().close()
            device.stop()
            assert not device.is_on()
            device.start(2 + i)
            for task in tasks:
                task.close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextlib.contextmanager
def file_system(place: Path, name: str) -> Iterator[Path]:
    """Make and mount an ext4 file system of its own; a test may unmount it itself."""
    image, mounted = place / f"{name}.image", place / name
    with image.open("wb") as file:
        file.truncate(32 << 20)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    subprocess.run(["modprobe", "loop"], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    (mounted / "tree").mkdir()
    try:
        yield mounted
    finally:
        if mounted.is_mount():
            subprocess.run(["umount", mounted], check=True)


def test_unmount_is_not_blocked_and_is_told(device: Device, place: Path) -> None:
    """Pitfall: the registered path pinned its mount for ever."""
    with file_system(place, "one") as mounted:
        path = fill(mounted / "tree/file", 3)
        watch = Watch(device.register(mounted / "tree", STATES))
        file = identity(path)
        assert len(watch.news(path)) == 3
        subprocess.run(["umount", mounted], check=True)
        assert watch.task.wait(120)
        assert watch.task.read() != []
        with pytest.raises(TaskGoneError):
            watch.task.read()
        with pytest.raises(DuetError):
            watch.task.path_of(file, max_age=0)
        # Really gone: its device is free.
        assert eventually(
            lambda: "one.image" not in subprocess.check_output(["losetup", "-a"], text=True)
        )
        watch.task.close()


def test_same_inode_numbers_on_two_file_systems(device: Device, place: Path) -> None:
    """Pitfall: no superblock in the key: files of two file systems got mixed up."""
    with file_system(place, "one") as one, file_system(place, "two") as two:
        watches = [Watch(device.register(where / "tree", EVENTS)) for where in (one, two)]
        paths = [fill(one / "tree/file", 2), fill(two / "tree/file", 5)]
        assert paths[0].stat().st_ino == paths[1].stat().st_ino
        written = State.ADDED | State.DIRTY | State.FLUSHED
        for watch, path, pages in zip(watches, paths, (2, 5), strict=True):
            assert watch.news(path) == dict.fromkeys(range(pages), written)
            assert watch.task.path_of(identity(path), max_age=0) == str(path)
        watches[0].task.mark_done(identity(paths[0]))
        for path in paths:
            path.write_bytes(b"x")
        assert watches[0].read() == []
        assert watches[1].read() != []
        for watch in watches:
            watch.task.close()


def test_close_while_it_registers(device: Device, place: Path) -> None:
    """Pitfall: the descriptor was visible before the task was set up, and close() freed it."""
    for i in range(40):
        fill(place / f"tree/f{i}", 1)
    pid = os.fork()
    if not pid:
        try:
            _race_close(device, place / "tree")
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert counter("tasks") == 0


def _race_close(device: Device, tree: Path) -> None:
    """Register often, while a thread closes the descriptor that each registration gets."""
    spare = os.dup(device.fileno())
    os.close(spare)
    closing = True

    def close_again_and_again() -> None:
        while closing:
            with contextlib.suppress(OSError):
                os.close(spare)

    thread = threading.Thread(target=close_again_and_again)
    thread.start()
    request = abi.InitArgs(size=4360, regmask=0x60, name=b"x", path=os.fsencode(tree))
    for _ in range(60):
        fd = fcntl.ioctl(device.fileno(), abi.IOC_INIT, request)
        with contextlib.suppress(OSError):
            os.close(fd)
    closing = False
    thread.join()


def test_removed_directory(watch: Register, place: Path) -> None:
    """A watched directory that is removed leaves a task without files, not a broken one."""
    (place / "tree/dir").mkdir()
    path = fill(place / "tree/dir/file", 2)
    one = watch(place / "tree/dir")
    assert len(one.news(path)) == 2
    path.unlink()
    (place / "tree/dir").rmdir()
    assert {item.state for item in one.task.read()} == {State.REMOVED}
    with pytest.raises(TaskGoneError):
        one.task.read()
    (place / "tree/dir").mkdir()
    fill(place / "tree/dir/file", 2)
    with pytest.raises(TaskGoneError):
        one.task.read()


def traced(name: str) -> bool:
    """Return whether ftrace calls somebody at the entry of a function of the kernel."""
    return f"{name} (" in (TRACEFS / "enabled_functions").read_text()


def test_hooks_are_attached_only_while_wanted(device: Device, place: Path) -> None:
    """Probes are attached while a task wants their event, and ftrace agrees.

    What nobody wants any more is detached after some seconds, and at once when Duet goes off.
    """

    def attached() -> set[str]:
        hooks = (SYSFS / "hooks").iterdir()
        return {hook.name for hook in hooks if hook.read_text() == "alive\n"}

    assert attached() == set()
    assert not traced("folio_clear_dirty_for_io")
    needs = {
        Mask.ADDED: {"added"},
        Mask.REMOVED: {"added", "removed"},
        Mask.DIRTY: {"added", "dirtied"},
        Mask.FLUSHED: {"added", "flushed"},
        Mask.EXISTS: {"added", "removed"},
        Mask.MODIFIED: {"added", "removed", "dirtied", "flushed"},
    }
    for mask, hooks in needs.items():
        with device.register(place / "tree", mask):
            assert attached() == hooks | {"evicted"}, mask
            assert traced("folio_clear_dirty_for_io") == ("flushed" in hooks)
        device.stop()
        assert attached() == set(), mask
        device.start()
    with device.register(place / "tree", Mask.ADDED):
        device.register(place / "tree", STATES).close()
        assert eventually(lambda: attached() == {"added", "evicted"})
        assert not traced("folio_clear_dirty_for_io")
    assert eventually(lambda: attached() == set())
    assert not traced("clear_inode")


#: What patches the kernel's text for the driver, and can be traced; ftrace itself cannot.
PATCHES = (
    "tracepoint_probe_register", "tracepoint_probe_unregister",
    "static_key_enable", "static_key_disable",
)  # fmt: skip


@contextlib.contextmanager
def counted(functions: tuple[str, ...]) -> Iterator[Callable[[], dict[str, int]]]:
    """Yield a function that says how often the kernel's functions were called so far."""
    switch = TRACEFS / "events/duet_patches/enable"

    def calls() -> dict[str, int]:
        rows = [line.split() for line in (TRACEFS / "kprobe_profile").read_text().splitlines()]
        hits = {name: int(number) for name, number, _ in rows}
        return {function: hits[f"patches_{function}"] for function in functions}

    for function in functions:
        probe(f"p:duet_patches/patches_{function} {function}")
    switch.write_text("1")
    try:
        yield calls
    finally:
        switch.write_text("0")
        for function in functions:
            probe(f"-:duet_patches/patches_{function}")


@pytest.mark.parametrize("busy", [False, True])
def test_a_loop_of_tasks_patches_nothing(device: Device, place: Path, busy: bool) -> None:
    """Pitfall: each task of a user that came and went had the kernel's text patched.

    Also when a task watches another file system, so that there are two and one in turn.
    """
    with contextlib.ExitStack() as stack:
        if busy:
            disk = Disk(place)
            stack.callback(disk.unmount)
            stack.enter_context(device.register(disk.tree, Mask.ADDED))
        with counted(PATCHES) as calls:
            device.register(place / "tree", STATES).close()
            first = calls()
            assert first["tracepoint_probe_register"] >= 2, "it counts"
            for _ in range(20):
                device.register(place / "tree", STATES).close()
                assert traced("clear_inode")
            assert calls() == first
