# SPDX-License-Identifier: MIT
"""sysfs: one value per file, stores that are checked, and who is woken when they change."""

import contextlib
import errno
import os
import select
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import EVENTS, STATES, SYSFS, counter, eventually
from raw import errno_of
from truth import Watch, drop_caches, fill, identity

from pyduet import Device, FileId, InUseError, Mask

#: Where the lab keeps it.
MODULE = Path("/run/duet-lab/duet.ko")
FTRACE = Path("/proc/sys/kernel/ftrace_enabled")
NETLINK_KOBJECT_UEVENT = 15
WRITABLE = {"enabled", "max_tasks", "limit_bytes", "task_limit_bytes", "user_share_percent"}
READABLE = {"tasks", "files", "nodes", "longest_chain", "bytes"}
#: What would tell others what is going on: root's to read.
PRIVATE = {"files", "nodes", "longest_chain", "bytes", "events", "drops"}
PRIVATE_OF_TASK = {
    "name",
    "path",
    "pending_bytes",
    "files",
    "drops",
    "done",
    "delivered",
    "overflows",
}
GROUPS = {
    "events": {"added", "removed", "dirtied", "flushed"},
    "drops": {"limit", "task_limit", "nomem"},
    "hooks": {"added", "removed", "dirtied", "flushed", "evicted"},
}
TASK = {
    "name", "path", "mask", "pid", "uid", "pending_bytes", "limit_bytes", "files", "done",
    "delivered", "overflows", "drops",
}  # fmt: skip


def show(name: str) -> str:
    """Return what a file of the device says, which is one line."""
    text = (SYSFS / name).read_text()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return text[:-1]


def store(name: str, value: object) -> None:
    """Write to a file of the device with one system call."""
    fd = os.open(SYSFS / name, os.O_WRONLY)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)


def attributes(directory: Path) -> set[str]:
    """Return the names of a directory's plain files, but for those that every device has."""
    names = {path.name for path in directory.iterdir() if path.is_file() and not path.is_symlink()}
    return names - {"dev", "uevent"}


# What there is


def test_every_attribute_is_there(device: Device, place: Path) -> None:
    """Each with one line, and numbers where they count; the names of before are gone."""
    with device.register(place / "tree", STATES) as task:
        assert attributes(SYSFS) == WRITABLE | READABLE
        for name in WRITABLE | READABLE:
            assert int(show(name)) >= 0
            mode = stat.S_IMODE((SYSFS / name).stat().st_mode)
            readable = 0o400 if name in PRIVATE else 0o444
            assert mode == (0o644 if name in WRITABLE else readable), name
        for group, names in GROUPS.items():
            assert attributes(SYSFS / group) == names
            for name in names:
                mode = stat.S_IMODE((SYSFS / group / name).stat().st_mode)
                assert mode == (0o400 if group in PRIVATE else 0o444)
                text = show(f"{group}/{name}")
                assert text == "alive" if group == "hooks" else int(text) >= 0
        assert attributes(SYSFS / f"task{task.id}") == TASK
        for name in TASK:
            mode = stat.S_IMODE((SYSFS / f"task{task.id}" / name).stat().st_mode)
            assert mode == (0o400 if name in PRIVATE_OF_TASK else 0o444), name
            show(f"task{task.id}/{name}")


def test_what_is_read_only_cannot_be_stored_to(device: Device) -> None:
    """Not even by root."""
    for name in READABLE | {f"{group}/{name}" for group in GROUPS for name in GROUPS[group]}:
        before = show(name)
        assert errno_of(lambda name=name: store(name, "1")) in (errno.EIO, errno.EACCES), name
        assert show(name) == before


# On and off


def test_enabled(device: Device) -> None:
    """1 and 0 switch on and off; what is so already succeeds; the rest is refused."""
    for value in ("1", "1", "0\n", "0", "1\n"):
        store("enabled", value)
        assert show("enabled") == value.strip()
        assert device.is_on() == (value.strip() == "1")
        assert device.info().on == device.is_on()
    for wrong in ("\n", "2x", "maybe", "-1"):
        assert errno_of(lambda wrong=wrong: store("enabled", wrong)) == errno.EINVAL, wrong
        assert device.is_on()


def test_enabling_what_is_on_ends_no_task(device: Device, place: Path) -> None:
    """Storing 1 again is no restart."""
    path = fill(place / "tree/file", 2)
    watch = Watch(device.register(place / "tree", STATES))
    store("enabled", 1)
    assert len(watch.news(path)) == 2
    store("enabled", 0)
    assert errno_of(watch.task.read) == errno.ESHUTDOWN
    watch.task.close()


