# SPDX-License-Identifier: MIT
"""The calls from 0x10 on: how they are checked, and what INFO, REGISTER and the batches do."""

import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import resource
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import EVENTS, STATES, SYSFS, counter, eventually
from raw import CALLS, FIRST_SIZES, SIZES, TASK_CALLS, Requests, errno_of, ioctl, resized
from truth import PAGE, Watch, drop_caches, fill, identity

from pyduet import Device, DuetError, FileId, Mask, OffError, State, TooManyTasksError, cached_pages
from pyduet._driver import abi

Register = Callable[..., Watch]


@pytest.fixture
def requests(device: Device, place: Path) -> Iterator[Requests]:
    """Return valid arguments around a task on `tree`, which has a file of 3 pages."""
    path = fill(place / "tree/file", 3)
    with device.register(place / "tree", Mask.EXISTS) as task:
        yield Requests(device, task, identity(path))


def padded(request: ctypes.Structure, size: int) -> bytearray:
    """Return a structure with zeros behind it, and behind those a guard of 8 bytes."""
    return bytearray(bytes(request).ljust(size, b"\0") + b"\x5a" * 8)


def drain(fd: int) -> bytes:
    """Return all that is pending at a descriptor that does not block."""
    data = b""
    while True:
        try:
            data += os.read(fd, 1 << 20)
        except BlockingIOError:
            return data


@pytest.mark.parametrize("name", CALLS)
def test_a_caller_that_knows_more(requests: Requests, name: str) -> None:
    """A longer structure is fine while what the kernel does not know is zero."""
    fd, number, request = requests.make(name)
    size = ctypes.sizeof(request)
    before = requests.state()
    for more in (8, 256, 16376 - size):
        data = padded(request, size + more)
        for byte in (size, size + more - 1):
            data[byte] = 1
            assert ioctl(fd, resized(number, size + more), data) == -errno.E2BIG
            data[byte] = 0
    assert requests.state() == before
    data = padded(request, size + 8)
    result = ioctl(fd, resized(number, size + 8), data)
    assert result >= 0
    assert data[size:] == bytes(8) + b"\x5a" * 8
    if name == "register":
        os.close(result)


@pytest.mark.parametrize("name", CALLS)
def test_a_structure_that_is_too_short(requests: Requests, name: str) -> None:
    """Shorter than the first version is refused, and nothing is written to it."""
    fd, number, request = requests.make(name)
    before = requests.state()
    for size in (0, 4, FIRST_SIZES[name] - 8, FIRST_SIZES[name] - 1):
        data = padded(request, ctypes.sizeof(request))
        spoiled = bytes(data)
        assert ioctl(fd, resized(number, size), data) == -errno.EINVAL, size
        assert data == spoiled
    assert requests.state() == before


@pytest.mark.parametrize("name", FIRST_SIZES)
def test_a_caller_of_the_first_version(requests: Requests, name: str) -> None:
    """Pitfall: "the size in the first version" was today's, so growth refused every old caller."""
    fd, number, request = requests.make(name)
    size = FIRST_SIZES[name]
    data = bytearray(bytes(request)[:size]) + b"\x5a" * 8
    result = ioctl(fd, resized(number, size), data)
    assert result >= 0
    assert data[size:] == b"\x5a" * 8
    if name == "register":
        os.close(result)


@pytest.mark.parametrize("name", CALLS)
def test_unknown_flags(requests: Requests, name: str) -> None:
    """A flag that this version does not know is refused, and nothing is changed."""
    before = requests.state()
    for flag in (1 << 31, 1 << 16, 1 << 5):
        fd, number, request = requests.make(name)
        request.flags |= flag
        assert ioctl(fd, number, request) == -errno.EINVAL, hex(flag)
    assert requests.state() == before


@pytest.mark.parametrize("name", ["info", "register", "marks", "end", "table", *SIZES])
def test_reserved_fields(requests: Requests, name: str) -> None:
    """What is reserved has to be zero, each part of it."""
    before = requests.state()
    reserved = type(requests.make(name)[2]).reserved
    for byte in range(reserved.offset, reserved.offset + reserved.size, 4):
        fd, number, request = requests.make(name)
        data = bytearray(bytes(request))
        data[byte] = 1
        assert ioctl(fd, number, data) == -errno.EINVAL, byte
    assert requests.state() == before


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("info", [field[0] for field in abi.Info._fields_]),
        ("register", ["tid"]),
        ("table", [field[0] for field in abi.Table._fields_]),
        ("tasks", ["tid", "first", "end"]),
        ("nodes", ["tid"]),
        ("pending", ["first", "end"]),
        ("marked", ["first", "end"]),
    ],
)
def test_fields_that_a_call_does_not_take(requests: Requests, name: str, fields: list[str]) -> None:
    """Pitfall: what was ignored could never get a meaning. It is refused unless it is zero."""
    before = requests.state()
    for field in fields:
        layout = getattr(type(requests.make(name)[2]), field)
        for byte in (layout.offset, layout.offset + layout.size - 1):
            fd, number, request = requests.make(name)
            data = bytearray(bytes(request))
            data[byte] = 1
            assert ioctl(fd, number, data) == -errno.EINVAL, (field, byte)
    assert requests.state() == before


