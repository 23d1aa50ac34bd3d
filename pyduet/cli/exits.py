# SPDX-License-Identifier: MIT
"""The exit codes of ``duet``: docs/command.md has them as a table, and a test compares."""

import enum
import signal

from pyduet import errors


class Terminated(KeyboardInterrupt):
    """Somebody ended the process with SIGTERM, which is cleaned up after as after Ctrl-C."""


class Exit(enum.IntEnum):
    """The exit codes, all of them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_LOADED = 3
    NOT_PERMITTED = 4
    OFF = 5
    ALREADY = 6
    IN_USE = 7
    BAD_PATH = 8
    UNSUPPORTED = 9
    INCOMPLETE = 10
    GONE = 11
    NAMED = 12
    INTERRUPTED = 128 + signal.SIGINT
    BROKEN_PIPE = 128 + signal.SIGPIPE
    TERMINATED = 128 + signal.SIGTERM

    @property
    def meaning(self) -> str:
        """What it says, in words."""
        return _MEANING[self]


_MEANING = {
    Exit.OK: "done",
    Exit.FAILED: "failed, see the message",
    Exit.USAGE: "wrong arguments or configuration; nothing was done",
    Exit.NOT_LOADED: "the kernel module is not loaded",
    Exit.NOT_PERMITTED: "not permitted",
    Exit.OFF: "Duet is off",
    Exit.ALREADY: "it is on, or off, already",
    Exit.IN_USE: "every task is taken, or what is in use forbids a setting",
    Exit.BAD_PATH: "the path does not exist, or is not of the right kind",
    Exit.UNSUPPORTED: "Duet does not watch this file system, or not on this kernel",
    Exit.INCOMPLETE: "not all could be told within the memory limits",
    Exit.GONE: "what was watched, or the task, is gone",
    Exit.NAMED: "done, but for files that are named",
    Exit.INTERRUPTED: "ended by Ctrl-C",
    Exit.BROKEN_PIPE: "the reader of the output went away",
    Exit.TERMINATED: "ended by SIGTERM",
}

_EXIT_OF: list[tuple[type[BaseException], Exit]] = [
    (errors.NotLoadedError, Exit.NOT_LOADED),
    (errors.OffError, Exit.OFF),
    (errors.AlreadyError, Exit.ALREADY),
    (errors.TooManyTasksError, Exit.IN_USE),
    (errors.InUseError, Exit.IN_USE),
    (errors.UnsupportedFilesystemError, Exit.UNSUPPORTED),
    (errors.IncompleteError, Exit.INCOMPLETE),
    (errors.TaskGoneError, Exit.GONE),
    (PermissionError, Exit.NOT_PERMITTED),
    (FileNotFoundError, Exit.BAD_PATH),
    (NotADirectoryError, Exit.BAD_PATH),
    (IsADirectoryError, Exit.BAD_PATH),
]


def exit_of(error: BaseException) -> Exit:
    """Return the exit code for an error that ends a command."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, errors.DuetError):
        # Those of the library's own classes say by their number what they are.
        error = OSError(error.errno, "")
    return next((code for kind, code in _EXIT_OF if isinstance(error, kind)), Exit.FAILED)