def test_max_tasks(device: Device, place: Path) -> None:
    """Pitfall: no task limit, ids from 1, u16 limit cut to u8. 1 to 255, and only while off."""
    assert show("max_tasks") == "8"
    assert errno_of(lambda: store("max_tasks", 4)) == errno.EBUSY
    assert show("max_tasks") == "8"
    store("enabled", 0)
    for wrong in ("0", "256", "257", "65535", "65536", "4294967297", "-1", "x", "3x"):
        assert errno_of(lambda wrong=wrong: store("max_tasks", wrong)) in (
            errno.EINVAL,
            errno.ERANGE,
        ), wrong
        assert show("max_tasks") == "8"
    for value in ("255", "1", "2\n"):
        store("max_tasks", value)
        assert show("max_tasks") == value.strip()
    assert device.info().max_tasks == 2
    store("enabled", 1)
    assert device.info().max_tasks == 2
    tasks = [device.register(place / "tree", STATES) for _ in range(2)]
    assert errno_of(lambda: device.register(place / "tree", STATES)) == errno.EUSERS
    for task in tasks:
        task.close()


def test_the_limit_outgrows_no_table(device: Device, restored: dict[str, int]) -> None:
    """Pitfall: raised while Duet is on, the limit let chains of any length form.

    Up to eight times what the tables were made for; with Duet off, to anything.
    """
    device.stop()
    store("limit_bytes", 1 << 20)
    device.start()
    store("limit_bytes", 8 << 20)
    for wrong in ((8 << 20) + 8, 1 << 40, 0):
        assert errno_of(lambda wrong=wrong: store("limit_bytes", wrong)) == errno.ERANGE, wrong
        assert show("limit_bytes") == str(8 << 20)
    store("limit_bytes", 2 << 20)
    store("limit_bytes", 8 << 20)
    with pytest.raises(InUseError, match="switch it off"):
        device.set_limits(limit=1 << 30)
    device.stop()
    store("limit_bytes", 1 << 40)
    store("limit_bytes", restored["limit_bytes"])


# Counters


def test_counters_follow(device: Device, place: Path) -> None:
    """Files, nodes and bytes come with pages and go with the task."""
    assert [show(name) for name in ("files", "nodes", "bytes", "tasks")] == ["0"] * 4
    watch = Watch(device.register(place / "tree", STATES))
    for i in range(10):
        fill(place / f"tree/{i}", 100, sync=False)
    watch.read()
    assert counter("tasks") == 1
    assert counter("files") == 10
    assert counter("nodes") == 20
    info = device.info()
    assert counter("bytes") >= 10 * (info.file_bytes + info.node_bytes)
    assert 1 <= counter("longest_chain") <= 8
    watch.task.close()
    assert eventually(lambda: counter("bytes") == 0)


def test_events_are_counted_by_kind(device: Device, place: Path) -> None:
    """Each kind in its own file, only upwards."""
    before = {kind: counter(f"events/{kind}") for kind in GROUPS["events"]}
    with device.register(place / "tree", EVENTS):
        path = fill(place / "tree/file", 1)
        written = {kind: counter(f"events/{kind}") - before[kind] for kind in before}
        assert written["added"] == 1
        assert written["dirtied"] >= 1
        assert written["flushed"] >= 1
        assert written["removed"] == 0
        path.unlink()
        assert counter("events/removed") - before["removed"] == 1
    after = {kind: counter(f"events/{kind}") for kind in before}
    fill(place / "tree/file", 5)
    drop_caches()
    assert {kind: counter(f"events/{kind}") for kind in before} == after, "off is off"


# Hooks


def test_hooks_prove_that_they_live(device: Device, place: Path) -> None:
    """Attached, each proved itself alive; then they are detached."""
    with device.register(place / "tree", Mask.ADDED):
        assert show("hooks/added") == "alive"
        assert show("hooks/flushed") == "detached"
    with device.register(place / "tree", STATES):
        assert {show(f"hooks/{name}") for name in GROUPS["hooks"]} == {"alive"}
    detached = dict.fromkeys(GROUPS["hooks"], "detached")
    assert eventually(lambda: {name: show(f"hooks/{name}") for name in detached} == detached)


@contextlib.contextmanager
def ftrace_off() -> Iterator[None]:
    """Switch function tracing off for everybody, as an administrator can."""
    FTRACE.write_text("0\n")
    try:
        yield
    finally:
        FTRACE.write_text("1\n")


