# SPDX-License-Identifier: MIT
"""Who may do what: an ordinary user in the device's group, and root without CAP_SYS_ADMIN."""

import contextlib
import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import EVENTS, STATES, SYSFS, counter, eventually
from counted import calls_of
from ordinary import (
    ANNA,
    BERT,
    CLONE_NEWUSER,
    GROUP,
    as_user,
    become,
    device_for_group,
    drop_admin,
    drop_everything,
    in_child,
    register_as,
    unshare,
    without_admin,
)
from raw import TASK_CALLS, Requests, errno_of, ioctl
from truth import PAGE, Watch, drop_caches, fill, identity, mincore

from pyduet import Device, DuetError, FileId, Mask, State, Task
from pyduet._driver import abi

Ask = Callable[[Callable[[], object]], object]

#: sysfs attributes of the device that can be stored to, with something else than what they hold.
STORES = {
    "enabled": "0", "max_tasks": "5", "limit_bytes": "999999999", "task_limit_bytes": "99999",
    "user_share_percent": "50",
}  # fmt: skip


@pytest.fixture(autouse=True)
def group() -> Iterator[None]:
    """Let the group open the device."""
    with device_for_group():
        yield


def as_anna(function: Callable[[], object]) -> object:
    """Ask as a user who is in the device's group."""
    return as_user(ANNA, function)


@dataclass(frozen=True)
class Kind:
    """A file as it is to be made, and whether the kernel answers mincore of it to ANNA.

    With `ways`, it is in directories of root's with these modes, the outermost first.
    """

    uid: int
    gid: int
    mode: int
    told: bool
    ways: tuple[int, ...] = ()


KINDS = {
    "own": Kind(ANNA, ANNA, 0o600, True),
    "own, not writable": Kind(ANNA, ANNA, 0o400, True),
    "own, of no use": Kind(ANNA, ANNA, 0o000, True),
    "group may write": Kind(0, GROUP, 0o664, True),
    "all may write": Kind(0, 0, 0o666, True),
    "all may write, none read": Kind(0, 0, 0o222, True),
    "all may read": Kind(0, 0, 0o644, False),
    "group may read": Kind(0, GROUP, 0o640, False),
    "root's": Kind(0, 0, 0o600, False),
    "another user's": Kind(BERT, BERT, 0o644, False),
    "group may not, all may write": Kind(BERT, GROUP, 0o606, False),
    "all may write, nobody may enter": Kind(0, 0, 0o666, False, (0o700,)),
    "own, nobody may enter": Kind(ANNA, ANNA, 0o600, False, (0o700,)),
    "own, nobody may enter, all may list": Kind(ANNA, ANNA, 0o600, False, (0o744,)),
    "own, nobody may enter further up": Kind(ANNA, ANNA, 0o600, False, (0o755, 0o700, 0o755)),
    "own, all may enter, nobody list": Kind(ANNA, ANNA, 0o600, True, (0o711, 0o711)),
}


def make(tree: Path) -> dict[str, Path]:
    """Make a file of 3 cached pages of each kind."""
    paths = {}
    for name, kind in KINDS.items():
        directory = tree
        for number, mode in enumerate(kind.ways):
            directory /= f"{number} {name}"
            directory.mkdir()
            directory.chmod(mode)
        paths[name] = fill(directory / name, 3)
        os.chown(paths[name], kind.uid, kind.gid)
        os.chmod(paths[name], kind.mode)
    return paths


def told_of(watch: Watch, paths: dict[str, Path]) -> set[str]:
    """Read, and return of which files something came; of others nothing may come."""
    names = {identity(path): name for name, path in paths.items()}
    return {names[item.file] for item in watch.read()}


def allowed() -> set[str]:
    """Return the kinds that ANNA is to be told of."""
    return {name for name, kind in KINDS.items() if kind.told}


# Opening, switching, storing


def test_the_group_may_open_the_device(device: Device) -> None:
    """Pitfall: CAP_SYS_ADMIN for everything. The group is enough to open and to ask."""
    with pytest.raises(DuetError) as error:
        as_user(ANNA, Device, groups=())
    assert error.value.errno == errno.EACCES

    def ask() -> tuple[bool, int]:
        with Device() as own:
            return own.is_on(), own.info().max_tasks

    assert as_anna(ask) == (True, 8)


