# SPDX-License-Identifier: MIT
"""What the driver's errnos become."""

import copy
import errno

import pytest

import pyduet
from pyduet.errors import Operation, error_for

Op = Operation


@pytest.mark.parametrize(
    ("number", "operation", "kind", "words"),
    [
        (errno.ENOENT, Op.OPEN, pyduet.NotLoadedError, "modprobe duet"),
        (errno.ENXIO, Op.OPEN, pyduet.NotLoadedError, "modprobe duet"),
        (errno.EACCES, Op.OPEN, pyduet.PermissionDeniedError, "group"),
        (errno.EPERM, Op.START, pyduet.PermissionDeniedError, "CAP_SYS_ADMIN"),
        (errno.EPERM, Op.STOP, pyduet.PermissionDeniedError, "CAP_SYS_ADMIN"),
        (errno.EPERM, Op.BMAP, pyduet.PermissionDeniedError, "CAP_SYS_ADMIN"),
        (errno.EALREADY, Op.START, pyduet.AlreadyError, "already on"),
        (errno.EALREADY, Op.STOP, pyduet.AlreadyError, "already off"),
        (errno.EINVAL, Op.START, pyduet.DuetError, "at most 255"),
        (errno.ESHUTDOWN, Op.REGISTER, pyduet.OffError, "duet start"),
        (errno.ESHUTDOWN, Op.READ, pyduet.OffError, "switched off"),
        (errno.EUSERS, Op.REGISTER, pyduet.TooManyTasksError, "duet start -n"),
        (errno.ENAMETOOLONG, Op.REGISTER, pyduet.DuetError, "too long"),
        (errno.EINVAL, Op.REGISTER, pyduet.DuetError, "regular file"),
        (errno.ENOTDIR, Op.REGISTER, pyduet.NotDirectoryError, "not a directory"),
        (errno.ENOENT, Op.REGISTER, pyduet.PathNotFoundError, "does not exist"),
        (errno.EOPNOTSUPP, Op.REGISTER, pyduet.UnsupportedFilesystemError, "file system"),
        (errno.EACCES, Op.REGISTER, pyduet.PermissionDeniedError, "read permission"),
        (errno.ENOMEM, Op.REGISTER, pyduet.DuetError, "memory"),
        (errno.EBADF, Op.REGISTER, pyduet.DuetError, "descriptor"),
        (errno.EPERM, Op.REGISTER, pyduet.PermissionDeniedError, "limit"),
        (errno.ENODEV, Op.READ, pyduet.TaskGoneError, "unmounted"),
        (errno.ENODEV, Op.RESCAN, pyduet.TaskGoneError, "register again"),
        (errno.ESHUTDOWN, Op.RESCAN, pyduet.OffError, "switched off"),
        (errno.ECANCELED, Op.READ, pyduet.TaskEndedError, "register again"),
        (errno.ECANCELED, Op.REGISTER, pyduet.TaskEndedError, "somebody ended"),
        (errno.ECANCELED, Op.END, pyduet.TaskEndedError, "already"),
        (errno.EPERM, Op.LOOK, pyduet.PermissionDeniedError, "CAP_SYS_ADMIN"),
        (errno.EACCES, Op.PATH, pyduet.PermissionDeniedError, "own the file"),
        (errno.ENOSPC, Op.BMAP, pyduet.DuetError, "duet set --limit"),
        (errno.EBUSY, Op.SET_TASKS, pyduet.InUseError, "duet stop"),
        (errno.EBUSY, Op.SET_LIMIT, pyduet.InUseError, "higher limit"),
        (errno.EPERM, Op.SET_LIMIT, pyduet.PermissionDeniedError, "root"),
        (errno.EACCES, Op.SET_TASKS, pyduet.PermissionDeniedError, "root"),
        (errno.EOVERFLOW, Op.SNAPSHOT, pyduet.IncompleteError, "duet set --limit"),
        (errno.E2BIG, Op.INFO, pyduet.DuetError, "older"),
        (errno.ESRCH, Op.BMAP, pyduet.TaskGoneError, "register again"),
        (errno.ESRCH, Op.PATH, pyduet.TaskGoneError, "register again"),
        (errno.ENOENT, Op.PATH, pyduet.PathNotFoundError, "deleted"),
        (errno.ENOTTY, Op.REPORT, pyduet.DuetError, "version"),
        (errno.EIO, Op.READ, pyduet.DuetError, "Input/output error"),
    ],
)
def test_each_errno(number: int, operation: Op, kind: type[Exception], words: str) -> None:
    error = error_for(number, operation, "/srv/a {b}: c")
    assert type(error) is kind
    assert error.errno == number
    assert words in str(error)
    assert "{action}" not in str(error)
    if "{subject}" in operation.value and number != errno.EALREADY:
        assert "/srv/a {b}: c" in str(error)


def test_the_builtin_kinds_catch_them() -> None:
    with pytest.raises(PermissionError):
        raise error_for(errno.EPERM, Op.STOP, "")
    with pytest.raises(NotADirectoryError):
        raise error_for(errno.ENOTDIR, Op.REGISTER, "/x")
    with pytest.raises(FileNotFoundError):
        raise error_for(errno.ENOENT, Op.PATH, "/x")


@pytest.mark.parametrize("operation", Op)
def test_every_message_is_one_line_that_ends_with_a_remedy(operation: Op) -> None:
    for number in errno.errorcode:
        text = str(error_for(number, operation, "/srv"))
        assert "\n" not in text
        assert ";" in text, f"no remedy: {text}"


@pytest.mark.parametrize(
    ("number", "operation", "filename", "expected"),
    [
        (errno.ENOENT, Op.REGISTER, None, "/srv"),
        (errno.ENODEV, Op.READ, None, "/srv"),
        (errno.EACCES, Op.OPEN, None, "/srv"),
        (errno.ENOENT, Op.IDENTIFY, None, "/srv"),
        (errno.EOVERFLOW, Op.SNAPSHOT, None, "/srv"),
        (errno.EALREADY, Op.START, "/dev/duet", "/dev/duet"),
        (errno.ESHUTDOWN, Op.RESCAN, "/srv", "/srv"),
        # Of a file whose path nobody knows there is none, and not its directory's.
        (errno.ENOENT, Op.PATH, "/srv", None),
        (errno.ENOSPC, Op.BMAP, "/srv", None),
    ],
)
def test_the_path_that_it_is_about(
    number: int, operation: Op, filename: str | None, expected: str | None
) -> None:
    error = error_for(number, operation, "/srv", filename)
    for one in (error, copy.copy(error), copy.deepcopy(error)):
        assert (type(one), one.errno, one.filename) == (type(error), number, expected)
        assert str(one) == one.strerror == str(error)