def test_a_silent_hook_is_refused(device: Device, place: Path) -> None:
    """Pitfall: a DIRTY task was accepted and stayed silent for ever.

    With function tracing off, neither write-back nor the end of an inode can be
    told, and no task does without the latter. So each is refused, and sysfs
    says which hook it was.
    """
    with ftrace_off():
        for mask, hook in (
            (Mask.FLUSHED, "flushed"),
            (STATES, "flushed"),
            (EVENTS, "flushed"),
            (Mask.ADDED, "evicted"),
            (Mask.EXISTS, "evicted"),
        ):
            assert errno_of(lambda mask=mask: device.register(place / "tree", mask)) == (
                errno.EOPNOTSUPP
            ), mask
            assert show(f"hooks/{hook}") == "silent"
            assert device.info().hooks_alive == Mask(0)
            assert device.tasks() == []
    watch = Watch(device.register(place / "tree", Mask.FLUSHED))
    assert show("hooks/flushed") == show("hooks/evicted") == "alive"
    path = fill(place / "tree/file", 2)
    assert len(watch.news(path)) == 2
    watch.task.close()


def test_a_hook_in_use_cannot_be_silenced(device: Device, place: Path) -> None:
    """Function tracing cannot be switched off under a task."""
    watch = Watch(device.register(place / "tree", Mask.FLUSHED))
    assert errno_of(lambda: FTRACE.write_text("0\n")) == errno.EBUSY
    path = fill(place / "tree/file", 2)
    assert len(watch.news(path)) == 2
    watch.task.close()
    assert eventually(lambda: show("hooks/flushed") == "detached")
    with ftrace_off():
        pass


# Tasks


def test_a_directory_for_each_task(device: Device, place: Path) -> None:
    """It comes with the task and goes with it, and says what the dump says."""
    paths = [fill(place / f"tree/{i}", 2) for i in range(4)]
    watch = Watch(device.register(place / "tree", STATES, name="shown", limit=123456))
    directory = f"task{watch.task.id}"
    assert int(show(f"{directory}/pending_bytes")) > 0
    watch.read()
    watch.task.mark_done(identity(paths[0]))
    [task] = device.tasks()
    told = {name: show(f"{directory}/{name}") for name in TASK}
    assert told == {
        "name": "shown",
        "path": str(place / "tree"),
        "mask": "0x30",
        "pid": str(os.getpid()),
        "uid": "0",
        "pending_bytes": "0",
        "limit_bytes": "123456",
        "files": str(task.files),
        "done": "1",
        "delivered": "8",
        "overflows": "0",
        "drops": "0",
    }
    assert (task.pid, task.uid, task.limit, task.done, task.delivered) == (
        os.getpid(), 0, 123456, 1, 8,
    )  # fmt: skip
    watch.task.close()
    assert not (SYSFS / directory).exists()


def test_directories_come_and_go(device: Device, place: Path) -> None:
    """One for each, none left when they end, in whatever way."""
    device.stop()
    device.start(20)
    tasks = [device.register(place / "tree", STATES) for _ in range(20)]

    def directories() -> set[str]:
        return {path.name for path in SYSFS.glob("task[0-9]*")}

    assert directories() == {f"task{task.id}" for task in tasks}
    for task in tasks[:10]:
        task.close()
    assert directories() == {f"task{task.id}" for task in tasks[10:]}
    device.stop()
    assert eventually(lambda: directories() == set())
    for task in tasks[10:]:
        task.close()
    device.start()
    with device.register(place / "tree", STATES) as task:
        assert directories() == {f"task{task.id}"}


def test_a_file_of_a_task_that_ended(device: Device, place: Path) -> None:
    """Whoever has a file of its directory open is told ENODEV, and holds nothing up."""
    task = device.register(place / "tree", STATES)
    fds = [os.open(SYSFS / f"task{task.id}" / name, os.O_RDONLY) for name in sorted(TASK)]
    task.close()
    for fd in fds:
        assert errno_of(lambda fd=fd: os.pread(fd, 100, 0)) == errno.ENODEV
        os.close(fd)


def test_reading_while_tasks_come_and_go(device: Device, place: Path) -> None:
    """Pitfall: reference dropped, then used on the freed task. No reader of sysfs sees a ghost."""
    going = True
    wrong: list[str] = []

    def look() -> None:
        while going:
            for directory in SYSFS.glob("task[0-9]*"):
                with contextlib.suppress(OSError):
                    for name in ("name", "path", "mask", "pending_bytes", "files"):
                        text = (directory / name).read_text()
                        if name == "name" and text != "churn\n":
                            wrong.append(text)
            device.info()

    thread = threading.Thread(target=look)
    thread.start()
    for i in range(40):
        tasks = [device.register(place / "tree", STATES, name="churn") for _ in range(3)]
        fill(place / f"tree/{i}", 2, sync=False)
        if i % 5 == 0:
            device.stop()
            device.start()
        for task in tasks:
            task.close()
    going = False
    thread.join(120)
    assert wrong == []
    assert list(SYSFS.glob("task[0-9]*")) == []


