# SPDX-License-Identifier: MIT
"""Being somebody else: what an ordinary user is answered, asked by a child process."""

import contextlib
import ctypes
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from pyduet import DEFAULT_DEVICE, Device, Mask, Task

Answer = TypeVar("Answer")

#: Who is in it may open the device, while `device_for_group` holds.
GROUP = 4000
#: Two users, each also the number of a group of their own.
ANNA, BERT = 4001, 4002

CAP_SYS_ADMIN = 21
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
_CAPABILITY_VERSION_3 = 0x20080522
_LIBC = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def device_for_group() -> Iterator[None]:
    """Let the group open the device, as a distribution's udev rule would."""
    before = os.stat(DEFAULT_DEVICE)
    os.chown(DEFAULT_DEVICE, 0, GROUP)
    os.chmod(DEFAULT_DEVICE, 0o660)
    yield
    os.chown(DEFAULT_DEVICE, before.st_uid, before.st_gid)
    os.chmod(DEFAULT_DEVICE, before.st_mode & 0o7777)


def in_child(function: Callable[[], Answer]) -> Answer:
    """Return what a function returns, or raise what it raises, in a child process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            try:
                answer = pickle.dumps((True, function()))
            except BaseException as error:
                answer = pickle.dumps((False, error))
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(answer)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    fine, result = pickle.loads(data)  # noqa: S301 -- from our own child
    if not fine:
        raise result
    return result  # type: ignore[no-any-return]


def become(user: int, groups: tuple[int, ...] = (GROUP,)) -> None:
    """Turn this process into an ordinary user's, for good."""
    os.setgroups(groups)
    os.setgid(user)
    os.setuid(user)


def as_user(
    user: int, function: Callable[[], Answer], *, groups: tuple[int, ...] = (GROUP,)
) -> Answer:
    """Return what a function returns to a user."""

    def other() -> Answer:
        become(user, groups)
        return function()

    return in_child(other)


def without_admin(function: Callable[[], Answer]) -> Answer:
    """Return what a function returns to root that has every capability but CAP_SYS_ADMIN."""

    def other() -> Answer:
        drop_admin()
        return function()

    return in_child(other)


def drop_admin() -> None:
    """Give CAP_SYS_ADMIN up, for good."""
    _drop(1 << CAP_SYS_ADMIN, 0)


def drop_everything() -> None:
    """Give every capability up, for good, and stay the user that this is."""
    _drop(0xFFFFFFFF, 0xFFFFFFFF)


def _drop(*lost: int) -> None:
    """Give up capabilities, 32 by 32."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    _check(_LIBC.capget(header, data))
    for field in range(6):  # effective, permitted, inheritable; then their upper halves
        data[field] &= ~lost[field // 3]
    _check(_LIBC.capset(header, data))


def unshare(flags: int) -> None:
    """Move to new namespaces: unshare(2)."""
    _check(_LIBC.unshare(flags))


def _check(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def register_as(
    user: int,
    path: Path,
    mask: Mask,
    *,
    prepare: Callable[[], None] = lambda: None,
    **options: bool | int | str,
) -> Task:
    """Return a task that a user registered, whose descriptor a child of that user sent here."""
    ours, theirs = socket.socketpair()

    def register() -> None:
        prepare()
        with Device() as device:
            task = device.register(path, mask, **options)  # type: ignore[arg-type]
            socket.send_fds(theirs, [b"x"], [task.fileno()])

    with ours, theirs:
        as_user(user, register)
        return Task.adopt(socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)[1][0])