@pytest.mark.parametrize("name", SIZES)
def test_a_structure_that_is_passed_again(requests: Requests, name: str) -> None:
    """A dump goes on with the structure as it came back, a batch with the files as they did."""
    fd, number, request = requests.make(name)
    request.nr = 77
    assert ioctl(fd, number, request) == 0
    requests.refs[0].result = -5
    fd, number, request = requests.make("marks")
    assert ioctl(fd, number, request) == 0
    assert requests.refs[0].result == 0


def test_an_answer_that_cannot_be_copied(requests: Requests) -> None:
    """Pitfall: the caller's memory ends behind the identity: EFAULT, and a descriptor of nobody."""
    fd, number, request = requests.make("register")
    at = PAGE - abi.RegisterArgs.tid.offset - abi.RegisterArgs.tid.size
    with mmap.mmap(-1, 2 * PAGE) as memory:
        memory[at : at + ctypes.sizeof(request)] = bytes(request)
        view = ctypes.c_char.from_buffer(memory)
        address = ctypes.addressof(view)
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(address + PAGE), PAGE, mmap.PROT_READ) == 0
        before = len(os.listdir("/proc/self/fd"))
        result = libc.ioctl(fd, ctypes.c_ulong(number), ctypes.c_void_p(address + at))
        del view  # before its memory goes
        assert len(os.listdir("/proc/self/fd")) == before + (result >= 0)
        assert result >= 0
        os.close(result)


def test_unknown_numbers(requests: Requests) -> None:
    """Pitfall: EINVAL for unknown calls. Over the device and over a task it is ENOTTY."""
    for fd in (requests.device.fileno(), requests.task.fileno()):
        for nr in (0, 5, 0x0F, 0x15, 0x1F, 0x25, 0xFF):
            number = abi.IOC_INFO & ~0xFF | nr
            assert ioctl(fd, number, abi.Info()) == -errno.ENOTTY, hex(nr)
        other_magic = abi.IOC_INFO & ~0xFF00 | 0xDD00
        assert ioctl(fd, other_magic, abi.Info()) == -errno.ENOTTY


@pytest.mark.parametrize("name", CALLS)
def test_bad_addresses(requests: Requests, name: str) -> None:
    """Of the structure, and of whatever it points to: EFAULT, and nothing is left behind."""
    before = requests.state()
    fd, number, request = requests.make(name)
    assert ioctl(fd, number, 16) == -errno.EFAULT
    for field in ("path", "name", "files", "buf"):
        fd, number, request = requests.make(name)
        if hasattr(request, field) and name != "marked":
            for address in (0, 16, 1 << 63):
                if field == "name" and not address:
                    continue  # there is none, which is fine
                setattr(request, field, address)
                assert ioctl(fd, number, request) == -errno.EFAULT, (field, address)
    assert requests.state() == before


def test_an_answer_that_cannot_be_written(requests: Requests) -> None:
    """Pitfall: leaks on error paths. A task whose number cannot be told is no task."""
    before = requests.state()
    register = requests.register()
    with mmap.mmap(-1, PAGE) as view:
        address = ctypes.addressof(ctypes.c_char.from_buffer(view))
        ctypes.memmove(address, bytes(register), ctypes.sizeof(register))
        libc = ctypes.CDLL(None, use_errno=True)
        assert not libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(PAGE), mmap.PROT_READ)
        number = ctypes.c_ulong(abi.IOC_REGISTER)
        assert libc.ioctl(requests.device.fileno(), number, ctypes.c_void_p(address)) == -1
        assert ctypes.get_errno() == errno.EFAULT
        assert requests.state() == before


