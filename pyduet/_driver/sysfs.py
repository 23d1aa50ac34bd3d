# SPDX-License-Identifier: MIT
"""Duet's files in sysfs, where they say what no call does; docs/ABI/testing has them all."""

import errno
import os

from pyduet.errors import DuetError, Operation, error_for

DIRECTORY = "/sys/class/misc/duet"

_UNMOUNTED = "cannot open {}: /sys is not mounted; mount it: mount -t sysfs sys /sys"


def read(name: str) -> str:
    """Return the text of a file, without the newline.

    Args:
        name: of the file below :data:`DIRECTORY`.

    Raises:
        NotLoadedError: the kernel module is not loaded.
        DuetError: /sys is not mounted.
        PermissionDeniedError: the caller may not read it.

    """
    path = os.path.join(DIRECTORY, name)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().rstrip("\n")
    except OSError as error:
        raise _not_opened(error, path) from error


def write(name: str, value: int, operation: Operation, subject: str) -> None:
    """Write a number.

    Args:
        name: of the file below :data:`DIRECTORY`.
        value: what to write.
        operation: what that does, for the message when it fails.
        subject: to what.

    Raises:
        NotLoadedError: the kernel module is not loaded.
        DuetError: /sys is not mounted.
        PermissionDeniedError: without CAP_SYS_ADMIN.
        DuetError: the driver refused it.

    """
    path = os.path.join(DIRECTORY, name)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError as error:
        # Only root may write these; to anybody else the file's mode says so first.
        if error.errno == errno.EACCES:
            raise error_for(errno.EACCES, operation, subject, path) from error
        raise _not_opened(error, path) from error
    try:
        os.write(fd, b"%d\n" % value)
    except OSError as error:
        raise error_for(error.errno or 0, operation, subject, path) from error
    finally:
        os.close(fd)


def hooks() -> dict[str, str]:
    """Return the word of each hook: detached, alive, silent or missing.

    Raises:
        NotLoadedError: the kernel module is not loaded.
        DuetError: /sys is not mounted.

    """
    path = os.path.join(DIRECTORY, "hooks")
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise _not_opened(error, path) from error
    return {name: read(f"hooks/{name}") for name in names}


def _not_opened(error: OSError, path: str) -> DuetError:
    """Return what to raise when a file is not there, which may be for another reason than Duet."""
    if error.errno == errno.ENOENT and not os.path.ismount("/sys"):
        return DuetError(errno.ENOENT, _UNMOUNTED.format(path), path)
    return error_for(error.errno or 0, Operation.OPEN, path)
