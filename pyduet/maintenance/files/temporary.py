# SPDX-License-Identifier: MIT
"""Lists of what is in a tree, on the disk and not in memory; gone when they are closed."""

import functools
import os
import sqlite3
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pyduet.maintenance.work import TargetError

#: KiB of a database that are in memory; SQLite keeps the rest in a file without a name.
_CACHE_KIB = 16 << 10
#: What SQLite says without room; and then, of a database without a journal, that it is corrupt.
_CODES = (
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT,
)  # fmt: skip
#: Where SQLite makes that file: the first of these that is a directory and may be written.
_PLACES = "SQLITE_TMPDIR", "TMPDIR"
_FURTHER = "/var/tmp", "/usr/tmp", "/tmp"  # noqa: S108 - SQLite's own choice
_P = ParamSpec("_P")
_T = TypeVar("_T")


def _said(use: Callable[_P, _T]) -> Callable[_P, _T]:
    """Have a use of a database say in words that there is no room, and what to do."""

    @functools.wraps(use)
    def used(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return use(*args, **kwargs)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _CODES:
                raise
            raise TargetError(
                0,
                f"the list of files cannot be kept there ({error}): set SQLITE_TMPDIR to a "
                "directory that has room",
                _place(),
            ) from error

    return used


class Rows(sqlite3.Cursor):
    """What a statement found; more of it is computed, and may need room, as it is fetched."""

    execute = _said(sqlite3.Cursor.execute)
    executemany = _said(sqlite3.Cursor.executemany)
    fetchone = _said(sqlite3.Cursor.fetchone)
    fetchall = _said(sqlite3.Cursor.fetchall)

    @_said
    def __next__(self) -> Any:
        """Return the next row."""
        return super().__next__()


class Temporary(sqlite3.Connection):
    """A database that is gone when it is closed, and takes little memory.

    Whatever uses it may raise:

    Raises:
        TargetError: there is no room for it; says what to do.

    """

    def __init__(self) -> None:
        """Make it, empty."""
        # Also by a thread that listens to another program; never by two at a time.
        super().__init__("", isolation_level=None, check_same_thread=False)
        self.execute(f"pragma cache_size = -{_CACHE_KIB}")
        self.execute("pragma journal_mode = off")
        self.execute("pragma synchronous = off")
        self.execute("pragma temp_store = file")
        self.execute("begin")

    def execute(self, sql: str, parameters: Any = (), /) -> Rows:
        """Execute a statement."""
        return self.cursor(Rows).execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> Rows:
        """Execute a statement for each of some rows."""
        return self.cursor(Rows).executemany(sql, parameters)


def signed(number: int) -> int:
    """Return a number of an inode or a device as SQLite keeps numbers: 64 bits with a sign."""
    return number - (1 << 64) if number >> 63 else number


def _place() -> str:
    places = (*filter(None, map(os.environ.get, _PLACES)), *_FURTHER)
    usable = (one for one in places if os.path.isdir(one) and os.access(one, os.W_OK | os.X_OK))
    return next(usable, ".")