@pytest.mark.parametrize("ask", [as_anna, without_admin])
def test_what_takes_cap_sys_admin(device: Device, place: Path, ask: Ask) -> None:
    """START, STOP, the log of a task, the table and its nodes; nothing comes of trying."""

    def attempts() -> dict[str, int]:
        with Device() as own, own.register(place / "tree", STATES) as task:
            printing = [
                abi.StatusArgs(size=12, flags=flag, id=task.id)
                for flag in (abi.Status.PRINT_BMAP, abi.Status.PRINT_ITEM)
            ]
            return {
                "stop": errno_of(own.stop),
                "start": errno_of(own.start),
                "table": errno_of(own.table),
                "nodes": errno_of(lambda: list(own.nodes())),
                "print bmap": -ioctl(own.fileno(), abi.IOC_STATUS, printing[0]),
                "print item": -ioctl(own.fileno(), abi.IOC_STATUS, printing[1]),
                "table, over the task": -ioctl(task.fileno(), abi.IOC_TABLE, abi.Table()),
            }

    answers = ask(attempts)
    assert isinstance(answers, dict)
    assert set(answers.values()) == {errno.EPERM}, answers
    assert device.is_on()
    device.stop()
    assert ask(lambda: errno_of(Device().start)) == errno.EPERM
    assert not device.is_on()


@pytest.mark.parametrize("ask", [as_anna, without_admin])
@pytest.mark.parametrize("on", [True, False])
def test_stores_take_cap_sys_admin(device: Device, ask: Ask, on: bool) -> None:
    """The right to write to the file is not enough."""
    if not on:
        device.stop()
    values = {name: (SYSFS / name).read_text() for name in STORES}
    modes = {name: (SYSFS / name).stat().st_mode & 0o7777 for name in STORES}
    try:
        for name in STORES:
            (SYSFS / name).chmod(0o666)
        stores = {**STORES, "enabled": "0" if on else "1"}
        answers = ask(
            lambda: {
                name: errno_of(lambda name=name, value=value: store(name, value))
                for name, value in stores.items()
            }
        )
    finally:
        for name, mode in modes.items():
            (SYSFS / name).chmod(mode)
    assert answers == dict.fromkeys(STORES, errno.EPERM)
    assert {name: (SYSFS / name).read_text() for name in STORES} == values


