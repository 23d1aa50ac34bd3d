# SPDX-License-Identifier: MIT
"""What there is to do below a directory: found without reading a file's data."""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pyduet.files import generation_of
from pyduet.maintenance.files.extents import first_place
from pyduet.maintenance.frame.work import Problem, Stamp, Trouble, Work


class Found(NamedTuple):
    """Something below the directory."""

    #: Relative to the directory; empty for itself.
    path: str
    status: os.stat_result


def stamp_of(status: os.stat_result) -> Stamp:
    """Return the stamp of a file's status."""
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def walk(root: str, trouble: Callable[[Problem], None]) -> Iterator[Found]:
    """Yield the directory and all below it that is on its file system, as ``find -xdev`` does.

    A directory comes before what is in it. Nothing is opened but directories.

    Args:
        root: the directory.
        trouble: told of what cannot be looked into; the walk goes on.

    Raises:
        OSError: of the directory itself.

    """
    status = os.lstat(root)
    yield Found("", status)
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(os.path.join(root, directory)) as listing:
                entries = sorted(listing, key=lambda entry: entry.inode())
        except OSError as error:
            if not directory:
                raise
            trouble(problem_of(directory, error))
            continue
        for entry in entries:
            path = os.path.join(directory, entry.name)
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # it was never part of the work
            if found.st_dev != status.st_dev:
                continue
            yield Found(path, found)
            if stat.S_ISDIR(found.st_mode):
                waiting.append(path)


def regular(found: Iterable[Found]) -> Iterator[Found]:
    """Yield the regular files, of each the first name only."""
    linked = set()
    for one in found:
        if not stat.S_ISREG(one.status.st_mode):
            continue
        if one.status.st_nlink > 1:
            if one.status.st_ino in linked:
                continue
            linked.add(one.status.st_ino)
        yield one


def work_of(root: str, found: Found) -> Work:
    """Return the work that a regular file is; opens it, reads nothing, leaves its times alone.

    Raises:
        OSError: it cannot be opened.

    """
    fd = open_quietly(os.path.join(root, found.path))
    try:
        return Work(found.path, stamp_of(os.fstat(fd)), _generation(fd), first_place(fd))
    finally:
        os.close(fd)


def open_quietly(path: str) -> int:
    """Open a regular file for reading without changing its access time, where that is permitted."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:
        return os.open(path, flags)


def problem_of(path: str, error: OSError) -> Problem:
    """Return what an error says of a file."""
    trouble = {
        errno.ENOENT: Trouble.VANISHED,
        errno.ESTALE: Trouble.VANISHED,
        errno.EACCES: Trouble.REFUSED,
        errno.EPERM: Trouble.REFUSED,
    }.get(error.errno or 0, Trouble.FAILED)
    return Problem(path, trouble, error.strerror or str(error))


def _generation(fd: int) -> int:
    """Return the inode generation; 0 where the file system has none."""
    try:
        return generation_of(fd)
    except OSError:
        return 0