def test_marks_and_deliveries_are_counted(device: Device, place: Path) -> None:
    """`done` and `delivered` follow what the task does."""
    with device.register(place / "tree", STATES) as task:
        directory = f"task{task.id}"
        task.mark_many(FileId(2**40 + i, 1) for i in range(50))
        assert show(f"{directory}/done") == "50"
        task.unmark_many(FileId(2**40 + i, 1) for i in range(20))
        assert show(f"{directory}/done") == "30"
        fill(place / "tree/file", 7, sync=False)
        assert show(f"{directory}/delivered") == "0"
        task.read()
        assert show(f"{directory}/delivered") == "7"


# Who is woken


def wakes(name: str, action: Callable[[], object]) -> bool:
    """Return whether an action wakes who polls a file of the device."""
    fd = os.open(SYSFS / name, os.O_RDONLY)
    try:
        os.read(fd, 100)
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        assert poller.poll(0) == []
        action()
        return poller.poll(120_000) != []
    finally:
        os.close(fd)


def test_pollers_are_woken(device: Device, place: Path) -> None:
    """Of `enabled` by on and off, of `tasks` by tasks that come and go."""
    assert wakes("enabled", device.stop)
    assert wakes("enabled", device.start)
    assert wakes("enabled", lambda: store("enabled", 0))
    assert wakes("enabled", lambda: store("enabled", 1))
    tasks = []
    assert wakes("tasks", lambda: tasks.append(device.register(place / "tree", STATES)))
    assert wakes("tasks", lambda: tasks.pop().close())
    tasks.append(device.register(place / "tree", STATES))
    assert wakes("tasks", device.stop)
    tasks.pop().close()


class Uevents:
    """The kernel's device events, as udev hears them."""

    def __init__(self) -> None:
        """Begin to listen."""
        self.socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT
        )
        self.socket.bind((0, 1))

    def next(self, seconds: float = 120) -> dict[str, str]:
        """Return the next event of the device, nothing when there is none in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                _, *fields = self.socket.recv(65536).decode().split("\0")
                event = dict(field.split("=", 1) for field in fields if field)
                if event["DEVPATH"] == "/devices/virtual/misc/duet":
                    return event
        return {}


def test_uevents(device: Device) -> None:
    """On and off and a changed setting are told to udev, with what is so then."""
    uevents = Uevents()
    default = device.info()
    for action, enabled in (
        (device.stop, "0"),
        (lambda: store("max_tasks", 7), "0"),
        (device.start, "1"),
        (lambda: store("limit_bytes", default.limit // 2), "1"),
        (lambda: store("task_limit_bytes", default.task_limit // 2), "1"),
        (lambda: store("limit_bytes", 0), "1"),
        (lambda: store("task_limit_bytes", 0), "1"),
        (lambda: store("enabled", 0), "0"),
        (lambda: store("enabled", 1), "1"),
    ):
        action()
        event = uevents.next()
        assert event.get("ACTION") == "change"
        assert event["DUET_ENABLED"] == enabled
        assert (event["SUBSYSTEM"], event["DEVNAME"]) == ("misc", "duet")
    store("enabled", 1)
    assert errno_of(lambda: store("max_tasks", 9)) == errno.EBUSY
    assert uevents.next(1) == {}, "nothing was changed, so nothing is told"
    uevents.socket.close()


def test_the_module_can_be_loaded_again(device: Device, place: Path) -> None:
    """Pitfall: ERR_PTR unchecked, cdev kfree'd. Removed while on, then loaded: all as at first."""
    device.register(place / "tree", STATES).close()
    device.close()
    for name in os.listdir("/proc/self/fd"):  # a test that failed may have left some open
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") in ("anon_inode:[duet]", "/dev/duet"):
                os.close(int(name))
    assert (SYSFS / "enabled").read_text() == "1\n"
    subprocess.run(["rmmod", "duet"], check=True)
    assert not SYSFS.exists()
    subprocess.run(["insmod", MODULE], check=True)
    with Device() as again:
        assert not again.is_on()
        assert again.info().events == (0, 0, 0, 0)
        again.start()
        with again.register(place / "tree", STATES) as task:
            fill(place / "tree/file", 2, sync=False)
            assert sum(item.pages for item in task.read()) == 2