def store(name: str, value: str) -> None:
    """Write to a sysfs file with one system call."""
    fd = os.open(SYSFS / name, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def test_files_in_sysfs_are_not_everybodys(device: Device, place: Path) -> None:
    """Nobody but root stores; name and path of a task are not for everybody to read."""
    for name in STORES:
        assert (SYSFS / name).stat().st_mode & 0o022 == 0
    with device.register(place / "tree", STATES) as task:
        directory = SYSFS / f"task{task.id}"
        for name in (
            "name", "path", "pending_bytes", "files", "drops", "done", "delivered", "overflows",
        ):  # fmt: skip
            assert as_anna(lambda name=name: errno_of((directory / name).read_text)) == errno.EACCES


def test_a_task_of_a_program_with_the_rights_of_another(device: Device, place: Path) -> None:
    """Pitfall: what a setuid program had registered answered to whoever had started that."""
    path = fill(place / "tree/file", 1)
    path.chmod(0o600)

    def start_it() -> None:
        os.setresuid(ANNA, 0, 0)

    task = register_as(0, place / "tree", STATES, prepare=start_it)
    uuid = abi.Uuid(*identity(path), task.id)

    def ask() -> tuple[int, int]:
        with Device() as own:
            args = abi.BmapArgs(size=ctypes.sizeof(abi.BmapArgs), flags=abi.Bmap.CHECK, uuid=uuid)
            return len(own.tasks()), ioctl(own.fileno(), abi.IOC_BMAP, args)

    assert as_anna(ask) == (0, -errno.EPERM)
    assert ask() == (1, 0)
    task.close()


def test_counters_are_not_everybodys(device: Device, place: Path) -> None:
    """They would tell what others do, and how many files there are that one may not know of."""
    make(place / "tree")
    root = Watch(device.register(place / "tree", EVENTS))
    anna = register_as(ANNA, place / "tree", EVENTS)

    def ask() -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        with Device() as own:
            info, tasks = own.info(), own.tasks()
        counters = (info.bytes, info.files, info.nodes, *info.events, *info.drops)
        return counters, [(task.pending, task.files, *task.drops) for task in tasks]

    counters, tasks = ask()
    assert min(counters[:3]) > 0
    assert len(tasks) == 2
    assert min(task[0] for task in tasks) > 0
    assert as_anna(ask) == ((0,) * 10, [(0,) * 5])
    # The task of who may know all is not that of who may not.
    assert without_admin(ask) == ((0,) * 10, [])
    for name in ("bytes", "files", "nodes", "longest_chain", "events/added", "drops/limit"):
        assert as_anna(lambda name=name: errno_of((SYSFS / name).read_text)) == errno.EACCES, name
    anna.close()
    root.task.close()


# Registering


@pytest.mark.parametrize("old_call", [False, True])
@pytest.mark.parametrize(
    ("tree", "directory", "wrong"),
    [
        (0o755, 0o755, 0),
        (0o711, 0o755, 0),
        (0o755, 0o711, errno.EACCES),
        (0o755, 0o744, errno.EACCES),
        (0o755, 0o700, errno.EACCES),
        (0o700, 0o755, errno.EACCES),
        (0o744, 0o755, errno.EACCES),
    ],
)
def test_registering_takes_read_and_search(
    device: Device, place: Path, tree: int, directory: int, wrong: int, old_call: bool
) -> None:
    """Of the directory; and search of those above it."""
    (place / "tree/dir").mkdir()
    (place / "tree/dir").chmod(directory)
    (place / "tree").chmod(tree)

    def register() -> int:
        with Device() as own:
            if old_call:
                path = os.fsencode(place / "tree/dir")
                request = abi.InitArgs(size=4360, regmask=Mask.EXISTS, name=b"x", path=path)
                return max(0, -ioctl(own.fileno(), abi.IOC_INIT, request))
            return errno_of(lambda: own.register(place / "tree/dir", Mask.EXISTS))

    assert as_anna(register) == wrong
    assert device.tasks() == []


def test_registering_over_a_descriptor_takes_the_same(device: Device, place: Path) -> None:
    """A directory descriptor that root opened and left open gives no right to watch."""
    (place / "tree").chmod(0o700)
    (place / "tree/dir").mkdir()
    fd = os.open(place / "tree", os.O_PATH)

    def register() -> list[int]:
        with Device() as own:
            return [
                errno_of(lambda path=path: own.register(path, STATES, dirfd=fd))
                for path in ("", ".", "dir")
            ]

    assert as_anna(register) == [errno.EACCES] * 3
    os.close(fd)


@pytest.mark.parametrize(
    ("mode", "wrong"), [(0o644, 0), (0o600, errno.EACCES), (0o622, errno.EACCES)]
)
def test_registering_a_file_takes_read(device: Device, place: Path, mode: int, wrong: int) -> None:
    """Of a single file; and who may not write it is not told of it all the same."""
    path = fill(place / "tree/file", 3)
    path.chmod(mode)

    def register() -> int:
        with Device() as own:
            return errno_of(lambda: own.register(path, STATES))

    assert as_anna(register) == wrong
    if not wrong:
        task = register_as(ANNA, path, STATES)
        fill(path, 2)
        assert task.read() == []
        assert not task.wait(0)
        task.close()


def test_a_larger_limit_takes_cap_sys_admin(device: Device, place: Path) -> None:
    """Up to the default anybody may choose."""
    default = device.info().task_limit

    def register() -> list[int]:
        with Device() as own:
            return [
                errno_of(lambda limit=limit: own.register(place / "tree", STATES, limit=limit))
                for limit in (0, default // 2, default, default + 1, 2**63)
            ]

    refused = [0, 0, 0, errno.EPERM, errno.EPERM]
    assert as_anna(register) == refused
    assert without_admin(register) == refused
    with device.register(place / "tree", STATES, limit=default + 1):
        assert device.tasks()[0].limit == default + 1


# What one user may take


def taken(place: Path, limits: tuple[int, ...]) -> list[int]:
    """Register a task with each limit, and return the limits that they got, or -errno."""
    with Device() as own, contextlib.ExitStack() as stack:

        def register(limit: int) -> int:
            try:
                task = stack.enter_context(own.register(place / "tree", STATES, limit=limit))
            except DuetError as error:
                return -(error.errno or 0)
            return int((SYSFS / f"task{task.id}/limit_bytes").read_text())

        return [register(limit) for limit in limits]


@pytest.mark.parametrize(("percent", "slots"), [(0, 2), (25, 2), (1, 1), (50, 4), (100, 8)])
def test_one_user_does_not_take_all_slots(
    device: Device, place: Path, share: Callable[[int], None], percent: int, slots: int
) -> None:
    """Pitfall: one member of the group could take every slot. A quarter, and others are served."""
    share(percent)
    tiny = (4096,) * 9
    answers = as_anna(lambda: taken(place, tiny))
    full = errno.EUSERS if slots == 8 else errno.EDQUOT
    assert answers == [4096] * slots + [-errno.EDQUOT] * (8 - slots) + [-full]
    assert as_anna(lambda: taken(place, (4096,))) == [4096], "what was closed is free again"
    if slots == 8:
        return
    tasks = [register_as(ANNA, place / "tree", STATES, limit=4096) for _ in range(slots)]
    assert as_anna(lambda: taken(place, (4096,))) == [-errno.EDQUOT]
    assert as_user(BERT, lambda: taken(place, (4096,))) == [4096]
    assert without_admin(lambda: taken(place, (4096,))) == [4096]
    left = 8 - slots
    assert taken(place, (0,) * (left + 1)) == [device.info().task_limit] * left + [-errno.EUSERS]
    for task in tasks:
        task.close()


def test_one_user_does_not_take_all_memory(
    device: Device, place: Path, share: Callable[[int], None]
) -> None:
    """The limits of his tasks are a quarter of that of all; who asks for none gets half of that."""
    device.stop()
    device.start(32)
    all_of_it = device.info().limit
    quarter = all_of_it * 25 // 100

    small = device.info().node_bytes + device.info().file_bytes
    halves = [quarter // 2, quarter // 4, quarter // 8]
    assert as_anna(lambda: taken(place, (0, 0, 0, small))) == [*halves, small]
    assert as_anna(lambda: taken(place, (quarter, 1, 0))) == [quarter] + [-errno.EDQUOT] * 2
    more = quarter // 2 + 1
    assert as_anna(lambda: taken(place, (more, more))) == [more, -errno.EDQUOT]
    with register_as(ANNA, place / "tree", STATES, limit=quarter):
        assert as_user(BERT, lambda: taken(place, (quarter,))) == [quarter]
        assert taken(place, (0, all_of_it)) == [device.info().task_limit, all_of_it]
    share(100)
    assert as_anna(lambda: taken(place, (0, 0, 0, 0))) == [device.info().task_limit] * 2 + [
        pytest.approx(quarter, rel=0.01),
        pytest.approx(quarter / 2, rel=0.01),
    ]


def test_a_share_is_a_percentage(device: Device, share: Callable[[int], None]) -> None:
    """0 is the default; more than all is refused, and so is what is no number."""
    share(100)
    assert (SYSFS / "user_share_percent").read_text() == "100\n"
    for wrong in ("101", "-1", "x", "\n"):
        assert errno_of(lambda wrong=wrong: store("user_share_percent", wrong))
        assert (SYSFS / "user_share_percent").read_text() == "100\n"
    share(0)
    assert (SYSFS / "user_share_percent").read_text() == "25\n"


# What is told


def test_the_expectations_are_what_mincore_says(place: Path) -> None:
    """To who may not know, mincore says of every page that it is cached."""
    paths = make(place / "tree")
    drop_caches()
    for name, path in paths.items():
        kind = KINDS[name]
        if errno_of(lambda path=path: as_anna(lambda: os.close(os.open(path, os.O_RDONLY)))):
            continue  # cannot be opened, so mincore cannot be asked
        lied = as_anna(lambda path=path: mincore(path)) != set()
        assert lied == (not kind.told), name


@pytest.mark.parametrize("mask", [STATES, EVENTS])
def test_of_which_files_is_told(device: Device, place: Path, mask: Mask) -> None:
    """Pitfall: CAP_SYS_ADMIN for everything and then no check per file.

    Of what is cached at registration, and of what happens afterwards.
    """
    paths = make(place / "tree")
    watch = Watch(register_as(ANNA, place / "tree", mask))
    assert told_of(watch, paths) == allowed()
    for path in paths.values():
        with path.open("ab") as file:
            file.write(b"x" * PAGE)
    assert told_of(watch, paths) == allowed()
    snapshot = Watch(register_as(ANNA, place / "tree", STATES, snapshot=True))
    assert told_of(snapshot, paths) == allowed()
    snapshot.task.close()
    late = {name: path.rename(path.with_name(name + "!")) for name, path in paths.items()}
    drop_caches()
    for path in late.values():
        path.read_bytes()
    assert told_of(watch, late) == allowed()
    watch.task.close()


def test_root_without_cap_sys_admin_is_told_what_root_may(device: Device, place: Path) -> None:
    """Root is "capable" of every file by its other capabilities, as mincore sees it."""
    paths = make(place / "tree")

    def told() -> set[str]:
        with Device() as own:
            return told_of(Watch(own.register(place / "tree", STATES)), paths)

    assert without_admin(told) == set(KINDS)


def test_root_in_a_user_namespace_is_nobody(device: Device, place: Path) -> None:
    """Capabilities in a user namespace count for nothing here; its user is still who it was."""
    paths = make(place / "tree")
    switch = Path("/proc/sys/kernel/unprivileged_userns_clone")
    if switch.exists() and switch.read_text() == "0\n":
        pytest.skip("this kernel lets no user make a user namespace")

    def attempts() -> list[int]:
        unshare(CLONE_NEWUSER)
        with Device() as own:
            return [errno_of(call) for call in (own.stop, own.start, own.table)]

    assert as_anna(attempts) == [errno.EPERM] * 3
    task = register_as(ANNA, place / "tree", STATES, prepare=lambda: unshare(CLONE_NEWUSER))
    assert told_of(Watch(task), paths) == allowed()
    task.close()


def test_nothing_is_readable_when_nothing_may_be_told(device: Device, place: Path) -> None:
    """poll() says so only until it was found out, and read() waits for what may be told."""
    task = register_as(ANNA, place / "tree", STATES)
    path = fill(place / "tree/file", 3)
    assert task.wait(0), "a read has to ask"
    assert task.read() == []
    assert not task.wait(0)
    os.set_blocking(task.fileno(), True)
    got: list[bytes] = []
    thread = threading.Thread(
        target=lambda: got.append(os.read(task.fileno(), abi.ITEM.size)), daemon=True
    )
    thread.start()
    path.unlink()
    own = place / "tree/own"
    own.touch()
    os.chown(own, ANNA, ANNA)
    fill(own, 1)
    thread.join(120)
    assert not thread.is_alive()
    assert [abi.Item.from_buffer_copy(data).uuid.ino for data in got] == [own.stat().st_ino]
    task.close()


def test_what_is_pending_is_not_to_be_seen_before_it_is_checked(
    device: Device, place: Path
) -> None:
    """Files that a task may not know of are found out when it reads, so the dump is root's."""
    paths = make(place / "tree")
    task = register_as(ANNA, place / "tree", STATES)
    names = {identity(path): name for name, path in paths.items()}
    assert as_anna(lambda: errno_of(lambda: list(task.pending()))) == errno.EPERM
    assert without_admin(lambda: errno_of(lambda: list(task.pending()))) == errno.EPERM
    assert {names[item.file] for item in task.pending()} >= allowed()
    assert told_of(Watch(task), paths) == allowed()
    task.close()


def test_of_which_files_a_path_is_told(device: Device, place: Path) -> None:
    """EACCES for what the task may not know of, one by one and in a batch."""
    paths = make(place / "tree")
    task = register_as(ANNA, place / "tree", STATES)
    files = {name: identity(path) for name, path in paths.items()}

    def ask() -> tuple[dict[str, int], dict[FileId, str], list[int]]:
        single = {
            name: errno_of(lambda file=file: task.path_of(file, max_age=0))
            for name, file in files.items()
        }
        results = []
        for file in files.values():
            with Device() as own:
                requests = Requests(own, task, file)
                fd, number, request = requests.make("paths")
                results.append(ioctl(fd, number, request) or requests.refs[0].result)
        return single, task.paths_of(files.values()), results

    wanted = {name: 0 if kind.told else errno.EACCES for name, kind in KINDS.items()}
    answer = as_anna(ask)
    assert isinstance(answer, tuple)
    single, batch, results = answer
    assert single == wanted
    assert batch == {files[name]: str(paths[name]) for name in allowed()}
    assert results == [-number for number in wanted.values()]
    task.close()


def test_no_path_of_a_file_that_is_outside(device: Device, place: Path) -> None:
    """Not even of the user's own."""
    path = fill(place / "out/file", 1)
    os.chown(path, ANNA, ANNA)
    task = register_as(ANNA, place / "tree", STATES)
    file = identity(path)
    assert as_anna(lambda: errno_of(lambda: task.path_of(file, max_age=0))) == errno.ENOENT
    assert as_anna(lambda: task.paths_of([file])) == {}
    task.close()


def test_a_file_that_is_given_away(device: Device, place: Path) -> None:
    """After chown and chmod it is asked again: nothing new comes of what is no longer one's own."""
    path = fill(place / "tree/file", 3)
    os.chown(path, ANNA, ANNA)
    watch = Watch(register_as(ANNA, place / "tree", EVENTS))
    assert len(watch.news(path)) == 3
    with path.open("ab") as file:
        file.write(b"x" * PAGE)
    assert set(watch.news(path)) == {3}
    os.chown(path, 0, 0)
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"x" * PAGE)
    assert watch.read() == []
    drop_caches()
    path.read_bytes()
    assert watch.read() == []
    file_id = identity(path)
    assert as_anna(lambda: errno_of(lambda: watch.task.path_of(file_id, max_age=0))) == errno.EACCES
    watch.task.close()


@pytest.mark.parametrize("mask", [STATES, EVENTS])
@pytest.mark.parametrize("how", ["chown", "chmod"])
def test_a_file_that_becomes_ones_own(device: Device, place: Path, how: str, mask: Mask) -> None:
    """After chown or chmod a file is told of that was not."""
    path = fill(place / "tree/file", 3)
    path.chmod(0o644)
    watch = Watch(register_as(ANNA, place / "tree", mask))
    assert watch.read() == []
    if how == "chown":
        os.chown(path, ANNA, ANNA)
    else:
        path.chmod(0o666)
    with path.open("ab") as file:
        file.write(b"x" * PAGE)
    assert watch.task.wait(120)
    news = watch.news(path)
    assert State.ADDED | State.DIRTY in news[3]
    if mask == STATES:
        assert watch.tally.cached(identity(path)) == {0, 1, 2, 3}
    watch.task.close()


def closed_tree(place: Path) -> tuple[Path, Path]:
    """Make a file that all may write, cached, in a directory that nobody may enter."""
    shut = place / "tree/shut"
    shut.mkdir()
    shut.chmod(0o700)
    path = fill(shut / "file", 3)
    path.chmod(0o666)
    return shut, path


def check_as_anna(task: Task, file: FileId) -> int:
    """Ask Duet whether the file is of no interest, with the task's descriptor."""
    uuid = abi.Uuid(*file, task.id)
    args = abi.BmapArgs(size=ctypes.sizeof(abi.BmapArgs), flags=abi.Bmap.CHECK, uuid=uuid)
    answer = as_anna(lambda: ioctl(task.fileno(), abi.IOC_BMAP, args))
    assert isinstance(answer, int)
    return answer


@pytest.mark.parametrize("mask", [STATES, EVENTS])
@pytest.mark.parametrize("how", ["chmod", "chmod above", "chown", "move the file", "move it all"])
def test_a_directory_that_is_opened(device: Device, place: Path, how: str, mask: Mask) -> None:
    """Of a file in it is told from then on, and what is cached, though no page of it changes."""
    shut, path = closed_tree(place)
    if how == "chmod above":
        (shut / "in").mkdir()
        path = path.rename(shut / "in/file")
    elif how == "move it all":
        shut.chmod(0o755)
        (place / "tree/closed").mkdir()
        (place / "tree/closed").chmod(0o700)
        shut = shut.rename(place / "tree/closed/shut")
        path = shut / "file"
    file = identity(path)
    watch = Watch(register_as(ANNA, place / "tree", mask))
    assert watch.read() == []
    assert check_as_anna(watch.task, file) == 1
    if how.startswith("chmod"):
        shut.chmod(0o711)
    elif how == "chown":
        os.chown(shut, ANNA, ANNA)
    elif how == "move the file":
        path = path.rename(place / "tree/file")
    else:
        path = shut.rename(place / "tree/open") / "file"
    assert watch.task.wait(120)
    assert set(watch.news(path)) == {0, 1, 2}
    assert check_as_anna(watch.task, file) == 0
    assert as_anna(lambda: watch.task.path_of(file, max_age=0)) == str(path)
    snapshot = Watch(register_as(ANNA, place / "tree", STATES, snapshot=True))
    assert set(snapshot.news(path)) == {0, 1, 2}
    snapshot.task.close()
    watch.task.close()


@pytest.mark.parametrize("how", ["chmod", "chmod the tree", "move the file", "move it all", "link"])
def test_a_directory_that_is_closed(device: Device, place: Path, how: str) -> None:
    """Nothing comes any more of a file in it, by any call."""
    shut, path = closed_tree(place)
    opened = place / "tree/open"
    opened.mkdir()
    path = path.rename(opened / "file")
    if how == "link":
        (shut / "file").hardlink_to(path)
    file = identity(path)
    watch = Watch(register_as(ANNA, place / "tree", EVENTS))
    assert len(watch.news(path)) == 3
    if how == "chmod":
        opened.chmod(0o700)
    elif how == "chmod the tree":
        (place / "tree").chmod(0o700)
    elif how == "move the file":
        path = path.rename(shut / "file")
    elif how == "move it all":
        path = opened.rename(shut / "open") / "file"
    else:
        path.unlink()
        path = shut / "file"
    with path.open("ab") as data:
        data.write(b"x" * PAGE)
    assert watch.read() == []
    assert check_as_anna(watch.task, file) == 1
    error = as_anna(lambda: errno_of(lambda: watch.task.path_of(file, max_age=0)))
    assert error == errno.EACCES
    (place / "tree").chmod(0o755)
    watch.task.close()


def test_a_file_with_a_way_that_is_open(device: Device, place: Path) -> None:
    """One of its names is enough, and that is the one whose path is told."""
    _, path = closed_tree(place)
    watch = Watch(register_as(ANNA, place / "tree", EVENTS))
    file = identity(path)
    assert watch.read() == []
    name = place / "tree/name"
    name.hardlink_to(path)
    assert set(watch.news(name)) == {0, 1, 2}
    assert as_anna(lambda: watch.task.path_of(file, max_age=0)) == str(name)
    with path.open("ab") as data:
        data.write(b"x" * PAGE)
    assert set(watch.news(path)) == {3}
    watch.task.close()


def test_a_file_whose_name_left_memory(device: Device, place: Path) -> None:
    """It is looked for in its directory; a file is not refused for want of a dentry."""
    (place / "tree/dir").mkdir()
    path = fill(place / "tree/dir/file", 3)
    os.chown(path, ANNA, ANNA)
    file = identity(path)
    watch = Watch(register_as(ANNA, place / "tree", EVENTS))
    assert len(watch.news(path)) == 3
    (place / "tree/dir").chmod(0o711)
    drop_caches()
    assert watch.news(file) == dict.fromkeys(range(3), State.REMOVED)
    path.read_bytes()
    assert set(watch.news(path)) == {0, 1, 2}
    watch.task.close()


def test_the_registering_credentials_count(device: Device, place: Path) -> None:
    """Whoever reads: a user is told what root registered, root what a user registered."""
    paths = make(place / "tree")
    names = {identity(path): name for name, path in paths.items()}
    with device.register(place / "tree", STATES) as task:
        read = as_anna(lambda: [item.file for item in task.read()])
        assert isinstance(read, list)
        assert {names[file] for file in read} == set(KINDS)

    def told() -> set[str]:
        task = Device().register(place / "tree", STATES)
        become(ANNA)
        return {names[item.file] for item in task.read()}

    assert in_child(told) == set(KINDS)
    watch = Watch(register_as(ANNA, place / "tree", STATES))
    assert told_of(watch, paths) == allowed()
    watch.task.close()


def test_who_drops_the_capability_later_is_still_told(device: Device, place: Path) -> None:
    """The registration counts, not the time of the read."""
    paths = make(place / "tree")

    def told() -> set[str]:
        watch = Watch(Device().register(place / "tree", STATES))
        drop_admin()
        return told_of(watch, paths)

    assert in_child(told) == set(KINDS)


# Other people's tasks


def call_over_device(name: str, task_id: int, file: FileId) -> int:
    """Make one of TASK_CALLS over /dev/duet, for a task by number; return its result."""
    with (
        Device() as own,
        Task(os.dup(0), task_id=task_id, name="", path="/", mask=STATES) as task,
    ):
        _, number, request = Requests(own, task, file).make(name)
        request.tid = task_id
        return ioctl(own.fileno(), number, request)


@pytest.mark.parametrize("name", TASK_CALLS)
def test_whose_tasks_can_be_acted_on(device: Device, place: Path, name: str) -> None:
    """Pitfall: the bitmap and path calls took any task number from anybody.

    By number, over the device: one's own process's, from any of its threads; with
    CAP_SYS_ADMIN anybody's. What is pending is root's to see, see above.
    """
    path = fill(place / "tree/file", 1)
    os.chown(path, ANNA, ANNA)
    file = identity(path)

    def own_task() -> tuple[int, int, int]:
        with Device() as own, own.register(place / "tree", STATES) as task:
            results = [call_over_device(name, task.id, file)]
            thread = threading.Thread(
                target=lambda: results.append(call_over_device(name, task.id, file))
            )
            thread.start()
            thread.join()
            results.append(in_child(lambda: call_over_device(name, task.id, file)))
            return results[0], results[1], results[2]

    fine = -errno.EPERM if name == "pending" else 0
    assert as_anna(own_task) == (fine, fine, -errno.EPERM)
    task = register_as(ANNA, place / "tree", STATES)
    assert as_anna(lambda: call_over_device(name, task.id, file)) == -errno.EPERM
    assert as_user(BERT, lambda: call_over_device(name, task.id, file)) == -errno.EPERM
    assert without_admin(lambda: call_over_device(name, task.id, file)) == -errno.EPERM
    # Whoever holds the descriptor may.
    fd, number, request = Requests(device, task, file).make(name)
    assert as_user(BERT, lambda: ioctl(fd, number, request)) == fine
    assert call_over_device(name, task.id, file) == 0
    assert as_anna(lambda: call_over_device(name, 77, file)) == -errno.ESRCH
    task.close()


@pytest.mark.parametrize("name", TASK_CALLS)
def test_a_process_that_has_become_less(device: Device, place: Path, name: str) -> None:
    """It is not the one that registered: by number it acts on no task that may do more."""
    path = fill(place / "tree/file", 1)
    path.chmod(0o600)
    file = identity(path)

    def become_anna() -> tuple[int, int]:
        task = Device().register(place / "tree", STATES)
        before = call_over_device(name, task.id, file)
        become(ANNA)
        return before, call_over_device(name, task.id, file)

    def give_rights_up() -> tuple[int, int]:
        drop_admin()
        task = Device().register(place / "tree", STATES)
        before = call_over_device(name, task.id, file)
        drop_everything()
        return before, call_over_device(name, task.id, file)

    assert in_child(become_anna) == (0, -errno.EPERM)
    fine = -errno.EPERM if name == "pending" else 0
    assert in_child(give_rights_up) == (fine, -errno.EPERM)


def test_no_right_is_asked_for_where_none_is_needed(device: Device, place: Path) -> None:
    """Pitfall: capable() has each "no" in the log of who listens to such, at any user's will."""
    times = 200

    def ask() -> None:
        become(ANNA)
        with Device() as mine:
            for _ in range(times):
                assert mine.info().on
                with mine.register(place / "tree", STATES) as task:
                    assert [one.id for one in mine.tasks()] == [task.id]
                    assert task.info().id == task.id

    with calls_of("capable") as calls, calls_of("ns_capable_noaudit") as questions:
        in_child(ask)
        assert questions() >= 4 * times, "it counts"
        assert calls() < times


def test_a_foreign_call_changes_nothing(device: Device, place: Path) -> None:
    """A refused SET marks no file, and a refused RESCAN brings no item."""
    path = fill(place / "tree/file", 1)
    file = identity(path)
    with device.register(place / "tree", EVENTS) as task:
        task.read()
        for name in TASK_CALLS:
            assert as_anna(lambda name=name: call_over_device(name, task.id, file)) == -errno.EPERM
        assert task.read() == []
        assert list(task.marked()) == []


class TaskList(ctypes.Structure):
    """A STATUS argument with room for every task there can be behind it."""

    _fields_ = [("head", abi.StatusArgs), ("tasks", abi.TaskAttrs * abi.MAX_TASKS)]


def listed() -> list[tuple[int, str, str]]:
    """Return the tasks as both lists tell them."""
    with Device() as own:
        tasks = [(task.id, task.name, task.path) for task in own.tasks()]
        published = TaskList()
        published.head = abi.StatusArgs(size=12, flags=abi.Status.PRINT_LIST, numtasks=255)
        assert ioctl(own.fileno(), abi.IOC_STATUS, published) == 0
        assert tasks == [
            (task.id, os.fsdecode(task.name), os.fsdecode(task.path))
            for task in published.tasks[: published.head.numtasks]
        ]
        return tasks


def test_whose_tasks_can_be_ended(device: Device, place: Path) -> None:
    """One's own process's, and anybody's for CAP_SYS_ADMIN."""
    with register_as(ANNA, place / "tree", STATES) as annas:

        def end() -> None:
            with Device() as own:
                own.end(annas.id)

        assert as_user(BERT, lambda: errno_of(end)) == errno.EPERM
        assert as_user(ANNA, lambda: errno_of(end)) == errno.EPERM  # it is another process of hers
        assert without_admin(lambda: errno_of(end)) == errno.EPERM
        assert [task.id for task in device.tasks()] == [annas.id]

        def end_ones_own() -> None:
            with Device() as own, own.register(place / "tree", Mask.EXISTS) as task:
                own.end(task.id)
                assert errno_of(task.read) == errno.ECANCELED

        with device_for_group():
            as_user(ANNA, end_ones_own)
        device.end(annas.id)
        assert device.tasks() == []


def test_whose_tasks_are_listed(device: Device, place: Path) -> None:
    """All to root; to others those of their own user that may know no more, in both lists."""
    root = device.register(place / "tree", STATES, name="root's")
    anna = register_as(ANNA, place / "tree", STATES, name="anna's")
    bert = register_as(BERT, place / "out", STATES, name="bert's")
    tree, out = str(place / "tree"), str(place / "out")
    rows = [(root.id, "root's", tree), (anna.id, "anna's", tree), (bert.id, "bert's", out)]
    assert listed() == rows
    assert as_anna(listed) == [rows[1]]
    assert as_user(BERT, listed) == [rows[2]]
    assert without_admin(listed) == []  # root's may know more than it does
    assert [task.uid for task in device.tasks()] == [0, ANNA, BERT]
    for task in (root, anna, bert):
        task.close()
    assert eventually(lambda: counter("tasks") == 0)
