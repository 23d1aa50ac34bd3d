# SPDX-License-Identifier: MIT
"""What can go wrong, as exceptions that say what happened, to what, and what to do.

All of them are :class:`OSError` with ``errno`` set as the kernel gave it.
The table at the end is the driver's errno contract, in one place.
"""

import enum
import errno
import os


class DuetError(OSError):
    """A call to Duet failed; ``str()`` is one complete sentence with the remedy.

    ``errno`` is the kernel's, ``strerror`` the sentence. ``filename`` is the
    path that it is about, or the device; None when that is a file of which no
    path is known.
    """

    def __str__(self) -> str:
        """Return the message alone, without the errno in front."""
        return str(self.strerror)


class NotLoadedError(DuetError):
    """There is no Duet device: the kernel module is not loaded."""


class PermissionDeniedError(DuetError, PermissionError):
    """The caller may not do this."""


class OffError(DuetError):
    """Duet is switched off, or was under a task."""


class AlreadyError(DuetError):
    """Duet is already in the state that was asked for."""


class TooManyTasksError(DuetError):
    """As many tasks are registered as Duet was started for."""


class PathNotFoundError(DuetError, FileNotFoundError):
    """The directory or file to watch does not exist, or a file has no path any more."""


class NotDirectoryError(DuetError, NotADirectoryError):
    """A part of the path to watch is no directory."""


class UnsupportedFilesystemError(DuetError):
    """Duet does not watch this kind of file system, or not for this mask on this kernel."""


class InUseError(DuetError):
    """A limit below what is in use, or one that only changes while Duet is off."""


class IncompleteError(DuetError):
    """Not all could be told: a memory limit, or no memory."""


class TaskGoneError(DuetError):
    """The task, or the directory or file system that it watched, is gone."""


class TaskEndedError(TaskGoneError):
    """Somebody ended the task, as ``duet end`` does; Duet itself goes on."""


class Operation(enum.Enum):
    """What was being done when a call failed, in words that follow "cannot"."""

    OPEN = "open {subject}"
    START = "start Duet for {subject}"
    STOP = "stop Duet"
    REPORT = "ask whether Duet is on"
    REGISTER = "watch {subject}"
    READ = "read the events of {subject}"
    BMAP = "reach the done mark of {subject}"
    PATH = "find the path of {subject}"
    RESCAN = "rescan {subject}"
    END = "end {subject}"
    INFO = "ask how Duet is set"
    LOOK = "look into {subject}"
    IDENTIFY = "tell inode and generation of {subject}"
    SET_TASKS = "set the tasks at a time to {subject}"
    SET_LIMIT = "set {subject}"
    SNAPSHOT = "tell all that is cached below {subject}"


#: Of which the subject is a path; and those of which it is a file that has none.
_OF_PATHS = {
    Operation.OPEN,
    Operation.REGISTER,
    Operation.READ,
    Operation.IDENTIFY,
    Operation.SNAPSHOT,
}
_OF_FILES = {Operation.BMAP, Operation.PATH}

_LOAD = "load it: modprobe duet"
_SWITCH_ON = "switch it on: duet start"

_NEEDS_ROOT = "not permitted to {action}; it needs root (CAP_SYS_ADMIN)"

_ANY = None