@pytest.mark.parametrize("name", TASK_CALLS)
def test_which_task_is_meant(requests: Requests, name: str) -> None:
    """By number over the device, 0 over its own descriptor; a number is never cut."""
    device, task = requests.device.fileno(), requests.task.fileno()
    own = requests.task.id
    for fd, tid, wanted in (
        (task, 0, 0),
        (task, own, 0),
        (device, own, 0),
        (device, 0, -errno.EINVAL),
        (device, 200, -errno.ESRCH),
        (device, 256, -errno.ESRCH),
        (device, 256 + own, -errno.ESRCH),
        (device, 2**32 - 256 + own, -errno.ESRCH),
    ):
        _, number, request = requests.make(name)
        request.tid = tid
        assert ioctl(fd, number, request) == wanted, (fd == task, tid)


def test_what_can_be_asked_when_off(device: Device, place: Path) -> None:
    """Off, INFO and the dump of tasks answer, a registration and a task's calls say so."""
    fill(place / "tree/file", 1)
    task = device.register(place / "tree", Mask.EXISTS)
    device.stop()
    for call in (
        lambda: device.register(place / "tree", Mask.EXISTS),
        task.rescan,
        lambda: list(task.pending()),
        lambda: list(task.marked()),
        lambda: task.are_done([FileId(2, 0)]),
        lambda: task.paths_of([FileId(2, 0)]),
    ):
        with pytest.raises(OffError):
            call()
    assert device.tasks() == []
    info = device.info()
    assert (info.on, info.tasks, info.nodes, info.files, info.bytes) == (False, 0, 0, 0, 0)
    task.close()


