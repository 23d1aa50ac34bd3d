# SPDX-License-Identifier: MIT
"""What the objects do where there is no driver. That there is one is tested in the lab."""

import contextlib
import ctypes
import errno
import os
from pathlib import Path

import pytest

from pyduet import (
    Device,
    DuetError,
    FileId,
    Mask,
    NotLoadedError,
    PermissionDeniedError,
    TaskHandle,
    identity_of,
)
from pyduet._driver import abi, fdinfo
from pyduet._driver.descriptor import Descriptor
from pyduet._driver.fdinfo import FdInfo
from pyduet.task import Task

NO_DRIVER = "/dev/null"


def test_no_device(tmp_path: Path) -> None:
    with pytest.raises(NotLoadedError, match="modprobe duet") as caught:
        Device(tmp_path / "duet")
    assert caught.value.errno == errno.ENOENT
    assert str(tmp_path / "duet") in str(caught.value)


def test_not_permitted(tmp_path: Path) -> None:
    node = tmp_path / "duet"
    node.touch(0)
    pid = os.fork()
    if not pid:  # root may open everything, so as somebody else
        code = 1
        with contextlib.suppress(BaseException):
            tmp_path.chmod(0o755)
            if not os.geteuid():
                os.chroot(tmp_path)
                os.setuid(65534)
                node = Path("/duet")
            try:
                Device(node)
            except PermissionDeniedError as error:
                code = 0 if "group" in str(error) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_something_else_than_duet() -> None:
    with Device(NO_DRIVER) as device, pytest.raises(DuetError) as caught:
        device.is_on()
    assert caught.value.errno == errno.ENOTTY


def test_a_failed_registration_leaves_no_descriptor() -> None:
    with Device(NO_DRIVER) as device:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(DuetError):
            device.register("/", Mask.EXISTS)
        assert os.listdir("/proc/self/fd") == before


def test_the_descriptor_is_close_on_exec() -> None:
    with Device(NO_DRIVER) as device:
        assert not os.get_inheritable(device.fileno())


def test_a_closed_device_says_so() -> None:
    with Device(NO_DRIVER) as device:
        pass
    device.close()
    for use in (
        device.is_on,
        device.tasks,
        device.fileno,
        device.stop,
        device.start,
        device.info,
        device.table,
        lambda: list(device.nodes()),
        device.task(1).rescan,
        lambda: list(device.task(1).marked()),
        lambda: device.register("/", Mask.EXISTS),
    ):
        with pytest.raises(ValueError, match="the device is closed"):
            use()


@pytest.mark.parametrize("count", [-1, 256, 1 << 16])
def test_start_refuses_what_does_not_fit(count: int) -> None:
    with Device(NO_DRIVER) as device, pytest.raises(ValueError, match="0 to 255"):
        device.start(count)


@pytest.mark.parametrize("number", [-1, 0, 256])
def test_a_task_has_a_number_that_can_be(number: int) -> None:
    with Device(NO_DRIVER) as device, pytest.raises(ValueError, match="1 to 255"):
        device.task(number)