#: (errno, operation or any): the class and the sentence to fill {action} and {subject} in.
_TABLE: dict[tuple[int, Operation | None], tuple[type[DuetError], str]] = {
    (errno.ENOENT, Operation.OPEN): (NotLoadedError, f"{{subject}} does not exist; {_LOAD}"),
    (errno.ENXIO, Operation.OPEN): (NotLoadedError, f"{{subject}} has no driver; {_LOAD}"),
    (errno.ENODEV, Operation.OPEN): (NotLoadedError, f"{{subject}} has no driver; {_LOAD}"),
    (errno.EACCES, Operation.OPEN): (
        PermissionDeniedError,
        "not permitted to open {subject}; be root or in the device's group",
    ),
    (errno.EACCES, Operation.SET_TASKS): (PermissionDeniedError, _NEEDS_ROOT),
    (errno.EACCES, Operation.SET_LIMIT): (PermissionDeniedError, _NEEDS_ROOT),
    (errno.EBUSY, Operation.SET_TASKS): (
        InUseError,
        "cannot {action}: Duet is on, and it sizes every node; "
        "switch it off first, which ends every task: duet stop",
    ),
    (errno.ERANGE, Operation.SET_LIMIT): (
        InUseError,
        "cannot {action}: Duet is on, and its tables were made for less than an eighth of that; "
        "switch it off first, which ends every task: duet stop",
    ),
    (errno.EBUSY, Operation.SET_LIMIT): (
        InUseError,
        "cannot {action}: more is in use now; end tasks, or choose a higher limit: see duet status",
    ),
    (errno.EOVERFLOW, Operation.SNAPSHOT): (
        IncompleteError,
        "cannot {action}: it does not fit the memory limits; "
        "raise them: duet set --limit BYTES --task-limit BYTES",
    ),
    (errno.EPERM, _ANY): (
        PermissionDeniedError,
        _NEEDS_ROOT,
    ),
    (errno.EALREADY, Operation.START): (
        AlreadyError,
        "Duet is already on; to start it with other limits: duet stop, then duet start",
    ),
    (errno.EALREADY, Operation.STOP): (AlreadyError, "Duet is already off; nothing to stop"),
    (errno.EINVAL, Operation.START): (
        DuetError,
        "cannot start Duet for {subject}; at most 255 are possible",
    ),
    (errno.ESHUTDOWN, Operation.REGISTER): (
        OffError,
        f"cannot watch {{subject}}: Duet is off; {_SWITCH_ON}",
    ),
    (errno.ESHUTDOWN, _ANY): (
        OffError,
        "cannot {action}: Duet was switched off, which ended every task; switch it on and "
        "register again: duet start",
    ),
    (errno.ECANCELED, Operation.END): (
        TaskEndedError,
        "cannot {action}: it was ended already; nothing is left to do",
    ),
    (errno.ECANCELED, _ANY): (
        TaskEndedError,
        "cannot {action}: somebody ended the task; register again if it is still wanted",
    ),
    (errno.EUSERS, Operation.REGISTER): (
        TooManyTasksError,
        "cannot watch {subject}: as many tasks run as Duet was started for; "
        "end one, or restart Duet for more: duet stop, then duet start -n MAX",
    ),
    (errno.EDQUOT, Operation.REGISTER): (
        TooManyTasksError,
        "cannot watch {subject}: the tasks of this user have all that one user may have; end one, "
        "ask for a smaller limit, or as root raise /sys/class/misc/duet/user_share_percent",
    ),
    (errno.ENAMETOOLONG, Operation.REGISTER): (
        DuetError,
        "cannot watch {subject}: its path or the task's name is too long; "
        "4095 and 254 bytes are possible",
    ),
    (errno.EINVAL, Operation.REGISTER): (
        DuetError,
        "cannot watch {subject}: it is neither a directory nor a regular file, or the driver does "
        "not know what is asked for; check the path, and that the driver is of this version",
    ),
    (errno.ENOTDIR, Operation.REGISTER): (
        NotDirectoryError,
        "cannot watch {subject}: it is neither a directory nor a regular file, or a part of its "
        "path is not a directory; check the path",
    ),
    (errno.EBADF, Operation.REGISTER): (
        DuetError,
        "cannot watch {subject}: the directory descriptor is not open; open it first",
    ),
    (errno.EPERM, Operation.REGISTER): (
        PermissionDeniedError,
        "not permitted to watch {subject} with this limit; "
        "more than the default needs root (CAP_SYS_ADMIN)",
    ),
    (errno.ENOENT, Operation.REGISTER): (
        PathNotFoundError,
        "cannot watch {subject}: it does not exist; check the path",
    ),
    (errno.EOPNOTSUPP, Operation.REGISTER): (
        UnsupportedFilesystemError,
        "cannot watch {subject}: Duet does not support its file system, or this kernel lacks what "
        "the mask needs; choose another, see /sys/class/misc/duet/hooks",
    ),
    (errno.EACCES, Operation.REGISTER): (
        PermissionDeniedError,
        "not permitted to watch {subject}; "
        "it takes read permission on it, and on a directory search permission as well",
    ),
    (errno.ENOMEM, _ANY): (
        DuetError,
        "cannot {action}: the kernel is out of memory; free some and try again",
    ),
    (errno.ENOSPC, Operation.BMAP): (
        DuetError,
        "cannot {action}: there is no room within the memory limit; "
        "raise it: duet set --limit BYTES",
    ),
    (errno.EMFILE, _ANY): (
        DuetError,
        "cannot {action}: too many open files; close some or raise ulimit -n",
    ),
    (errno.ENODEV, _ANY): (
        TaskGoneError,
        "cannot {action}: what the task watched was removed or unmounted; "
        "register again once it is back",
    ),
    (errno.ESRCH, _ANY): (
        TaskGoneError,
        "cannot {action}: its task is no longer registered; register again",
    ),
    (errno.ESRCH, Operation.END): (
        TaskGoneError,
        "cannot {action}: there is no such task, or not any more; see those there are: duet list",
    ),
    (errno.EPERM, Operation.END): (
        PermissionDeniedError,
        "not permitted to {action}: it is another process's; it needs root (CAP_SYS_ADMIN)",
    ),
    (errno.ENOENT, Operation.PATH): (
        PathNotFoundError,
        "cannot find the path of {subject}: it was deleted or left the watched directory; skip it",
    ),
    (errno.EACCES, Operation.PATH): (
        PermissionDeniedError,
        "not permitted to find the path of {subject}; who registered the task has to own the file, "
        "or be able to write it",
    ),
    (errno.ENOENT, Operation.IDENTIFY): (
        PathNotFoundError,
        "cannot {action}: it does not exist; check the path",
    ),
    (errno.ENOTDIR, Operation.IDENTIFY): (
        NotDirectoryError,
        "cannot {action}: a part of its path is not a directory; check the path",
    ),
    (errno.EACCES, Operation.IDENTIFY): (
        PermissionDeniedError,
        "not permitted to {action}; it takes read permission on the file",
    ),
    (errno.ENOTTY, Operation.IDENTIFY): (
        UnsupportedFilesystemError,
        "cannot {action}: its file system tells no generation; Duet watches ext4, XFS and btrfs",
    ),
    (errno.E2BIG, _ANY): (
        DuetError,
        "cannot {action}: the driver is older than this library; load the one that came with it",
    ),
    (errno.ENOTTY, _ANY): (
        DuetError,
        "cannot {action}: the device does not know the call; "
        "check that it is Duet's, of this version",
    ),
}


def error_for(
    number: int, operation: Operation, subject: str, filename: str | None = None
) -> DuetError:
    """Return the exception for a failed call; the caller raises it.

    Args:
        number: the errno that the kernel gave.
        operation: what was being done.
        subject: to what: a path, a file, a count of tasks.
        filename: over what it was done, where the subject is neither a path
            nor a file.

    """
    known = _TABLE.get((number, operation)) or _TABLE.get((number, _ANY))
    kind, sentence = known or (
        DuetError,
        "cannot {action}: " + os.strerror(number) + "; see the kernel log: dmesg",
    )
    action = operation.value.format(subject=subject)
    if operation in _OF_PATHS:
        filename = subject
    elif operation in _OF_FILES:
        filename = None
    return kind(number, sentence.format(action=action, subject=subject), filename)
