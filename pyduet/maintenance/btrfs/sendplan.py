# SPDX-License-Identifier: MIT
"""What a send stream without data wants: data of which files, and what has to come after them.

A stream names a file by the path that it has at that point. Commands that are put off until the end
need the path of the end. All names that it makes and moves are in a temporary database: a
subvolume may have millions of them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from pyduet.maintenance.btrfs.sendstream import Attr, Cmd, Command, StreamError, decode
from pyduet.maintenance.files.temporary import Temporary

_CAPABILITY = b"security.capability"
_CREATE = (Cmd.MKFILE, Cmd.MKDIR, Cmd.MKNOD, Cmd.MKFIFO, Cmd.MKSOCK, Cmd.SYMLINK)
#: What stays as it is and where it is.
_PLAIN = (Cmd.SET_XATTR, Cmd.REMOVE_XATTR, Cmd.TRUNCATE, Cmd.CHMOD, Cmd.CHOWN)
#: A name is in a directory, which is a name; an item is what has names: a file or the like. Times
#: and capabilities are whole commands, as they came.
_SCHEMA = (
    "create table names (id integer primary key, directory integer, name blob, item integer)",
    "create unique index by_place on names (directory, name)",
    "create index by_item on names (item)",
    "create table items (id integer primary key, times blob, capability blob, ino integer)",
    "create index by_inode on items (ino)",
    "create table wanted (id integer primary key, item integer, start integer, stop integer)",
    "create index by_wanting on wanted (item)",
    "create table clones (id integer primary key, command blob, item integer, source integer)",
)
#: The name of the subvolume itself, which is in no directory.
_ROOT = 0
#: Directories whose place in the database is known by heart.
_KNOWN = 10_000
#: Rows that are taken at a time where they may change meanwhile.
_ROWS = 1000


class Wanted(NamedTuple):
    """A file of which the stream wants data."""

    #: In the snapshot, and in the stream at its end.
    path: bytes
    #: Which bytes, in the stream's order.
    ranges: list[range]


class SendPlan:
    """Takes a stream of ``btrfs send --no-data``, command by command.

    What an incremental stream does not make was there before: such names come
    into being when they are named first. Whatever is told or asked may raise
    :class:`TargetError`: there is no room for the names.

    Attributes:
        source: UUID of the subvolume that the stream is of; None before its
            first command.

    Thread-safety: none.
    """

    def __init__(self, keep: Callable[[bytes], object]) -> None:
        """Begin.

        Args:
            keep: is given the encoded commands that stay where they are in the
                stream; the others are put off, see :meth:`late`.

        """
        self._keep = keep
        self._data = Temporary()
        for statement in _SCHEMA:
            self._data.execute(statement)
        self._data.execute("insert into names values (?, null, x'', ?)", (_ROOT, _ROOT))
        self._data.execute("insert into items (id) values (?)", (_ROOT,))
        self._last = _ROOT
        self._known: dict[bytes, int] = {}
        self.source: bytes | None = None
        self._transaction = 0
        self._end: bytes | None = None

    def close(self) -> None:
        """Forget all of it."""
        self._data.close()

    def take(self, command: Command, encoded: bytes) -> None:
        """Take a command.

        Raises:
            StreamError: it does not fit to those before, or is not known.

        """
        if not self._put_off(command, encoded):
            self._move(command)
            self._keep(encoded)

    # Data

    def files(self) -> Iterator[tuple[int, bytes]]:
        """Yield the files of which the stream wants data: a number, and the final path.

        An incremental stream may know two names of a file, and not that it is one.
        """
        item = -1
        while rows := self._data.execute(
            "select distinct item from wanted where item > ? order by item limit ?", (item, _ROWS)
        ).fetchall():
            for (item,) in rows:
                yield item, self._path(item)

    def is_inode(self, item: int, ino: int) -> None:
        """Take in which inode a file of :meth:`files` is, in the snapshot."""
        self._data.execute("update items set ino = ? where id = ?", (_signed(ino), item))

    def is_wanted(self, ino: int) -> bool:
        """Return whether data of an inode are still wanted."""
        found = self._data.execute("select 1 from items where ino = ?", (_signed(ino),))
        return found.fetchone() is not None

    def wanted(self, ino: int) -> Wanted | None:
        """Return what is wanted of an inode."""
        items = self._data.execute(
            "select id from items where ino = ? order by id", (_signed(ino),)
        ).fetchall()
        if not items:
            return None
        ranges = [
            range(start, stop)
            for (item,) in items
            for start, stop in self._data.execute(
                "select start, stop from wanted where item = ? order by id", (item,)
            )
        ]
        return Wanted(self._path(items[0][0]), ranges)

    def written(self, ino: int) -> None:
        """Take in that the data of an inode were written: they are not wanted any more."""
        self._data.execute("update items set ino = null where ino = ?", (_signed(ino),))

    def left(self) -> Iterator[int]:
        """Yield the inodes of which data are still wanted."""
        item = -1
        while row := self._data.execute(
            "select id, ino from items where ino is not null and id > ? order by id limit 1",
            (item,),
        ).fetchone():
            item, ino = row
            yield ino & (1 << 64) - 1

    # What comes after the data

    def late(self) -> Iterator[bytes]:
        """Yield, encoded and with final paths, what comes after all data: the end of the stream.

        First the clones, whose sources are complete then; each in the stream's
        order, since one may be the source of another. Then the capabilities,
        which a write takes away, and the times.
        """
        for encoded, item, source in self._data.execute(
            "select command, item, source from clones order by id"
        ):
            paths = {int(Attr.PATH): self._path(item)}
            if source is not None:
                paths[Attr.CLONE_PATH] = self._path(source)
            yield decode(encoded).but(paths).encoded()
        for what in ("capability", "times"):
            for item, encoded in self._data.execute(
                f"select id, {what} from items where {what} is not null "  # noqa: S608 - our own
                "and exists (select 1 from names where item = items.id) order by id"
            ):
                yield decode(encoded).but({Attr.PATH: self._path(item)}).encoded()
        if self._end is None:
            raise StreamError("it has no end")
        yield self._end

    def _put_off(self, command: Command, encoded: bytes) -> bool:
        """Keep what has to wait for data; returns whether it was."""
        match command.number:
            case Cmd.UPDATE_EXTENT:
                offset = command.integer(Attr.FILE_OFFSET)
                self._data.execute(
                    "insert into wanted (item, start, stop) values (?, ?, ?)",
                    (
                        self._item(command[Attr.PATH]),
                        offset,
                        offset + command.integer(Attr.SIZE),
                    ),
                )
            case Cmd.CLONE:
                source = command[Attr.CLONE_UUID], command.integer(Attr.CLONE_CTRANSID)
                # A clone of another subvolume has a path there, which stays.
                mine = source == (self.source, self._transaction)
                self._data.execute(
                    "insert into clones (command, item, source) values (?, ?, ?)",
                    (
                        encoded,
                        self._item(command[Attr.PATH]),
                        self._item(command[Attr.CLONE_PATH]) if mine else None,
                    ),
                )
            case Cmd.UTIMES:
                self._set("times", command, encoded)
            case Cmd.SET_XATTR if command[Attr.XATTR_NAME] == _CAPABILITY:
                self._set("capability", command, encoded)
            case Cmd.END:
                self._end = command.encoded()
            case _:
                return False
        return True

    def _set(self, what: str, command: Command, encoded: bytes | None) -> None:
        self._data.execute(
            f"update items set {what} = ? where id = ?",  # noqa: S608 - our own words
            (encoded, self._item(command[Attr.PATH])),
        )

    # Names

    def _move(self, command: Command) -> None:
        """Make, move and remove names as a command does."""
        match command.number:
            case Cmd.SUBVOL | Cmd.SNAPSHOT:
                self.source = command[Attr.UUID]
                self._transaction = command.integer(Attr.CTRANSID)
            case number if number in _CREATE:
                self._attach(command[Attr.PATH], self._new_item())
            case Cmd.LINK:
                self._attach(command[Attr.PATH], self._item(command[Attr.PATH_LINK]))
            case Cmd.RENAME:
                self._rename(command[Attr.PATH], command[Attr.PATH_TO])
            case Cmd.UNLINK | Cmd.RMDIR:
                self._detach(command[Attr.PATH])
            case Cmd.REMOVE_XATTR if command[Attr.XATTR_NAME] == _CAPABILITY:
                self._set("capability", command, None)
            case number if number not in _PLAIN:
                raise StreamError(f"it has a command {command.number}, which is not expected")

    def _item(self, path: bytes) -> int:
        row = self._data.execute("select item from names where id = ?", (self._name(path),))
        return int(row.fetchone()[0])

    def _name(self, path: bytes) -> int:
        """Return the name at a path as it is by now."""
        directory, _, last = path.strip(b"/").rpartition(b"/")
        return self._in(self._directory(directory), last) if last else _ROOT

    def _directory(self, path: bytes) -> int:
        if not path:
            return _ROOT
        found = self._known.get(path)
        if found is None:
            above, _, last = path.rpartition(b"/")
            found = self._in(self._directory(above), last)
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[path] = found
        return found

    def _in(self, directory: int, name: bytes) -> int:
        """Return the name in a directory, which comes into being if need be."""
        row = self._at(directory, name)
        return self._add(directory, name, self._new_item()) if row is None else row

    def _at(self, directory: int, name: bytes) -> int | None:
        row = self._data.execute(
            "select id from names where directory = ? and name = ?", (directory, name)
        ).fetchone()
        return None if row is None else int(row[0])

    def _new_item(self) -> int:
        self._last += 1
        self._data.execute("insert into items (id) values (?)", (self._last,))
        return self._last

    def _add(self, directory: int, name: bytes, item: int) -> int:
        added = self._data.execute(
            "insert into names (directory, name, item) values (?, ?, ?)", (directory, name, item)
        )
        return int(added.lastrowid or 0)

    def _attach(self, path: bytes, item: int) -> None:
        directory, name = self._free(path)
        self._add(directory, name, item)

    def _free(self, path: bytes) -> tuple[int, bytes]:
        """Return directory and last part of a path, at which there is nothing any more."""
        above, _, name = path.strip(b"/").rpartition(b"/")
        directory = self._directory(above)
        there = self._at(directory, name)
        if there is not None:
            self._remove(there, path)
        return directory, name

    def _rename(self, path: bytes, to: bytes) -> None:
        name = self._name(path)
        self._forget(name, path)
        self._data.execute("update names set directory = null where id = ?", (name,))
        directory, last = self._free(to)
        self._data.execute(
            "update names set directory = ?, name = ? where id = ?", (directory, last, name)
        )

    def _detach(self, path: bytes) -> None:
        self._remove(self._name(path), path)

    def _remove(self, name: int, path: bytes) -> None:
        self._forget(name, path)
        self._data.execute("delete from names where id = ?", (name,))

    def _forget(self, name: int, path: bytes) -> None:
        """Know nothing by heart of what is below a path that goes away."""
        if name == _ROOT:
            raise StreamError("it moves the subvolume itself")
        if path.strip(b"/") in self._known:
            self._known.clear()

    def _path(self, item: int) -> bytes:
        """Return a path of the end."""
        parts: list[bytes] = []
        row = self._data.execute(
            "select directory, name from names where item = ? order by id limit 1", (item,)
        ).fetchone()
        while row is not None and row[0] is not None:
            parts.append(row[1])
            row = self._data.execute(
                "select directory, name from names where id = ?", (row[0],)
            ).fetchone()
        if row is None or (row[0] is None and row[1] != b""):
            raise StreamError("it wants data of a file that has no name in the end")
        return b"/".join(reversed(parts))


def _signed(number: int) -> int:
    """Return an inode number as SQLite keeps numbers: 64 bits with a sign."""
    return number - (1 << 64) if number >> 63 else number
