# SPDX-License-Identifier: MIT
"""What rsync prints, as log.c and full_fname() of rsync write it."""

import errno
import os
import re
from collections.abc import Iterable, Iterator

from pyduet.maintenance.work import Problem, Trouble

#: How rsync writes what is not printable, and what could be taken for that.
_ESCAPED = re.compile(rb"\\#([0-7]{3})")
#: Characters of ``%i``, and how those of a file that is sent begin: direction and kind.
_WIDTH = 11
_SENT = re.compile(rb"[<>]f")
#: The file that an error is about: the first name in quotes, or what stands for one.
_NAMED = (
    re.compile(rb'"(.+?)"(?=$|[ :)])'),
    re.compile(rb"^(?:ERROR|WARNING): (.+) failed verification "),
    re.compile(rb"^(?:cannot delete non-empty directory|could not make way for [^:]+): (.+)$"),
    re.compile(rb"\b(?:unlink|rmdir|rename|mkdir|link_stat)\((.+)\) failed: "),
)
_NUMBER = re.compile(rb"\((\d+)\)$")
_CODE = re.compile(rb"^rsync (?:error|warning): (.*) \(code (\d+)\)")
_TROUBLES = {errno.EPERM: Trouble.REFUSED, errno.EACCES: Trouble.REFUSED}


def plain(words: bytes) -> bytes:
    """Return what rsync printed without its escapes."""
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 8) & 0xFF]), words)


def sent(lines: Iterator[bytes], mark: bytes) -> Iterator[bytes]:
    """Yield the names of the files that rsync would send.

    Args:
        lines: of its output, in the format ``{mark}%i%n``.
        mark: that nobody else can print: neither a daemon, nor who named a file.

    """
    for line in lines:
        if line.startswith(mark) and _SENT.match(line, len(mark)):
            yield plain(line[len(mark) + _WIDTH :].rstrip(b"\n"))


def shown(line: bytes, mark: bytes) -> tuple[bytes, bool] | None:
    """Return a line of a batch as the user is to see it; None for what is of no file.

    Args:
        line: in the format ``{mark}%i`` and then the user's.
        mark: as of :func:`sent`.

    Returns:
        The user's part, and whether a file is sent: else it is of a directory above one.

    """
    if not line.startswith(mark):
        return None
    return line[len(mark) + _WIDTH :], bool(_SENT.match(line, len(mark)))


def problem_of(line: bytes, roots: Iterable[str], target: str) -> Problem | None:
    """Return what a line of stderr says of a file; None when it is not of one.

    Args:
        line: without its end.
        roots: absolute paths of the source.
        target: the target, which other names are relative to.

    """
    found = next(filter(None, (one.search(line) for one in _NAMED)), None)
    if found is None or _CODE.match(line):
        return None
    path = os.fsdecode(plain(found[1]))
    for root in roots:
        if path == root or path.startswith(root.rstrip("/") + "/"):
            path = os.path.relpath(path, root)
            break
    else:
        path = os.path.join(target, path)
    number = _NUMBER.search(line)
    trouble = _TROUBLES.get(int(number[1]) if number else 0, Trouble.FAILED)
    if b" has vanished: " in line:
        trouble = Trouble.VANISHED
    return Problem(path, trouble, os.fsdecode(plain(line)))


def reason_of(line: bytes) -> str | None:
    """Return why rsync ended, if a line of stderr says that."""
    found = _CODE.match(line)
    return os.fsdecode(plain(found[1])) if found else None