class Noting(Descriptor):
    """A descriptor that notes which task each call is about, and does nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []

    def ioctl(self, number: int, request: ctypes.Structure, *_words: object) -> int:
        if isinstance(request, abi.BmapArgs | abi.GpathArgs):
            self.calls.append((request.uuid.ino, request.uuid.gen, request.uuid.tid))
        else:
            assert isinstance(request, abi.Marks | abi.Paths)
            ref = abi.FileRef.from_address(request.files)
            self.calls.append((ref.ino, ref.gen, request.tid))
        return 0


def test_the_task_adds_its_own_number_to_a_file() -> None:
    """The driver wants it; the file, which any task may have told of, does not have it."""
    noting = Noting()
    task = TaskHandle(noting, 7)
    file = FileId(2**40, 3)
    for use in (task.mark_done, task.unmark, task.is_done, task.path_of):
        use(file)
    for use_many in (task.mark_many, task.unmark_many, task.are_done, task.paths_of):
        use_many([file])
    assert noting.calls == [(2**40, 3, 7)] * 8


@pytest.mark.parametrize(("path", "name"), [("/\0", None), ("/", "a\0b")])
def test_a_nul_is_refused(path: str, name: str | None) -> None:
    with Device(NO_DRIVER) as device, pytest.raises(ValueError, match="NUL"):
        device.register(path, Mask.EXISTS, name=name)


def test_a_mask_is_refused_by_the_rule_that_it_breaks() -> None:
    """Before any call: the driver knows one number for all of them."""
    with Device(NO_DRIVER) as device:
        with pytest.raises(ValueError, match="exists excludes added and removed"):
            device.register("/", Mask.EXISTS | Mask.ADDED)
        with pytest.raises(ValueError, match="a snapshot tells no dirty"):
            device.register("/", Mask.DIRTY, snapshot=True)
        with pytest.raises(ValueError, match="leave out no_scan"):
            device.register("/", Mask.EXISTS, snapshot=True, no_scan=True)


def test_errors_say_which_path_they_are_about(tmp_path: Path) -> None:
    with Device(NO_DRIVER) as device:
        for use, path in (
            (lambda: device.register("/srv", Mask.EXISTS), "/srv"),
            (device.start, NO_DRIVER),
            (lambda: device.end(7), NO_DRIVER),
            (lambda: Device(tmp_path / "none"), str(tmp_path / "none")),
            (lambda: identity_of(tmp_path / "none"), str(tmp_path / "none")),
            (lambda: device.set_limits(limit=1), NO_DRIVER),
        ):
            with pytest.raises(DuetError) as caught:
                use()
            assert (caught.value.filename, caught.value.errno != 0) == (path, True)
    with task_without_driver() as task:
        for use, wanted in ((task.rescan, "/p"), (lambda: task.path_of(FileId(1, 1)), None)):
            with pytest.raises(DuetError) as caught:
                use()
            assert caught.value.filename == wanted


def task_without_driver() -> Task:
    """A task whose descriptor knows no call of Duet, for what comes before any call."""
    return Task(os.open(NO_DRIVER, os.O_RDONLY), task_id=1, name="n", path="/p", mask=Mask(0))


def test_a_closed_task_says_so_and_lets_its_descriptor_go() -> None:
    before = os.listdir("/proc/self/fd")
    with task_without_driver() as task:
        # Its own, and the bell that wakes who waits.
        assert len(os.listdir("/proc/self/fd")) == len(before) + 2
    task.close()
    assert os.listdir("/proc/self/fd") == before
    file = FileId(1, 1)
    for use in (
        task.fileno,
        task.read,
        task.wait,
        lambda: task.id,
        lambda: list(task.events()),
        lambda: task.path_of(file),
        lambda: task.mark_done(file),
        lambda: task.unmark(file),
        lambda: task.is_done(file),
        lambda: task.mark_many([file]),
        lambda: task.unmark_many([file]),
        lambda: task.are_done([file]),
        lambda: task.paths_of([file]),
        task.rescan,
        lambda: list(task.marked()),
        lambda: list(task.pending()),
    ):
        with pytest.raises(ValueError, match="the task on /p is closed"):
            use()


def test_a_batch_of_nothing_makes_no_call() -> None:
    with task_without_driver() as task:
        task.mark_many([])
        assert task.are_done(iter([])) == []
        assert task.paths_of([]) == {}


@pytest.mark.parametrize(
    "limits",
    [{"limit": -1}, {"task_limit": 1 << 63}, {"max_tasks": 0}, {"max_tasks": 256}],
)
def test_limits_that_cannot_be_are_refused(limits: dict[str, int]) -> None:
    with Device(NO_DRIVER) as device, pytest.raises(ValueError, match=next(iter(limits))):
        device.set_limits(**limits)


def test_items_of_another_size_are_not_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No driver has them so far: this is what one would say whose program asked for them."""
    said = FdInfo(task=1, mask=Mask.EXISTS, flags=0, item_size=40, name="n", path="/p")
    monkeypatch.setattr(fdinfo, "read", lambda _: said)
    with open("/dev/null", "rb") as file:
        with pytest.raises(ValueError, match="items of 40 bytes; this library knows those of 32"):
            Task.adopt(file.fileno())
        os.fstat(file.fileno())  # it is open still


def test_a_foreign_descriptor_is_not_adopted() -> None:
    fd = os.open(NO_DRIVER, os.O_RDONLY)
    try:
        with pytest.raises(ValueError, match=f"descriptor {fd} is not of a task"):
            Task.adopt(fd)
        os.fstat(fd)
    finally:
        os.close(fd)
    with pytest.raises(ValueError, match="is not of a task"):
        Task.adopt(fd)


def test_read_refuses_no_room() -> None:
    with task_without_driver() as task, pytest.raises(ValueError, match="at least 1"):
        task.read(0)
