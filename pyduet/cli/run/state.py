# SPDX-License-Identifier: MIT
"""Where the ledger of a task is, when nobody says."""

import hashlib
import os

from pyduet.cli.places import state_directory

#: Where root's are.
_ROOTS = "/var/lib/duet"
#: NAME_MAX of linux/limits.h, less what SQLite adds to the name of a database for its journal.
_LONGEST = 255 - len("-journal")


def default_ledger(kind: str, root: str) -> str:
    """Return the file for a task and a directory.

    Its name is the task and the path as systemd escapes it. Of one that is too
    long for a name only the beginning is there, and a digest of all of it.

    Args:
        kind: of the task.
        root: the directory, absolute and without symbolic links.

    Raises:
        ValueError: there is no place for it; says what to do.

    """
    name = root.strip("/").replace("-", "\\x2d").replace("/", "-") or "-"
    room = _LONGEST - len(f"{kind}-.ledger")
    if len(os.fsencode(name)) > room:
        digest = f"...{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}"
        name = name[: room - len(digest)]
        while len(os.fsencode(name)) > room - len(digest):
            name = name[:-1]
        name += digest
    return os.path.join(_directory(), f"{kind}-{name}.ledger")


def _directory() -> str:
    if os.geteuid() == 0:
        return _ROOTS
    try:
        return state_directory()
    except ValueError as error:
        raise ValueError(f"{error}; name a file for what was done: --state FILE") from None
