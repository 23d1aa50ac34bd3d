# SPDX-License-Identifier: MIT
"""The published calls, byte for byte, as programs use them that know nothing of ours."""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import counter
from truth import PAGE, Watch, fill, identity

from pyduet import Device, Mask, UnsupportedFilesystemError

Register = Callable[..., Watch]

STATUS, INIT, BMAP, GPATH = 0xC00CDE01, 0xD108DE02, 0xC018DE03, 0xD018DE04
GARBAGE = 0xA5


def call(fd: int, number: int, data: bytearray) -> int:
    """Make a call; return what it returned, or the error as a negative number."""
    try:
        return int(fcntl.ioctl(fd, number, data))
    except OSError as error:
        return -(error.errno or 0)


def init(path: bytes, mask: int, *, name: bytes = b"dummy", size: int = 4360) -> bytearray:
    """Return an INIT argument with garbage wherever a published program leaves some."""
    data = bytearray([GARBAGE]) * 4360
    struct.pack_into("I", data, 0, size)
    data[4 : 4 + len(name) + 1] = name + b"\0"
    struct.pack_into("I", data, 260, mask)
    data[264 : 264 + len(path) + 1] = path + b"\0"
    return data


def uuid_call(size: int, offset: int, ino: int, gen: int, task: int, flags: int = 0) -> bytearray:
    """Return a BMAP or GPATH argument, garbage in its padding."""
    data = bytearray([GARBAGE]) * size
    struct.pack_into("IH", data, 0, size, flags)
    struct.pack_into("QIB", data, offset, ino, gen, task)
    return data


def status(flags: int, value: int = 0, *, size: int = 12) -> bytearray:
    """Return a STATUS argument."""
    return bytearray(struct.pack("IHBBHBB", size, flags, GARBAGE, GARBAGE, value, GARBAGE, GARBAGE))


@pytest.fixture
def raw(device: Device) -> int:
    """Return a descriptor of the device, Duet being on."""
    return device.fileno()


def test_a_published_program(raw: int, place: Path) -> None:
    """Register, read, path, set, check, reset, list: with garbage in every padding byte."""
    path = fill(place / "tree/file", 2)
    task = call(raw, INIT, init(os.fsencode(place / "tree"), 0x20 | 0x40))
    assert task > 0
    assert os.get_inheritable(task)
    data = os.read(task, 4096)
    ino, gen = identity(path)
    assert data == b"".join(struct.pack("QIBxxxQH6x", ino, gen, 1, page, 1) for page in (0, 1))
    with pytest.raises(BlockingIOError):
        os.read(task, 4096)

    reply = uuid_call(4120, 8, ino, gen, 1)
    assert call(raw, GPATH, reply) == 0
    assert bytes(reply[24:]).split(b"\0")[0] == os.fsencode(path)

    assert call(raw, BMAP, uuid_call(24, 8, ino, gen, 1, 4)) == 0
    assert call(raw, BMAP, uuid_call(24, 8, ino, gen, 1, 1)) == 0
    assert call(raw, BMAP, uuid_call(24, 8, ino, gen, 1, 4)) == 1
    assert call(raw, BMAP, uuid_call(24, 8, ino, gen, 1, 2)) == 0
    assert call(raw, BMAP, uuid_call(24, 8, ino, gen, 1, 4)) == 0

    listing = status(0x20, 3) + bytearray(3 * 4364)
    assert call(raw, STATUS, listing) == 0
    assert struct.unpack_from("H", listing, 8) == (1,)
    assert struct.unpack_from("B3xi", listing, 12) == (1, task)
    assert bytes(listing[20:]).split(b"\0")[0] == b"dummy"
    assert struct.unpack_from("I", listing, 276) == (0x60,)
    assert bytes(listing[280:]).split(b"\0")[0] == os.fsencode(place / "tree")
    os.close(task)


def test_status_numbers(raw: int) -> None:
    """START, STOP and REPORT return what is published, and refuse twice the same."""
    assert call(raw, STATUS, status(4)) == 1
    assert call(raw, STATUS, status(1)) == -errno.EALREADY
    assert call(raw, STATUS, status(2)) == 0
    assert call(raw, STATUS, status(4)) == 0
    assert call(raw, STATUS, status(2)) == -errno.EALREADY
    assert call(raw, STATUS, status(1, 3)) == 0
    assert Path("/sys/class/misc/duet/max_tasks").read_text() == "3\n"
    assert call(raw, STATUS, status(2)) == 0
    assert call(raw, STATUS, status(1, 0)) == 0
    assert Path("/sys/class/misc/duet/max_tasks").read_text() == "8\n"


