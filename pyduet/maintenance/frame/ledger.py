# SPDX-License-Identifier: MIT
"""What a task has done, in a file that outlives it: SQLite, so that a crash loses seconds."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from pyduet.maintenance.frame.work import Stamp, Work

_VERSION = 1
_SCHEMA = """
create table about (name text primary key, value text not null) without rowid;
create table files (
    path blob primary key, ino integer, size integer, mtime integer, ctime integer,
    pass integer not null, note text
) without rowid;
"""
#: Seconds after which what was done is made to last.
_COMMIT = 5.0


class Record(NamedTuple):
    """A file as it was when it was processed."""

    stamp: Stamp
    #: The pass in which that was.
    passed: int
    #: What the task noted of it: what JSON can say.
    note: Any


class LedgerError(ValueError):
    """A ledger is another task's, or none; says what to do."""


class Ledger:
    """The files that were processed, and the passes; a context manager that closes it.

    A pass is one run over everything. One that was broken off goes on when the
    ledger is opened again; a new one begins when the last one ended.

    Thread-safety: none.
    """

    def __init__(self, file: str, kind: str, root: str) -> None:
        """Open a ledger, or make it.

        Args:
            file: where it is, or is to be; ``:memory:`` for none that lasts.
            kind: of the task.
            root: the task's directory.

        Raises:
            LedgerError: it is no ledger, or of another task or directory, or in
                use by a process that runs.
            OSError: it cannot be opened.

        """
        self.file = file
        if file != ":memory:" and os.path.dirname(file):
            os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
        try:
            self._data = sqlite3.connect(file, timeout=0, isolation_level=None)
            # One process at a time, for as long as it has it.
            self._data.execute("pragma locking_mode = exclusive")
            self._data.execute("begin immediate")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise LedgerError(f"{file}: another task is using it; wait for its end") from error
            raise OSError(0, str(error), file) from error
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{file} is no ledger of duet; name another with --state") from error
        self._committed = time.monotonic()
        try:
            self._open(kind, root)
        except BaseException:
            self._data.close()
            raise

    def __enter__(self) -> Self:
        """Return the ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close; see :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Close; what was not committed is not remembered."""
        self._data.close()

    @property
    def resumed(self) -> bool:
        """Whether the pass was begun by an earlier run that did not end it."""
        return self._resumed

    @property
    def number(self) -> int:
        """The number of the pass, from 1 on."""
        return self._pass

    def begin_anew(self) -> None:
        """Begin a new pass, whatever became of the last."""
        self._pass += 1
        self._resumed = False
        # Of another pass, which a task that goes on with this one must not take for its own.
        self._data.execute("delete from about where name glob 'task.*'")
        self._say("pass", self._pass)
        self._say("ended", False)

    def end(self) -> None:
        """End the pass."""
        self._say("ended", True)
        self.commit()

    def note(self, name: str, default: Any = None) -> Any:
        """Return something that the task said of itself with :meth:`remark`, in this pass."""
        return self._about(f"task.{name}", default)

    def remark(self, name: str, value: Any) -> None:
        """Keep something that the task wants to know in its next run: what JSON can say."""
        self._say(f"task.{name}", value)

    def get(self, path: str) -> Record | None:
        """Return what is known of a file, of whatever pass."""
        row = self._data.execute(
            "select ino, size, mtime, ctime, pass, note from files where path = ?",
            (os.fsencode(path),),
        ).fetchone()
        return None if row is None else _record(row)

    def put(self, work: Work, note: Any = None) -> None:
        """Note that a file was processed in this pass."""
        self._data.execute(
            "insert or replace into files values (?, ?, ?, ?, ?, ?, ?)",
            (
                os.fsencode(work.path),
                work.stamp.ino, work.stamp.size, work.stamp.mtime_ns, work.stamp.ctime_ns,
                self._pass,
                None if note is None else json.dumps(note),
            ),
        )  # fmt: skip

    @property
    def due(self) -> bool:
        """Whether it is time to :meth:`commit`."""
        return time.monotonic() - self._committed >= _COMMIT

    def forget(self, path: str) -> None:
        """Forget a file."""
        self._data.execute("delete from files where path = ?", (os.fsencode(path),))

    def files(self) -> Iterator[tuple[str, Record]]:
        """Yield all files, of whatever pass."""
        for path, *row in self._data.execute(
            "select path, ino, size, mtime, ctime, pass, note from files order by path"
        ):
            yield os.fsdecode(path), _record(row)

    def commit(self) -> None:
        """Make what was done last, also when the machine fails."""
        self._data.execute("commit")
        self._data.execute("begin immediate")
        self._committed = time.monotonic()

    def _open(self, kind: str, root: str) -> None:
        version = self._data.execute("pragma user_version").fetchone()[0]
        tables = self._data.execute("select count(*) from sqlite_master").fetchone()[0]
        if not version and not tables:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._data.execute(statement)
            self._data.execute(f"pragma user_version = {_VERSION}")
            self._say("kind", kind)
            self._say("root", root)
        elif version != _VERSION:
            raise LedgerError(f"{self.file} is no ledger of duet; name another with --state")
        for name, now in (("kind", kind), ("root", root)):
            before = self._about(name, None)
            if before != now:
                raise LedgerError(
                    f"{self.file} is the ledger of {name} {before}, not {now}; "
                    "name another with --state"
                )
        self._pass: int = self._about("pass", 0)
        self._resumed = self._pass > 0 and not self._about("ended", True)
        if not self._resumed:
            self.begin_anew()
        self.commit()

    def _about(self, name: str, default: Any) -> Any:
        row = self._data.execute("select value from about where name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def _say(self, name: str, value: Any) -> None:
        self._data.execute("insert or replace into about values (?, ?)", (name, json.dumps(value)))


def _record(row: Any) -> Record:
    ino, size, mtime, ctime, passed, note = row
    return Record(
        Stamp(ino, size, mtime, ctime), passed, None if note is None else json.loads(note)
    )
