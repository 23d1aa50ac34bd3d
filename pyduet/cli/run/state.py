# SPDX-License-Identifier: MIT
"""Where the ledger of a task is, when nobody says."""

import contextlib
import hashlib
import os

from pyduet.cli.places import state_directory

#: Where root's are.
_ROOTS = "/var/lib/duet"
#: NAME_MAX of linux/limits.h, less what SQLite adds to the name of a database for its journal.
_LONGEST = 255 - len("-journal")


def default_ledger(kind: str, root: str, within: str = "") -> str:
    """Return the file for a task and a directory, and what else it is kept apart by.

    Its name is the task and the path as systemd escapes it. Of one that is too
    long for a name only the beginning is there, and a digest of all of it.

    Args:
        kind: of the task.
        root: the directory, absolute and without symbolic links.
        within: a further path or name; empty for none.

    Raises:
        ValueError: there is no place for it; says what to do.

    """
    name = _escaped(root) + (f"@{_escaped(within)}" if within else "")
    room = _LONGEST - len(f"{kind}-.ledger")
    if len(os.fsencode(name)) > room:
        digest = f"...{hashlib.sha256(os.fsencode(root + within)).hexdigest()[:32]}"
        name = name[: room - len(digest)]
        while len(os.fsencode(name)) > room - len(digest):
            name = name[:-1]
        name += digest
    return os.path.join(_directory(), f"{kind}-{name}.ledger")


def ledgers(kind: str, root: str) -> list[str]:
    """Return the files that there are for a task and a directory, kept apart by whatever."""
    beginning = f"{kind}-{_escaped(root)}"
    with contextlib.suppress(FileNotFoundError), os.scandir(_directory()) as entries:
        return sorted(
            entry.path
            for entry in entries
            if entry.name.endswith(".ledger")
            and entry.name.removesuffix(".ledger").partition("@")[0] == beginning
        )
    return []


def _escaped(path: str) -> str:
    for letter in "-@":
        path = path.replace(letter, f"\\x{ord(letter):x}")
    return path.strip("/").replace("/", "-") or "-"


def _directory() -> str:
    if os.geteuid() == 0:
        return _ROOTS
    try:
        return state_directory()
    except ValueError as error:
        raise ValueError(f"{error}; name a file for what was done: --state FILE") from None
