# SPDX-License-Identifier: MIT
"""A fresh file beside another one, whose blocks are exchanged with that one's.

It never takes the last room of a file system: see :func:`spare`.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from pyduet._text.numbers import size
from pyduet.maintenance.work import BadFileError, Trouble

#: What stays free for others: a twentieth of the file system, but not more bytes than this.
_RESERVE_PART, _RESERVE = 20, 1 << 30
#: Bytes that are allocated at a time; before and after it is looked what is left.
_STEP = 1 << 30


@contextlib.contextmanager
def donor(directory: int) -> Iterator[int]:
    """Yield a fresh file that has no name and never gets one; it is gone with the context.

    Args:
        directory: descriptor of that of the file: what lies in one directory is
            placed together, and counted to the same project.

    Raises:
        OSError: it cannot be made there.

    """
    flags = os.O_TMPFILE | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
    fd = os.open(".", flags, 0o600, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)


def can_be_made(directory: int) -> None:
    """Ensure that donors can be made in a directory.

    Raises:
        OSError: they cannot.

    """
    with donor(directory):
        pass


def allocate(fd: int, start: int, stop: int) -> None:
    """Allocate bytes of a donor.

    Raises:
        BadFileError: there is not enough room.

    """
    while start < stop:
        step = min(_STEP, stop - start)
        room(fd, step)
        try:
            os.posix_fallocate(fd, start, step)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise BadFileError(Trouble.NO_ROOM, str(error.strerror)) from error
        start += step
    # Others may have taken theirs meanwhile.
    room(fd, 0)


def room(fd: int, wanted: int) -> None:
    """Ensure that so many bytes may be taken of the file system that a file is on.

    Raises:
        BadFileError: there is not enough room.

    """
    free, reserve = spare(fd)
    if free - wanted < reserve:
        raise BadFileError(
            Trouble.NO_ROOM,
            f"to be moved it needs {size(wanted)} for a while; {size(free)} are free, of which "
            f"{size(reserve)} are left to others",
        )


def spare(fd: int) -> tuple[int, int]:
    """Return how many bytes are free where a file is, and how many of them stay free for others.

    What only root may use is not counted, not even for root.
    """
    state = os.fstatvfs(fd)
    reserve = min(state.f_blocks * state.f_frsize // _RESERVE_PART, _RESERVE)
    return state.f_bavail * state.f_frsize, reserve
