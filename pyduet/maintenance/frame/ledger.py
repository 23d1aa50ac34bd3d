# SPDX-License-Identifier: MIT
"""What a task has done, in a file that outlives it: SQLite, so that a crash loses seconds."""

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

from pyduet._place import Place
from pyduet._text.names import path_of, text_of
from pyduet.maintenance.files.statx import Status
from pyduet.maintenance.files.temporary import signed
from pyduet.maintenance.frame import second_name
from pyduet.maintenance.frame.second_name import SecondName
from pyduet.maintenance.work import Stamp, Work

#: The format of the file, in its ``user_version``.
_VERSION = 2
# A file is known by its inode: number and time of birth. Its path is where it was seen last. A
# time is seconds and nanoseconds, since nanoseconds alone end in 2262; a number above 2^63 is kept
# as SQLite has numbers, below 0.
_COLUMNS = (
    "ino, born, born_ns, generation, path, size, mtime, mtime_ns, ctime, ctime_ns, settled, pass, "
    "note"
)
_TABLE = """
    ino integer not null, born integer not null, born_ns integer not null,
    generation integer not null, path blob not null, size integer not null,
    mtime integer not null, mtime_ns integer not null,
    ctime integer not null, ctime_ns integer not null, settled integer not null,
    pass integer not null, note text, primary key (ino, born, born_ns)
"""
_SCHEMA = f"""
create table about (name text primary key, value text not null) without rowid;
create table done ({_TABLE}) without rowid;
create table now ({_TABLE}) without rowid;
"""
#: Seconds after which what was done is made to last.
_COMMIT = 5.0
_NS = 10**9


class Record(NamedTuple):
    """A file as it was when it was processed.

    Attributes:
        path: where it was then.
        stamp: what tells whether its content is still the same.
        generation: of its inode; 0 where the file system tells none.
        settled: whether the stamp could be believed: see :func:`settled.settle`.
        passed: the pass in which that was.
        note: what the task noted of it: what JSON can say.

    """

    path: str
    stamp: Stamp
    generation: int
    settled: bool
    passed: int
    note: Any

    def holds(self, stamp: Stamp) -> bool:
        """Return whether a file that has a stamp now has not been written since."""
        return self.settled and self.stamp == stamp


class LedgerError(ValueError):
    """A ledger is another task's, or none, or damaged; says what to do."""


