# SPDX-License-Identifier: MIT
"""Paths in a temporary database, each name of them once."""

import hashlib
import os

from pyduet.maintenance.files.temporary import Temporary


class Places:
    """Directories in a temporary database, by number.

    For each its name is kept, and the number of the directory that it is in. So a path takes no
    more than its last name, however deep it is: what is in a directory has its number. The root
    is number 0. Whatever is asked may raise :class:`TargetError`: there is no room.
    """

    def __init__(self, data: Temporary) -> None:
        """Add them to a database, which has none yet."""
        self._data = data
        # A path is found by its hash: at once, and not by the names that lead to it.
        data.execute(
            "create table place (id integer primary key, above integer not null, "
            "name blob not null, hash blob not null unique)"
        )
        self._count = 0
        # What is in a directory comes together.
        self._known = self._shown = (0, b"")

    def __len__(self) -> int:
        """Return how many there are besides the root; their numbers are from 1 on."""
        return self._count

    def number(self, directory: bytes) -> int:
        """Return the number of a directory; it is added, with those that lead to it."""
        names = []
        path = directory
        while (number := self.known(path)) is None:
            path, _, name = path.rpartition(b"/")
            names.append(name)
        for name in reversed(names):
            path = joined(path, name)
            self._count += 1
            number = self._data.execute(
                "insert into place (above, name, hash) values (?, ?, ?)",
                (number, name, _hash(path)),
            ).lastrowid
        assert number is not None  # noqa: S101 - a row that was added has a number
        self._known = number, directory
        return number

    def known(self, directory: bytes) -> int | None:
        """Return the number of a directory; None if it has none."""
        if not directory:
            return 0
        if directory != self._known[1]:
            row = self._data.execute(
                "select id from place where hash = ?", (_hash(directory),)
            ).fetchone()
            if row is None:
                return None
            self._known = row[0], directory
        return self._known[0]

    def path(self, number: int) -> bytes:
        """Return the path of a directory."""
        if number != self._shown[0]:
            names = self._data.execute(
                "with recursive up(above, name) as (select above, name from place where id = ? "
                "union all select place.above, place.name from place join up on id = up.above) "
                "select name from up",
                (number,),
            ).fetchall()
            self._shown = number, b"/".join(name for (name,) in reversed(names))
        return self._shown[1]


def parted(path: str) -> tuple[bytes, bytes]:
    """Return the directory of a path, and the name in it."""
    directory, _, name = os.fsencode(path).rpartition(b"/")
    return directory, name


def joined(directory: bytes, name: bytes) -> bytes:
    """Return the path of a name in a directory."""
    return directory + b"/" + name if directory else name


def _hash(path: bytes) -> bytes:
    return hashlib.blake2b(path, digest_size=16).digest()
