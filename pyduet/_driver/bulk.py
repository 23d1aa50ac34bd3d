# SPDX-License-Identifier: MIT
"""Done marks and paths of many files with few calls."""

import ctypes
import errno
import itertools
import sys
from collections.abc import Iterable, Iterator

from pyduet._driver import abi
from pyduet._driver.descriptor import Descriptor
from pyduet.errors import Operation, error_for
from pyduet.events import FileId

#: Files that one call is given.
COUNT = 1024
#: Room for their paths, in bytes: more than any one needs.
ROOM = 16 * abi.PATH_LEN

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def marks(
    descriptor: Descriptor, flag: abi.Bmap, files: Iterable[FileId], *, tid: int = 0
) -> Iterator[tuple[FileId, int]]:
    """Do the same to the done marks of files; yield each with what came of it.

    Args:
        descriptor: of the task, or of the device.
        flag: what is done.
        files: to what.
        tid: the task, 0 over a task's own descriptor.

    Returns:
        Each file with the result of the single call, or with a negative errno.

    Raises:
        DuetError: a call failed as a whole.

    """
    for some in _chunks(files):
        refs = _refs(some)
        request = abi.Marks(flags=flag, tid=tid)
        done = 0
        while done < len(some):
            request.nr, request.files = len(some) - done, _address(refs, done)
            descriptor.ioctl(abi.IOC_MARKS, request, Operation.BMAP, _subject(some))
            if not request.nr:
                raise _stuck(Operation.BMAP, some)
            done += request.nr
        yield from zip(some, _results(refs), strict=True)


def paths(
    descriptor: Descriptor, files: Iterable[FileId], *, tid: int = 0
) -> Iterator[tuple[FileId, str | int]]:
    """Ask for the paths of files; yield each with its path or with a negative errno.

    Args:
        descriptor: of the task, or of the device.
        files: whose paths.
        tid: the task, 0 over a task's own descriptor.

    Raises:
        DuetError: a call failed as a whole.

    """
    room = ctypes.create_string_buffer(ROOM)
    for some in _chunks(files):
        refs = _refs(some)
        done = 0
        while done < len(some):
            request = abi.Paths(
                tid=tid,
                nr=len(some) - done,
                len=ROOM,
                files=_address(refs, done),
                buf=ctypes.addressof(room),
            )
            descriptor.ioctl(abi.IOC_PATHS, request, Operation.PATH, _subject(some))
            if not request.nr:
                raise _stuck(Operation.PATH, some)
            used = ctypes.string_at(room, request.len)
            end = done + request.nr
            for file, result in zip(some[done:end], _results(refs)[done:end], strict=True):
                yield file, result if result < 0 else _text(used, result)
            done = end


def _chunks(files: Iterable[FileId]) -> Iterator[list[FileId]]:
    rest = iter(files)
    while some := list(itertools.islice(rest, COUNT)):
        yield some


def _refs(files: list[FileId]) -> "ctypes.Array[ctypes.c_char]":
    """Return the files as the driver wants them, without an object for each."""
    pack = abi.FILE_REF.pack
    packed = b"".join([pack(ino, generation, 0) for ino, generation in files])
    return ctypes.create_string_buffer(packed, len(packed))


def _results(refs: "ctypes.Array[ctypes.c_char]") -> list[int]:
    return [result for _, _, result in abi.FILE_REF.iter_unpack(refs.raw)]


def _address(refs: "ctypes.Array[ctypes.c_char]", index: int) -> int:
    return ctypes.addressof(refs) + index * abi.FILE_REF.size


def _text(used: bytes, offset: int) -> str:
    """Return the path at an offset, as ``os.fsdecode`` would."""
    return str(used[offset : used.index(b"\0", offset)], _ENCODING, _ERRORS)


def _subject(files: list[FileId]) -> str:
    return str(files[0]) if len(files) == 1 else f"{len(files)} files"


def _stuck(operation: Operation, files: list[FileId]) -> OSError:
    """Return the error for a call that succeeded and did nothing: better than to ask for ever."""
    return error_for(errno.EIO, operation, _subject(files))
