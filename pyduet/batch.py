# SPDX-License-Identifier: GPL-2.0-only
"""Done marks and paths of many files with few calls, over a task's own descriptor."""

import ctypes
import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator

from pyduet import abi
from pyduet.call import call
from pyduet.errors import Operation, error_for
from pyduet.events import FileId

#: Files that one call is given.
COUNT = 1024
#: Room for their paths, in bytes: more than any one needs.
ROOM = 16 * abi.PATH_LEN


def marks(
    fileno: Callable[[], int], flag: abi.Bmap, files: Iterable[FileId]
) -> Iterator[tuple[FileId, int]]:
    """Do the same to the done marks of files; yield each with what came of it.

    Args:
        fileno: returns the task's descriptor.
        flag: what is done.
        files: to what.

    Returns:
        Each file with the result of the single call, or with a negative errno.

    Raises:
        DuetError: a call failed as a whole.

    """
    for some in _chunks(files):
        refs = _refs(some)
        request = abi.Marks(flags=flag)
        done = 0
        while done < len(some):
            request.nr, request.files = len(some) - done, _address(refs, done)
            call(fileno(), abi.IOC_MARKS, request, Operation.BMAP, _subject(some))
            if not request.nr:
                raise _stuck(Operation.BMAP, some)
            done += request.nr
        yield from ((file, ref.result) for file, ref in zip(some, refs, strict=True))


def paths(fileno: Callable[[], int], files: Iterable[FileId]) -> Iterator[tuple[FileId, str | int]]:
    """Ask for the paths of files; yield each with its path or with a negative errno.

    Args:
        fileno: returns the task's descriptor.
        files: whose paths.

    Raises:
        DuetError: a call failed as a whole.

    """
    room = ctypes.create_string_buffer(ROOM)
    for some in _chunks(files):
        refs = _refs(some)
        done = 0
        while done < len(some):
            request = abi.Paths(
                nr=len(some) - done,
                len=ROOM,
                files=_address(refs, done),
                buf=ctypes.addressof(room),
            )
            call(fileno(), abi.IOC_PATHS, request, Operation.PATH, _subject(some))
            if not request.nr:
                raise _stuck(Operation.PATH, some)
            used = room.raw[: request.len]
            for file, ref in zip(some[done:], refs[done : done + request.nr], strict=False):
                yield file, ref.result if ref.result < 0 else _text(used, ref.result)
            done += request.nr


def _chunks(files: Iterable[FileId]) -> Iterator[list[FileId]]:
    rest = iter(files)
    while some := list(itertools.islice(rest, COUNT)):
        yield some


def _refs(files: list[FileId]) -> "ctypes.Array[abi.FileRef]":
    return (abi.FileRef * len(files))(
        *(abi.FileRef(ino=file.ino, gen=file.generation) for file in files)
    )


def _address(refs: "ctypes.Array[abi.FileRef]", index: int) -> int:
    return ctypes.addressof(refs) + index * ctypes.sizeof(abi.FileRef)


def _text(used: bytes, offset: int) -> str:
    return os.fsdecode(used[offset : used.index(b"\0", offset)])


def _subject(files: list[FileId]) -> str:
    return str(files[0]) if len(files) == 1 else f"{len(files)} files"


def _stuck(operation: Operation, files: list[FileId]) -> OSError:
    """Return the error for a call that succeeded and did nothing: better than to ask for ever."""
    return error_for(errno.EIO, operation, _subject(files))