class Ledger:
    """The files that were processed, and the passes; a context manager that closes it.

    A pass is one run over everything. One that was broken off goes on when the
    ledger is opened again; a new one begins when the last one ended. What was
    done in a pass counts for later ones only when it has ended: a pass that is
    given up (:meth:`begin_anew`) leaves no trace.

    After an error it takes and tells nothing more; what was committed stays.

    Attributes:
        file: where it is.
        warning: what is to be said of a damaged one, of which this takes the place.

    Thread-safety: none.
    """

    def __init__(
        self, file: str, kind: str, root: str, *, anew: bool = False, read_only: bool = False
    ) -> None:
        """Open a ledger, or make it.

        Args:
            file: where it is, or is to be; ``:memory:`` for none that lasts.
            kind: of the task.
            root: the task's directory.
            anew: give up a pass that was broken off; a ledger that is damaged is
                moved aside.
            read_only: change nothing: to look at what a run would do. One that would be moved
                aside stays, and counts as empty. What a crash left in the middle of a write is
                taken back all the same, as SQLite has to.

        Raises:
            LedgerError: it is no ledger, or of another task or directory, or in
                use by a process that runs, or damaged; or it cannot be made or opened.
            OSError: it is damaged, and cannot be moved aside.

        """
        self.file = file
        self.warning: str | None = None
        self._second: SecondName | None = None
        self._read_only = read_only
        self._where = (kind, text_of(root))
        try:
            self._begin(file)
            if anew:
                self._check()
        except _DamagedError:
            if not anew:
                raise
            aside = self._aside()
            if read_only:
                does = f"a run would move it to {aside}, and begin with an empty one"
                self._begin(":memory:")
            else:
                does = f"it was moved to {aside}, and an empty one was begun"
                self._move_to(aside)
                self._begin(file)
            self.warning = f"{self.file} is damaged: {does}"
        if anew and self._resumed:
            self.begin_anew()

    def _begin(self, file: str) -> None:
        if self._read_only and not os.path.exists(file):
            file = ":memory:"
        self._failed: Exception | None = None
        if file != ":memory:":
            try:
                file = self._placed()
            except OSError as error:
                raise LedgerError(
                    f"{file}: it cannot be made or used ({error.filename}: {error.strerror}); name "
                    "another with --state"
                ) from error
        try:
            with self._told():
                self._data = self._connected(file)
        except BaseException:
            self._let_go()
            raise
        self._committed = time.monotonic()
        try:
            with self._told():
                if self._read_only and _is_empty(self._data):
                    self._data.close()
                    self._data = self._connected(":memory:")
                self._open(*self._where)
        except BaseException:
            self.close()
            raise

    def _placed(self) -> str:
        """Make the file, for its owner alone, unless it is there; returns what SQLite is to open.

        SQLite makes its journal with the same permissions. It looks for one by
        path, does what is in it, and removes what that names: so nobody else may
        put one there.
        """
        try:
            place = Place(self.file)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.file), mode=0o700, exist_ok=True)
            place = Place(self.file)
        with place:
            is_own = place.need_own_directory(sticky=True)
            if not self._read_only:
                with contextlib.suppress(FileExistsError):
                    os.close(place.make(place.name))
            self.file = place.path
            if is_own:
                return self.file
            self._second = SecondName(place)
            return self._second.path

    def _connected(self, file: str) -> sqlite3.Connection:
        if self._read_only and file != ":memory:":
            # No lock for writing: but who writes has it for as long as it runs. What a crash left
            # half written is taken back by who opens it for writing, where that is permitted.
            name = "file:" + "".join(f"%{byte:02x}" for byte in os.fsencode(os.path.abspath(file)))
            data = sqlite3.connect(name + "?mode=rw", timeout=0, isolation_level=None, uri=True)
            data.execute("pragma query_only = on")
            data.execute("begin")
            return data
        data = sqlite3.connect(file, timeout=0, isolation_level=None)
        try:
            # One process at a time, for as long as it has it.
            data.execute("pragma locking_mode = exclusive")
            data.execute("begin immediate")
        except BaseException:
            data.close()
            raise
        return data

    def _check(self) -> None:
        """Read all of it, since damage shows only where it is looked at."""
        try:
            with self._told():
                found = self._data.execute("pragma quick_check(1)").fetchone()[0]
        except BaseException:
            self.close()
            raise
        if found != "ok":
            self.close()
            raise self._error(sqlite3.DatabaseError(found))

    def _aside(self) -> str:
        """Return where a damaged one is moved to."""
        number = 1
        while os.path.exists(aside := f"{self.file}.damaged-{number}"):
            number += 1
        return aside

    def _move_to(self, aside: str) -> None:
        os.rename(self.file, aside)
        for suffix in ("-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(self.file + suffix, aside + suffix)

    def __enter__(self) -> Self:
        """Return the ledger itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close; see :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Close; what was not committed is not remembered."""
        self._data.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._second is not None:
            self._second.close()
            self._second = None

    @property
    def resumed(self) -> bool:
        """Whether the pass was begun by an earlier run that did not end it."""
        return self._resumed

    @property
    def number(self) -> int:
        """The number of the pass, from 1 on."""
        return self._pass

    @property
    def files_kept(self) -> tuple[str, ...]:
        """The files that it is kept in, whether they are there or not."""
        if self.file == ":memory:":
            return ()
        beside = tuple(self.file + suffix for suffix in ("", "-journal", "-wal", "-shm"))
        return beside if self._second is None else (*beside, *second_name.paths(self.file))

    def begin_anew(self) -> None:
        """Begin a new pass; of the last one, if it did not end, nothing counts."""
        self._pass += 1
        self._resumed = False
        if self._read_only:
            self._given_up = True
            return
        with self._told():
            self._data.execute("delete from now")
            # Of another pass, which a task that goes on with this one must not take for its own.
            self._data.execute("delete from about where name glob 'task.*'")
            self._say("pass", self._pass)
            self._say("ended", False)

    def end(self) -> None:
        """End the pass: from here on what was done in it counts."""
        with self._told():
            self._data.execute("insert or replace into done select * from now")
            self._data.execute("delete from now")
            self._say("ended", True)
        self.commit()

    def note(self, name: str, default: Any = None) -> Any:
        """Return something that the task said of itself with :meth:`remark`, in this pass."""
        if self._given_up:
            return default
        with self._told():
            return self._about(f"task.{name}", default)

    def remark(self, name: str, value: Any) -> None:
        """Keep something that the task wants to know in its next run.

        Args:
            name: of it.
            value: what JSON can say. A path is kept as :func:`~pyduet._text.names.text_of` has it.

        """
        with self._told():
            self._say(f"task.{name}", value)

    def fact(self, name: str, default: Any = None) -> Any:
        """Return what the task kept with :meth:`keep`, in whatever pass."""
        with self._told():
            return self._about(f"kept.{name}", default)

    def keep(self, name: str, value: Any) -> None:
        """Keep something for good, also when the pass is given up; arguments of :meth:`remark`."""
        with self._told():
            self._say(f"kept.{name}", value)

    def get(self, status: Status) -> Record | None:
        """Return what is known of a file: of this pass, else of the last one that ended.

        Args:
            status: of the file; its inode number and time of birth name it.

        """
        return self.done_now(status) or self.done_before(status)

    def done_now(self, status: Status) -> Record | None:
        """Return what this pass knows of a file."""
        return None if self._given_up else self._find("now", status)

    def done_before(self, status: Status) -> Record | None:
        """Return what the passes that ended know of a file."""
        return self._find("done", status)

    def _find(self, table: str, status: Status) -> Record | None:
        with self._told():
            row = self._data.execute(
                f"select {_COLUMNS} from {table} where ino = ? and born = ? and born_ns = ?",  # noqa: S608
                (signed(status.st_ino), *divmod(status.st_birthtime_ns, _NS)),
            ).fetchone()
        return None if row is None else _record(row)

    def put(self, work: Work, note: Any = None, *, settled: bool = True) -> None:
        """Note that a file was processed in this pass.

        Args:
            work: the file.
            note: what the task noted of it.
            settled: whether its stamp can be believed.

        """
        stamp = work.stamp
        with self._told():
            self._data.execute(
                f"insert or replace into now ({_COLUMNS}) values ({', '.join('?' * 13)})",  # noqa: S608
                (
                    signed(stamp.ino), *divmod(work.born_ns, _NS), signed(work.generation),
                    os.fsencode(work.path), stamp.size,
                    *divmod(stamp.mtime_ns, _NS), *divmod(stamp.ctime_ns, _NS),
                    settled, self._pass, None if note is None else json.dumps(note),
                ),
            )  # fmt: skip

    @property
    def due(self) -> bool:
        """Whether it is time to :meth:`commit`."""
        return time.monotonic() - self._committed >= _COMMIT

    def forget(self, record: Record, born_ns: int) -> None:
        """Forget a file."""
        with self._told():
            for table in ("done", "now"):
                self._data.execute(
                    f"delete from {table} where ino = ? and born = ? and born_ns = ?",  # noqa: S608
                    (signed(record.stamp.ino), *divmod(born_ns, _NS)),
                )

    def files(self) -> Iterator[Record]:
        """Yield all files, of whatever pass: a file once, as :meth:`get` tells it."""
        for _, record in self.inodes():
            yield record

    def inodes(self) -> Iterator[tuple[tuple[int, int], Record]]:
        """Yield all files by inode number and time of birth, in that order, with their records.

        The order is that of signed numbers, as of :meth:`Inventory.inodes`. Records may be
        forgotten meanwhile.
        """
        last = (-(1 << 63), -(1 << 63), -1)
        while True:
            with self._told():
                rows = self._data.execute(
                    f"select {_COLUMNS} from now where (ino, born, born_ns) > (?, ?, ?) "  # noqa: S608
                    f"union all select {_COLUMNS} from done "
                    "where (ino, born, born_ns) > (?, ?, ?) and not exists (select 1 from now "
                    "where now.ino = done.ino and now.born = done.born "
                    "and now.born_ns = done.born_ns) "
                    "order by ino, born, born_ns limit 1000",
                    (*last, *last),
                ).fetchall()
            if not rows:
                return
            for row in rows:
                yield (row[0], row[1] * _NS + row[2]), _record(row)
            last = rows[-1][:3]

    def commit(self) -> None:
        """Make what was done last, also when the machine fails."""
        if self._read_only:
            return
        with self._told():
            # Ctrl-C may have come between the two.
            if self._data.in_transaction:
                self._data.execute("commit")
            self._data.execute("begin immediate")
        self._committed = time.monotonic()

    def _open(self, kind: str, root: str) -> None:
        version = self._data.execute("pragma user_version").fetchone()[0]
        if _is_empty(self._data):
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._data.execute(statement)
            self._data.execute(f"pragma user_version = {_VERSION}")
            self._say("kind", kind)
            self._say("root", root)
        elif version != _VERSION:
            raise LedgerError(
                f"{self.file} is no ledger of this version of duet (its format is {version}, and "
                f"should be {_VERSION}); name another with --state"
            )
        for name, now in (("kind", kind), ("root", root)):
            before = self._about(name, "")
            if before != now:
                raise LedgerError(
                    f"{self.file} is the ledger of {name} {path_of(before)}, not {path_of(now)}; "
                    "name another with --state"
                )
        self._given_up = False
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

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Say in words what SQLite finds wrong, and what to do; from then on, only that.

        SQLite may have given up what was not committed: what came after it would count alone.
        """
        if self._failed is not None:
            raise self._failed
        try:
            yield
        except sqlite3.Error as error:
            self._failed = self._error(error)
            raise self._failed from error

    def _error(self, error: sqlite3.Error) -> Exception:
        # What has no code is what a check of it found.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return LedgerError(f"{self.file}: another task is using it; wait for its end")
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT):
            return _DamagedError(
                f"{self.file} is no ledger of duet, or is damaged ({error}): name another with "
                "--state, or --anew moves it aside and begins with an empty one"
            )
        words = {
            sqlite3.SQLITE_FULL: "there is no room on its disk; make some, and run it again",
            sqlite3.SQLITE_CANTOPEN: "it cannot be opened or made; name another with --state",
            sqlite3.SQLITE_READONLY: (
                "a run that was ended left it half written, and only who may write it can take "
                "that back: look at it as the user of that run"
                if self._read_only
                else "it may not be written; name another with --state"
            ),
            sqlite3.SQLITE_PERM: "it may not be opened; name another with --state",
        }.get(code, f"{error}; name another with --state")
        return LedgerError(f"{self.file}: {words}")


class _DamagedError(LedgerError):
    """It is no database, or one that SQLite cannot read."""


def _is_empty(data: sqlite3.Connection) -> bool:
    """Return whether nothing was ever written to it."""
    version = data.execute("pragma user_version").fetchone()[0]
    return not version and not data.execute("select count(*) from sqlite_master").fetchone()[0]


def _record(row: Any) -> Record:
    (
        ino, _, _, generation, path, size,
        mtime, mtime_ns, ctime, ctime_ns, settled, passed, note,
    ) = row  # fmt: skip
    stamp = Stamp(ino % (1 << 64), size, mtime * _NS + mtime_ns, ctime * _NS + ctime_ns)
    return Record(
        os.fsdecode(path), stamp, generation % (1 << 64), bool(settled), passed,
        None if note is None else json.loads(note),
    )  # fmt: skip