def test_sizes_flags_and_numbers_are_checked(raw: int, place: Path) -> None:
    """Pitfall: EINVAL for unknown calls. Another size, no flag or two are refused."""
    assert call(raw, 0xC00CDE00, bytearray(12)) == -errno.ENOTTY
    assert call(raw, 0xC00CDE05, bytearray(12)) == -errno.ENOTTY
    assert call(raw, STATUS, status(4, size=16)) == -errno.EINVAL
    for flags in (0, 3, 6, 0x40, 0x8000):
        assert call(raw, STATUS, status(flags)) == -errno.EINVAL
    tree = os.fsencode(place / "tree")
    assert call(raw, INIT, init(tree, 1, size=4364)) == -errno.EINVAL
    for size, flags in ((25, 1), (24, 0), (24, 3), (24, 8)):
        data = uuid_call(24, 8, 2, 0, 1, flags)
        struct.pack_into("I", data, 0, size)
        assert call(raw, BMAP, data) in (-errno.EINVAL, -errno.ESRCH)
    assert call(raw, STATUS, status(8, 9)) == -errno.ESRCH
    for number in (STATUS, INIT, BMAP, GPATH):
        with pytest.raises(OSError, match="Bad address"):
            fcntl.ioctl(raw, number, 16)


@pytest.mark.parametrize(
    "mask", [0, 0x40, 0x80, 0x8000_0001, 0x21, 0x22, 0x14, 0x18, 0x1F, 0x2F, 0x33]
)
def test_bad_masks(raw: int, place: Path, mask: int) -> None:
    """Pitfall: NULL dereference on MODIFIED|DIRTY. A mask that excludes itself is refused."""
    assert call(raw, INIT, init(os.fsencode(place / "tree"), mask)) == -errno.EINVAL


def test_unterminated_strings(raw: int, place: Path) -> None:
    """Pitfall: unterminated name and path trusted."""
    data = init(os.fsencode(place / "tree"), 1)
    data[4:259] = b"n" * 255
    assert call(raw, INIT, data) == -errno.ENAMETOOLONG
    data = init(os.fsencode(place / "tree"), 1)
    data[264:] = b"/" * 4096
    assert call(raw, INIT, data) == -errno.ENAMETOOLONG
    task = call(raw, INIT, init(os.fsencode(place / "tree"), 1, name=b"n" * 254))
    assert task > 0
    os.close(task)


def test_bad_paths(raw: int, place: Path, device: Device) -> None:
    """A path that is missing, a file, or on a file system that is not watched."""
    fill(place / "tree/file", 1)
    for path, wrong in (
        (b"", errno.ENOENT),
        (b"/nowhere", errno.ENOENT),
        (os.fsencode(place / "tree/file"), errno.ENOTDIR),
        (b"/proc", errno.EOPNOTSUPP),
        (b"/dev/shm", errno.EOPNOTSUPP),
    ):
        assert call(raw, INIT, init(path, 1)) == -wrong, path
    with pytest.raises(UnsupportedFilesystemError):
        device.register("/proc", Mask.EXISTS)
    assert device.tasks() == []


def test_list_stays_in_its_buffer(raw: int, place: Path) -> None:
    """Pitfall: double fetch in the task list; numtasks = 0 wrote past the buffer."""
    tasks = [call(raw, INIT, init(os.fsencode(place / "tree"), 1)) for _ in range(3)]
    with mmap.mmap(-1, 2 * PAGE + 4 * 4364) as view:
        for room in (0, 1, 2, 3, 4):
            view[:] = b"\x5a" * len(view)
            view[:12] = bytes(status(0x20, room))
            address = ctypes.addressof(ctypes.c_char.from_buffer(view))
            assert (
                ctypes.CDLL(None).ioctl(raw, ctypes.c_ulong(STATUS), ctypes.c_void_p(address)) == 0
            )
            filled = min(room, 3)
            assert struct.unpack_from("H", view, 8) == (filled,)
            assert [view[12 + i * 4364] for i in range(filled)] == list(range(1, filled + 1))
            end = 12 + filled * 4364
            assert set(view[end:]) == {0x5A}, f"room for {room}: wrote behind its end"
    for task in tasks:
        os.close(task)


def test_padding_comes_back_zero(raw: int, place: Path) -> None:
    """Pitfall: stack bytes leaked in the padding."""
    fill(place / "tree/file", 40)
    task = call(raw, INIT, init(os.fsencode(place / "tree"), 0x20 | 0x40))
    data = os.read(task, 40 * 32)
    assert len(data) == 40 * 32
    for item in range(40):
        assert data[item * 32 + 13 : item * 32 + 16] == bytes(3)
        assert data[item * 32 + 26 : item * 32 + 32] == bytes(6)
    listing = status(0x20, 1) + bytearray([GARBAGE]) * 4364
    assert call(raw, STATUS, listing) == 0
    attributes = bytes(listing[12:])
    assert attributes[1:4] == bytes(3)
    assert set(attributes[8 + 5 : 264]) == {0}
    assert set(attributes[268 + len(os.fsencode(place / "tree")) :]) == {0}
    os.close(task)


