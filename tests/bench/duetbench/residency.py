# SPDX-License-Identifier: MIT
"""In the guest: what is cached of a tree, asked in Python in one call and file by file."""

import ctypes
import gc
import os
import time
from collections.abc import Callable

from . import guest
from .guest import MOUNT, Sample, Settings

_TREE = f"{MOUNT}/watched/residency"
_FILES = 100_000
_ROUNDS = 2
# Of asm/unistd_64.h, since Linux 6.5.
_SYS_CACHESTAT = 451
_LIBC = ctypes.CDLL(None, use_errno=True)
_WHOLE_FILE = (ctypes.c_uint64 * 2)()
_COUNTS = (ctypes.c_uint64 * 5)()

# The path of each file that has pages cached, and how many.
_Answer = dict[str, int]


def _by_residency(path: str) -> _Answer:
    from pyduet import residency as ask

    return {one.path or str(one.file): one.cached for one in ask(path)}


def _by_mincore(path: str) -> _Answer:
    from pyduet import cached_pages

    return _walk(path, lambda file: len(cached_pages(file)))


def _by_cachestat(path: str) -> _Answer:
    return _walk(path, _cachestat)


def _walk(path: str, pages_of: Callable[[str], int]) -> _Answer:
    found = {}
    for where, _, names in os.walk(path):
        for name in names:
            file = os.path.join(where, name)
            if pages := pages_of(file):
                found[file] = pages
    return found


def _cachestat(path: str) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        if _LIBC.syscall(_SYS_CACHESTAT, fd, _WHOLE_FILE, _COUNTS, 0):
            number = ctypes.get_errno()
            raise OSError(number, f"cachestat, of Linux 6.5: {os.strerror(number)}", path)
        return _COUNTS[0]
    finally:
        os.close(fd)


_RESIDENCY = "pyduet.residency()"
_WAYS: dict[str, Callable[[str], _Answer]] = {
    _RESIDENCY: _by_residency,
    "os.walk, and mincore of each file": _by_mincore,
    "os.walk, and cachestat of each file": _by_cachestat,
}


def residency(_settings: Settings) -> None:
    """The same answer three ways, of a tree of which every other file is cached."""
    section = f"residency: {_FILES:,} one-page files in Python, half of them cached"
    guest.tree(_TREE, _FILES, 0)
    guest.load("cool")
    guest.load("readtree", _TREE, str(_FILES))
    _drop_every_other()
    for way in _WAYS:
        # For nothing: whatever Python loads and allocates but once.
        _ask(way, f"{_TREE}/000")
    for number in range(_ROUNDS):
        took = {}
        answers = {}
        for way in _WAYS:
            answers[way], nanoseconds = _ask(way, _TREE)
            took[way] = nanoseconds / _FILES
            guest.say(f"residency, round {number + 1} of {_ROUNDS}, {way}: {took[way]:.1f}")
        _compare(answers)
        for way, value in took.items():
            guest.emit(Sample(section, way, "per file of the tree", value))
            guest.emit(Sample(section, way, "times residency()", value / took[_RESIDENCY]))


def _drop_every_other() -> None:
    """Their inodes stay in memory: no walk has to read what another found there."""
    for where, _, names in os.walk(_TREE):
        for name in sorted(names)[1::2]:
            fd = os.open(os.path.join(where, name), os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def _ask(way: str, path: str) -> tuple[_Answer, int]:
    """The answer, and the nanoseconds that it took."""
    with guest.duet() if way == _RESIDENCY else guest.nothing():
        gc.collect()
        start = time.monotonic_ns()
        answer = _WAYS[way](path)
        return answer, time.monotonic_ns() - start


def _compare(answers: dict[str, _Answer]) -> None:
    """All ways have to tell the same files, with as many pages: half of the tree's."""
    reference = answers[_RESIDENCY]
    for way, answer in answers.items():
        differing = sorted({file for file, _ in reference.items() ^ answer.items()})
        if differing or len(answer) != _FILES // 2:
            raise SystemExit(
                f"bench: of {_FILES} files, half of them cached, {_RESIDENCY} tells "
                f"{len(reference)}, {way} {len(answer)}; in these they differ: {differing[:5]}"
            )
