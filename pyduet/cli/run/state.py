# SPDX-License-Identifier: MIT
"""Where the ledger of a task is, when nobody says."""

import contextlib
import hashlib
import os

from pyduet.cli.places import state_directory

#: Where root's are.
_ROOTS = "/var/lib/duet"
_SUFFIX = b".ledger"
#: NAME_MAX of linux/limits.h, less what SQLite adds to the name of a database for its journal, and
#: what is added to that of a ledger that is moved aside.
_LONGEST = 255 - len(".damaged-999-journal")
#: Bytes that there are at least for either path in a name, whatever the task is called.
_PART = 100


def default_ledger(kind: str, root: str, within: str = "") -> str:
    """Return the file for a task and a directory, and what else it is kept apart by.

    Its name is the task and the paths as systemd escapes them. Where they are too
    long for a name, only the beginning is there of each that is long, and a digest
    of all of it.

    Args:
        kind: of the task.
        root: the directory, absolute and without symbolic links.
        within: a further path or name; empty for none.

    Raises:
        ValueError: there is no place for it; says what to do.

    """
    paths = [_escaped(path) for path in (root, within) if path]
    name = _name(kind, *paths)
    if len(name) > _LONGEST:
        name = _name(kind, *map(_short, paths))
    return os.path.join(_directory(), os.fsdecode(name))


def ledgers(kind: str, root: str) -> list[str]:
    """Return the files that there are for a task and a directory, kept apart by whatever.

    Raises:
        ValueError: there is no place for them, or it cannot be looked into; says what to do.

    """
    path = _escaped(root)
    wanted = {_name(kind, path), _name(kind, _short(path))}
    directory = _directory()
    try:
        with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
            return sorted(entry.path for entry in entries if _of_root(entry.name) in wanted)
    except OSError as error:
        raise ValueError(
            f"{directory} cannot be looked into ({error.strerror}); name the ledger with --state"
        ) from error
    return []


def _name(kind: str, *paths: bytes) -> bytes:
    return kind.encode() + b"-" + b"@".join(paths) + _SUFFIX


def _of_root(name: str) -> bytes:
    """Return what a ledger would be called that nothing but its directory keeps apart."""
    base, suffix = os.path.splitext(os.fsencode(name))
    return base.partition(b"@")[0] + suffix


def _escaped(path: str) -> bytes:
    """Return a path as a part of a name: of its bytes, which are the same in each locale."""
    escaped = os.fsencode(path)
    for letter in rb"\-@":
        escaped = escaped.replace(b"%c" % letter, rb"\x%x" % letter)
    return escaped.strip(b"/").replace(b"/", b"-") or b"-"


def _short(path: bytes) -> bytes:
    if len(path) <= _PART:
        return path
    digest = b"..." + hashlib.sha256(path).hexdigest()[:32].encode()
    # No half of a letter, where it is UTF-8.
    return path[: _PART - len(digest)].decode(errors="ignore").encode() + digest


def _directory() -> str:
    if os.geteuid() == 0:
        return _ROOTS
    try:
        return state_directory()
    except ValueError as error:
        raise ValueError(f"{error}; name a file for what was done: --state FILE") from None