def test_info(device: Device, place: Path) -> None:
    """INFO says what sysfs says, over any descriptor."""
    files = [fill(place / f"tree/f{i}", 1 + i * 70) for i in range(4)]
    watch = Watch(device.register(place / "tree", STATES))
    watch.read()
    assert device.info().bytes > 0
    raw = abi.Info()
    assert ioctl(watch.task.fileno(), abi.IOC_INFO, raw) == 0
    info = device.info()
    assert raw.abi_version == info.abi_version == abi.ABI_VERSION
    assert (raw.flags, list(raw.reserved)) == (0, [0] * 8)
    for value, name in (
        (info.on, "enabled"), (info.max_tasks, "max_tasks"), (info.tasks, "tasks"),
        (info.limit, "limit_bytes"), (info.task_limit, "task_limit_bytes"),
        (info.bytes, "bytes"), (info.files, "files"), (info.nodes, "nodes"),
    ):  # fmt: skip
        assert value == counter(name), name
    assert info.files == len(files)
    assert info.nodes >= sum(-(-(1 + i * 70) // info.node_pages) for i in range(4))
    assert info.files * info.file_bytes <= info.bytes <= info.limit
    assert info.bytes >= info.files * info.file_bytes + (info.nodes - info.files) * info.node_bytes
    watch.task.close()


def test_what_there_is_is_told(requests: Requests) -> None:
    """INFO tells flags, masks and page size, so that nobody tries; what it tells is so."""
    info = abi.Info()
    assert ioctl(requests.device.fileno(), abi.IOC_INFO, info) == 0
    assert 1 << info.page_shift == PAGE
    assert info.features == abi.Feature.TABLE
    assert ioctl(requests.device.fileno(), abi.IOC_TABLE, abi.Table()) == 0
    for bit in range(32):
        # One that it knows may go with no other mask or flag.
        answer = ioctl(requests.device.fileno(), *register_of(requests, flags=1 << bit))
        assert (answer != -errno.EINVAL) == bool(info.register_flags >> bit & 1), bit
        answer = ioctl(requests.device.fileno(), *register_of(requests, mask=1 << bit))
        assert (answer != -errno.EINVAL) == bool(info.masks >> bit & 1), bit
    told = requests.device.info()
    assert told.page_size == PAGE
    assert told.register_flags == tuple(str(flag.name).lower() for flag in abi.Register)
    assert told.masks == sum(Mask)


def register_of(
    requests: Requests, *, mask: int = Mask.EXISTS, flags: int = 0
) -> tuple[int, abi.RegisterArgs]:
    """Return a registration that fails at its path, if the driver knows what it asks for."""
    request = requests.register(mask, flags)
    request.path = 16
    return abi.IOC_REGISTER, request


def test_node_sizes_follow_the_number_of_tasks(device: Device) -> None:
    """Nodes are as large as the tasks need that there can be, and INFO says so."""
    sizes = []
    for tasks in (1, 8, 255):
        device.stop()
        device.start(tasks)
        info = device.info()
        assert info.max_tasks == tasks
        sizes.append((info.node_bytes, info.file_bytes))
    for fewer, more in itertools.pairwise(sizes):
        assert fewer[0] < more[0]
        assert fewer[1] < more[1]


def test_info_says_which_hooks_live(device: Device, place: Path) -> None:
    """What is found is known at once, what is alive while somebody wants it."""
    assert device.info().hooks_found == EVENTS
    assert device.info().hooks_alive == Mask(0)
    with device.register(place / "tree", Mask.DIRTY):
        assert Mask.DIRTY in device.info().hooks_alive
        assert Mask.FLUSHED not in device.info().hooks_alive
    with device.register(place / "tree", STATES):
        assert device.info().hooks_alive == EVENTS
    assert eventually(lambda: device.info().hooks_alive == Mask(0))


def test_event_counters(device: Device, place: Path) -> None:
    """Every kind is counted, of watched files, and not of others."""
    with device.register(place / "tree", EVENTS):
        before = device.info().events
        for i in range(30):
            fill(place / f"out/{i}", 1)
        assert device.info().events == before
        for i in range(30):
            fill(place / f"tree/{i}", 1)
        for i in range(30):
            (place / f"tree/{i}").unlink()
        after = device.info().events
        assert after.added - before.added == 30
        assert after.removed - before.removed == 30
        assert after.dirtied - before.dirtied >= 30
        assert after.flushed - before.flushed >= 30
        for kind, count in after._asdict().items():
            assert int((SYSFS / "events" / kind).read_text()) == count


def test_register_flags_of_the_descriptor(requests: Requests) -> None:
    """Pitfall: a descriptor that programs inherit unasked. Both flags do what they say."""
    for flags in (
        abi.Register(0),
        abi.Register.INHERIT,
        abi.Register.NONBLOCK,
        abi.Register.INHERIT | abi.Register.NONBLOCK,
    ):
        request = requests.register(flags=flags)
        fd = ioctl(requests.device.fileno(), abi.IOC_REGISTER, request)
        assert fd > 0
        assert bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC) == (
            abi.Register.INHERIT not in flags
        )
        assert os.get_blocking(fd) == (abi.Register.NONBLOCK not in flags)
        item = abi.Item.from_buffer_copy(os.read(fd, abi.ITEM.size))
        assert item.uuid.tid == request.tid
        os.close(fd)


def test_the_size_of_items_is_asked_for(requests: Requests) -> None:
    """0 and 32 are the published item; another is refused until there is one; all are told."""
    size = requests.device.info().item_size
    assert size == abi.ITEM.size == 32
    before = requests.state()
    for wrong in (1, 16, 31, 33, 40, 64, 1 << 31, 2**32 - 1):
        request = requests.register()
        request.item_size = wrong
        assert ioctl(requests.device.fileno(), abi.IOC_REGISTER, request) == -errno.EINVAL, wrong
    assert requests.state() == before
    for asked in (0, size):
        request = requests.register(flags=abi.Register.NONBLOCK)
        request.item_size = asked
        fd = ioctl(requests.device.fileno(), abi.IOC_REGISTER, request)
        assert len(drain(fd)) == 3 * size
        assert [task.item_size for task in requests.device.tasks()] == [size] * 2
        assert f"duet-item-size:\t{size}\n" in Path(f"/proc/self/fdinfo/{fd}").read_text()
        os.close(fd)


@pytest.mark.parametrize("mask", [0, 0x40, 0x41, 0x80, 0x1_0001, 0x21, 0x22, 0x14, 0x18])
def test_register_masks(requests: Requests, mask: int) -> None:
    """Pitfall: NULL dereference on MODIFIED|DIRTY. DUET_FD_NONBLOCK is no part of this mask."""
    before = requests.state()
    request = requests.register(mask=mask)
    assert ioctl(requests.device.fileno(), abi.IOC_REGISTER, request) == -errno.EINVAL
    assert requests.state() == before


def test_register_names(device: Device, place: Path) -> None:
    """Pitfall: unterminated name and path trusted."""
    for length in (255, 256, 5000):
        with pytest.raises(DuetError) as error:
            device.register(place / "tree", Mask.EXISTS, name="n" * length)
        assert error.value.errno == errno.ENAMETOOLONG
    for length in (4096, 5000):
        with pytest.raises(DuetError) as error:
            device.register("/" * length, Mask.EXISTS)
        assert error.value.errno == errno.ENAMETOOLONG
    assert device.tasks() == []
    with device.register(place / "tree", Mask.EXISTS, name="é" * 127):
        assert [task.name for task in device.tasks()] == ["é" * 127]


def test_register_without_a_name(requests: Requests) -> None:
    """No address of a name is no error: the name is empty."""
    request = requests.register()
    request.name = 0
    fd = ioctl(requests.device.fileno(), abi.IOC_REGISTER, request)
    assert fd > 0
    assert [task.name for task in requests.device.tasks()] == [requests.task.name, ""]
    assert "duet-name:\t\n" in Path(f"/proc/self/fdinfo/{fd}").read_text()
    os.close(fd)


def test_register_relative_to_a_directory(device: Device, place: Path) -> None:
    """A relative path is relative to dirfd, or to the working directory, as in openat."""
    path = fill(place / "tree/file", 2)
    told = dict.fromkeys(range(2), State.ADDED)
    fd = os.open(place, os.O_PATH)
    tree = os.open(place / "tree", os.O_RDONLY)
    before = Path.cwd()
    os.chdir(place)
    try:
        for relative, dirfd in (("tree", fd), ("", tree), (".", tree), ("./tree", None)):
            watch = Watch(device.register(relative, STATES, dirfd=dirfd))
            assert watch.news(path) == told, relative
            assert [task.path for task in device.tasks()] == [str(place / "tree")]
            assert watch.task.path_of(identity(path), max_age=0) == str(path)
            watch.task.close()
        for relative, dirfd, wrong in (
            ("nothing", fd, errno.ENOENT),
            ("tree", 1000, errno.EBADF),
            ("tree", -1, errno.EBADF),
            ("", 1000, errno.EBADF),
            ("", -2, errno.EBADF),
            ("x", tree, errno.ENOENT),
            ("file/x", tree, errno.ENOTDIR),
        ):
            with pytest.raises(DuetError) as error:
                device.register(relative, STATES, dirfd=dirfd)
            assert error.value.errno == wrong, relative
        # An absolute path does not care.
        device.register(place / "tree", STATES, dirfd=1000).close()
    finally:
        os.chdir(before)
        os.close(fd)
        os.close(tree)
    assert device.tasks() == []


@pytest.mark.parametrize("by", ["path", "dirfd", "link"])
def test_register_a_single_file(device: Device, place: Path, by: str) -> None:
    """Of one regular file nothing is told but what is of this file."""
    path, other = fill(place / "tree/file", 3), fill(place / "tree/other", 1)
    (place / "link").symlink_to(path)
    if by == "dirfd":
        fd = os.open(path, os.O_RDONLY)
        watch = Watch(device.register("", STATES, dirfd=fd))
        os.close(fd)
    else:
        watch = Watch(device.register({"path": path, "link": place / "link"}[by], STATES))
    assert watch.news(path) == dict.fromkeys(range(3), State.ADDED)
    file = identity(path)
    fill(other, 2)
    fill(place / "tree/new", 2)
    assert watch.read() == []
    with path.open("ab") as writer:
        writer.write(b"x" * PAGE)
    assert watch.news(path) == {3: State.ADDED | State.DIRTY}
    assert watch.task.path_of(file, max_age=0) == str(path)
    assert watch.task.paths_of([file, identity(other)]) == {file: str(path)}
    assert [task.path for task in device.tasks()] == [str(path)]
    watch.task.mark_done(file)
    path.write_bytes(b"")
    assert watch.read() == []
    watch.task.close()


def test_a_single_file_with_several_names(device: Device, place: Path) -> None:
    """A file is watched, not a name: by every name, also after a rename."""
    path = fill(place / "tree/file", 1)
    os.link(path, place / "out/hard")
    drop_caches()
    watch = Watch(device.register(path, STATES))
    (place / "out/hard").read_bytes()
    assert watch.news(path) == {0: State.ADDED}
    path.rename(place / "tree/moved")
    assert watch.read() == []
    drop_caches()
    assert watch.news(place / "tree/moved") == {0: State.REMOVED}
    (place / "tree/moved").read_bytes()
    assert watch.news(place / "tree/moved") == {0: State.ADDED}
    watch.task.close()


def test_what_is_neither_directory_nor_file(device: Device, place: Path) -> None:
    """Pipes and sockets have no pages; devices are no files of this file system."""
    os.mkfifo(place / "tree/pipe")
    os.mknod(place / "tree/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    for name in ("pipe", "null"):
        wrong = errno_of(lambda name=name: device.register(place / "tree" / name, STATES))
        assert wrong in (errno.EINVAL, errno.ENOTDIR, errno.EOPNOTSUPP), errno.errorcode[wrong]
    assert device.tasks() == []


@pytest.mark.parametrize("mask", [STATES, EVENTS])
def test_without_a_scan(device: Device, place: Path, mask: Mask) -> None:
    """With NO_SCAN a task is told what happens from now on, and not what is cached."""
    path = fill(place / "tree/file", 3)
    with device.register(place / "tree", mask) as scanning:
        assert scanning.read() != []
    watch = Watch(device.register(place / "tree", mask, no_scan=True))
    assert not watch.task.wait(0)
    assert watch.read() == []
    with path.open("ab") as file:
        file.write(b"x" * PAGE)
    assert watch.news(path) == {3: State.ADDED | State.DIRTY}
    assert [task.no_scan for task in device.tasks()] == [True]
    file = identity(path)
    path.unlink()
    gone = {page: state & State.REMOVED for page, state in watch.news(file).items()}
    assert gone == dict.fromkeys(range(4), State.REMOVED), "it began with what was so"
    watch.task.close()


def test_runs_of_pages(device: Device, place: Path) -> None:
    """With RANGES an item says of how many pages, without it says nothing and means one."""
    path = place / "tree/file"
    with path.open("wb") as file:
        file.write(b"x" * 100 * PAGE)
        file.seek(101 * PAGE)
        file.write(b"x" * 199 * PAGE)
    os.sync()
    pages = sorted(cached_pages(path))
    assert len(pages) >= 299
    requests = Requests(device, device.register(place / "out", STATES), FileId(1, 0))
    requests.path = ctypes.create_string_buffer(os.fsencode(place / "tree"))
    told: dict[int, list[tuple[int, int]]] = {}
    for flags in (0, abi.Register.RANGES):
        request = requests.register(flags=flags | abi.Register.NONBLOCK)
        fd = ioctl(device.fileno(), abi.IOC_REGISTER, request)
        told[flags] = [(x[3], x[5]) for x in abi.ITEM.iter_unpack(drain(fd))]
        os.close(fd)
    assert told[0] == [(page, 0) for page in pages]
    runs = told[abi.Register.RANGES]
    assert [page for first, nr in runs for page in range(first, first + nr)] == pages
    assert len(runs) <= 300 // device.info().node_pages + 3
    requests.task.close()


def test_no_task_more_than_there_can_be(device: Device, place: Path) -> None:
    """Pitfall: no task limit."""
    device.stop()
    device.start(2)
    tasks = [device.register(place / "tree", Mask.EXISTS) for _ in range(2)]
    with pytest.raises(TooManyTasksError):
        device.register(place / "tree", Mask.EXISTS)
    tasks.pop().close()
    device.register(place / "tree", Mask.EXISTS).close()
    tasks.pop().close()


def test_register_without_a_free_descriptor(device: Device, place: Path) -> None:
    """Pitfall: double free when no descriptor is free, EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        while not errno_of(lambda: taken.append(os.dup(device.fileno()))):
            pass
        assert errno_of(lambda: device.register(place / "tree", STATES)) == errno.EMFILE
        assert errno_of(lambda: device.register(place / "tree", STATES)) == errno.EMFILE
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert device.tasks() == []
    device.register(place / "tree", STATES).close()


def test_marks_in_a_batch(device: Device, place: Path) -> None:
    """A batch does to each file what the single call does, thousands at a time."""
    files = []
    with device.register(place / "tree", STATES) as task:
        for i in range(40):
            files.append(identity(fill(place / f"tree/{i}", 1, sync=False)))
        # Files that there are not can be marked all the same: marks outlive inodes.
        strangers = [FileId(2**40 + i, 5) for i in range(3000)]
        assert task.are_done(files) == [False] * 40
        task.mark_many(files[::2] + strangers)
        assert [task.is_done(file) for file in files] == [i % 2 == 0 for i in range(40)]
        assert task.are_done(files) == [i % 2 == 0 for i in range(40)]
        assert counter(f"task{task.id}/done") == 20 + 3000
        assert {item.file for item in task.read()} == set(files[1::2])
        task.unmark_many(strangers)
        task.unmark_many(files[::2])
        assert task.are_done(files) == [False] * 40
        assert counter(f"task{task.id}/done") == 0
        assert {item.file for item in task.read()} == set(files[::2])


def test_flags_of_a_batch_of_marks(requests: Requests) -> None:
    """Exactly one of SET, RESET and CHECK."""
    before = requests.state()
    for flags in (0, 3, 5, 6, 7, 8):
        fd, number, request = requests.make("marks")
        request.flags = flags
        assert ioctl(fd, number, request) == -errno.EINVAL, flags
    assert requests.state() == before
    fd, number, request = requests.make("marks")
    assert ioctl(fd, number, request) == 0
    assert request.nr == 1
    assert requests.state() != before


def test_an_empty_batch(requests: Requests) -> None:
    """No file is no error, and neither address is looked at."""
    for name in ("marks", "paths"):
        fd, number, request = requests.make(name)
        request.nr = request.files = 0
        assert ioctl(fd, number, request) == 0
        assert request.nr == 0


def test_a_batch_that_runs_into_bad_memory(requests: Requests) -> None:
    """Files before the end of the memory may be worked off; then nr says how many were."""
    libc = ctypes.CDLL(None)
    with mmap.mmap(-1, 2 * PAGE) as view:
        end = ctypes.addressof(ctypes.c_char.from_buffer(view)) + PAGE
        assert not libc.mprotect(ctypes.c_void_p(end), ctypes.c_size_t(PAGE), 0)
        address = end - 2 * ctypes.sizeof(abi.FileRef)
        refs = (abi.FileRef * 2).from_address(address)
        refs[0].ino, refs[1].ino = 2**41, 2**41 + 1
        fd, number, request = requests.make("marks")
        request.nr, request.files = 5, address
        result = ioctl(fd, number, request)
        assert result == -errno.EFAULT or (result == 0 and request.nr == 2)
        assert {file.ino for file in requests.task.marked()} <= {2**41, 2**41 + 1}


def test_paths_in_a_batch(device: Device, place: Path) -> None:
    """A batch says of each file what the single call says."""
    (place / "tree/sub").mkdir()
    paths = [fill(place / f"tree/sub/é {i}", 1, sync=False) for i in range(300)]
    gone = fill(place / "tree/gone", 1)
    outside = fill(place / "out/file", 1)
    with device.register(place / "tree", STATES) as task:
        named = {identity(path): str(path) for path in paths}
        lost = [identity(path) for path in (gone, outside)]
        lost.append(FileId(lost[0].ino, lost[0].generation ^ 1))
        gone.unlink()
        assert task.paths_of([*lost, *named]) == named
        (place / "tree/sub").rename(place / "tree/other")
        again = task.paths_of(named)
        assert again == {file: path.replace("/sub/", "/other/") for file, path in named.items()}
        for file in list(named)[:3]:
            assert task.path_of(file, max_age=0) == again[file]
        for file in lost:
            assert errno_of(lambda file=file: task.path_of(file, max_age=0)) == errno.ENOENT


def test_results_of_a_batch_of_paths(requests: Requests, place: Path) -> None:
    """Offsets in the buffer, each path with its NUL; a full buffer ends the batch early."""
    others = [fill(place / f"tree/{i}", 1) for i in range(3)]
    files = [identity(path) for path in (place / "tree/file", others[0], others[1])]
    refs = (abi.FileRef * 4)(*(abi.FileRef(ino=ino, gen=gen) for ino, gen in files))
    refs[3].ino = 2**40
    names = [os.fsencode(path) for path in (place / "tree/file", others[0], others[1])]
    whole = b"".join(name + b"\0" for name in names)
    for room, fit in (
        (len(whole), 4),
        (len(whole) + 100, 4),
        (len(whole) - 1, 2),
        (len(names[0]) + 1, 1),
    ):
        request = abi.Paths(
            nr=4,
            len=room,
            files=ctypes.addressof(refs),
            buf=ctypes.addressof(requests.buffer),
        )
        ctypes.memset(requests.buffer, 0x5A, len(requests.buffer))
        assert ioctl(requests.task.fileno(), abi.IOC_PATHS, request) == 0
        assert request.nr == fit, room
        told = min(fit, 3)
        used = b"".join(name + b"\0" for name in names[:told])
        assert request.len == len(used)
        assert requests.buffer.raw[: len(used)] == used
        assert set(requests.buffer.raw[room:]) == {0x5A}, "wrote behind its end"
        for i in range(told):
            assert used[refs[i].result :].startswith(names[i] + b"\0")
        if fit == 4:
            assert refs[3].result == -errno.ENOENT


def test_a_buffer_without_room_for_one_path(requests: Requests) -> None:
    """It is told, so that nobody asks for ever."""
    fd, number, request = requests.make("paths")
    for room in (0, 3, len(requests.task.path) + len("/file")):
        request.len = room
        ctypes.memset(requests.buffer, 0x5A, len(requests.buffer))
        assert ioctl(fd, number, request) == -errno.ERANGE, room
        assert set(requests.buffer.raw) == {0x5A}
    request.len = len(requests.task.path) + len("/file") + 1
    assert ioctl(fd, number, request) == 0
    assert request.nr == 1


def test_calls_from_many_threads(device: Device, place: Path) -> None:
    """Pitfall: one path buffer shared by concurrent callers."""
    paths = [fill(place / f"tree/{'x' * (1 + i * 3)}", 1, sync=False) for i in range(40)]
    with device.register(place / "tree", STATES) as task:
        named = {identity(path): str(path) for path in paths}
        wrong: list[object] = []

        def ask(files: list[FileId]) -> None:
            for _ in range(10):
                found = task.paths_of(files)
                if found != {file: named[file] for file in files}:
                    wrong.append(found)
                task.mark_many(files)
                if not all(task.are_done(files)):
                    wrong.append(files)
                task.unmark_many(files)

        files = list(named)
        threads = [threading.Thread(target=ask, args=(files[i::4],)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert wrong == []


PROGRAM_32 = r"""
static int call(int number, long a, long b, long c)
{
    int result;

    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static struct duet_info info;
static struct duet_register reg;
static struct duet_item items[8];
static struct duet_file_ref ref;
static struct duet_marks marks;
static struct duet_paths paths;
static struct duet_dump dump;
static struct duet_ioctl_status_args status;
static char buffer[8192];

static void leave(int code) { call(1, code, 0, 0); }

static int run(void)
{
    int device = call(5, (long)"/dev/duet", 2, 0), task;

    if (call(54, device, DUET_IOC_INFO, (long)&info) || info.abi_version != DUET_ABI_VERSION ||
        !info.on || !info.limit)
        return 1;
    status.size = sizeof(status);
    status.flags = DUET_STATUS_REPORT;
    if (call(54, device, DUET_IOC_STATUS, (long)&status) != 1)
        return 2;
    reg.flags = DUET_REGISTER_RANGES;
    reg.mask = DUET_PAGE_EXISTS;
    reg.dirfd = -100;
    reg.path = (unsigned long)TREE;
    reg.name = (unsigned long)"narrow";
    task = call(54, device, DUET_IOC_REGISTER, (long)&reg);
    if (task <= 0 || !reg.tid)
        return 3;
    if (call(3, task, (long)items, sizeof(items)) != sizeof(items[0]) ||
        items[0].nr != 3 || items[0].state != DUET_PAGE_ADDED || items[0].uuid.tid != reg.tid)
        return 4;
    ref.ino = items[0].uuid.ino;
    ref.gen = items[0].uuid.gen;
    paths.nr = 1;
    paths.len = sizeof(buffer);
    paths.files = (unsigned long)&ref;
    paths.buf = (unsigned long)buffer;
    if (call(54, task, DUET_IOC_PATHS, (long)&paths) || paths.nr != 1 || ref.result)
        return 5;
    if (call(4, 1, (long)buffer, paths.len) != paths.len)
        return 6;
    marks.flags = DUET_BMAP_SET;
    marks.nr = 1;
    marks.files = (unsigned long)&ref;
    if (call(54, task, DUET_IOC_MARKS, (long)&marks))
        return 7;
    dump.len = sizeof(buffer);
    dump.size = sizeof(ref);
    dump.buf = (unsigned long)buffer;
    if (call(54, task, DUET_IOC_DUMP_MARKS, (long)&dump) || dump.nr != 1 ||
        ((struct duet_file_ref *)buffer)->ino != ref.ino)
        return 8;
    return 0;
}

void _start(void) { leave(run()); }
"""


def test_a_32_bit_program(device: Device, place: Path, tmp_path: Path) -> None:
    """Pitfall: unsigned long and implicit padding in the ABI, no compat_ioctl."""
    path = fill(place / "tree/file", 3)
    header = Path(__file__).parents[2] / "driver/uapi/duet.h"
    machine = subprocess.check_output(["cc", "-print-multiarch"], text=True).strip()
    program = tmp_path / "narrow"
    source = f'#define TREE "{place / "tree"}"\n#include "{header}"\n{PROGRAM_32}'
    built = subprocess.run(
        ["cc", "-m32", "-O1", "-Wall", "-Werror", "-ffreestanding", "-fno-stack-protector",
         "-fno-pic", "-no-pie", "-static", "-nostdlib", f"-I/usr/include/{machine}",
         "-x", "c", "-", "-o", program],
        input=source, text=True, capture_output=True, check=False,
    )  # fmt: skip
    if built.returncode and "m32" in built.stderr:
        pytest.skip("this compiler knows no -m32")
    assert not built.returncode, built.stderr
    done = subprocess.run([program], capture_output=True, check=False)
    assert done.returncode == 0, f"step {done.returncode}"
    assert done.stdout == os.fsencode(path) + b"\0"
    assert device.tasks() == []