def test_first_descriptor_is_never_zero(device: Device, place: Path) -> None:
    """INIT returns a descriptor above 0 even where 0 is free."""
    pid = os.fork()
    if not pid:
        os.close(0)
        task = call(device.fileno(), INIT, init(os.fsencode(place / "tree"), 1))
        os._exit(0 if task > 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_calls_when_off(device: Device, place: Path) -> None:
    """Off, every call says so and nothing breaks."""
    raw = device.fileno()
    device.stop()
    assert call(raw, INIT, init(os.fsencode(place / "tree"), 1)) == -errno.ESHUTDOWN
    assert call(raw, BMAP, uuid_call(24, 8, 2, 0, 1, 1)) == -errno.ESRCH
    assert call(raw, GPATH, uuid_call(4120, 8, 2, 0, 1)) == -errno.ESRCH
    listing = status(0x20, 2) + bytearray(2 * 4364)
    assert call(raw, STATUS, listing) == 0
    assert struct.unpack_from("H", listing, 8) == (0,)


def test_somebody_elses_task(device: Device, place: Path) -> None:
    """Pitfall: the bitmap and path calls took any task number from anybody."""
    path = fill(place / "tree/file", 1)
    ino, gen = identity(path)
    with device.register(place / "tree", Mask.EXISTS):
        pid = os.fork()
        if not pid:
            try:
                as_root = call(device.fileno(), BMAP, uuid_call(24, 8, ino, gen, 1, 4))
                os.setuid(65534)
                answers = [
                    call(device.fileno(), BMAP, uuid_call(24, 8, ino, gen, 1, 1)),
                    call(device.fileno(), GPATH, uuid_call(4120, 8, ino, gen, 1)),
                    call(device.fileno(), STATUS, status(1)),
                    call(device.fileno(), STATUS, status(2)),
                    call(device.fileno(), STATUS, status(8, 1)),
                ]
                os._exit(0 if as_root == 0 and answers == [-errno.EPERM] * 5 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_unreadable_directory(device: Device, place: Path) -> None:
    """Registering needs the right to read the directory."""
    (place / "tree").chmod(0o700)
    pid = os.fork()
    if not pid:
        os.setuid(65534)
        answer = call(device.fileno(), INIT, init(os.fsencode(place / "tree"), 1))
        os._exit(0 if answer == -errno.EACCES else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_c_program_on_the_header(
    device: Device, place: Path, compile_c: Callable[[str], Path]
) -> None:
    """The UAPI header is all that a C program needs."""
    fill(place / "tree/file", 3)
    header = Path(__file__).parents[2] / "driver/uapi/duet.h"
    program = compile_c(
        f'#include "{header}"\n'
        """
        #include <fcntl.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/ioctl.h>
        #include <unistd.h>
        int main(int argc, char **argv)
        {
            struct duet_ioctl_init_args init = { .size = sizeof(init),
                .regmask = DUET_PAGE_EXISTS, .name = "c" };
            struct duet_ioctl_gpath_args path = { .size = sizeof(path) };
            struct duet_item items[8];
            int device = open("/dev/duet", O_RDWR), task;
            ssize_t got;

            strncpy(init.path, argv[1], sizeof(init.path) - 1);
            task = ioctl(device, DUET_IOC_INIT, &init);
            if (task <= 0)
                return 1;
            got = read(task, items, sizeof(items));
            path.uuid = items[0].uuid;
            if (got < 0 || ioctl(device, DUET_IOC_GPATH, &path))
                return 2;
            printf("%zd %s", got / sizeof(items[0]), path.path);
            return 0;
        }
        """
    )
    answer = subprocess.check_output([program, place / "tree"], text=True)
    assert answer == f"3 {place / 'tree/file'}"


def test_table_spreads_and_is_small(watch: Register, place: Path) -> None:
    """Pitfalls: page 0 of every file hashed to one bucket; 96 KiB for each inode."""
    one = watch(place / "tree")
    for i in range(4000):
        (place / f"tree/{i}").write_bytes(b"x")
    one.read()
    assert len(one.tally.cached_files()) == counter("files") == counter("nodes") == 4000
    assert 1 <= counter("longest_chain") <= 8
    assert counter("bytes") < 4000 * 1024
