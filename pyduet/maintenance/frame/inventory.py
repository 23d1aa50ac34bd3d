# SPDX-License-Identifier: MIT
"""What there is below a directory: found without reading data, and kept in little memory."""

import os
import stat
import struct
from collections.abc import Iterable, Iterator
from typing import Self

from pyduet.files import generation_of
from pyduet.maintenance.files.extents import first_place
from pyduet.maintenance.files.places import Places, joined, parted
from pyduet.maintenance.files.statx import Status, status_of
from pyduet.maintenance.files.temporary import Temporary, signed
from pyduet.maintenance.files.tree import Found, Tree
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.work import Work

__all__ = ["Found", "Inventory", "work_of"]

#: A status as it is kept: times as seconds and nanoseconds, since these end in 2262 in 64 bits.
_STATUS = struct.Struct("=IIIIQQQQQQqIqIqIqIQ?")
#: Rows that are added at a time.
_ROWS = 1000
_NS = 10**9
#: What names a file. On overlayfs those of its layers have device numbers of their own.
_INODE = "device, ino, born, born_ns"
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory"}


class Inventory:
    """All that was found below a directory; a context manager that forgets it.

    Iterating gives what was found, as :meth:`Tree.walk` gave it: a directory
    before what is in it. Whatever is asked may raise :class:`TargetError`: there
    is no room for the list.

    Thread-safety: none.
    """

    def __init__(self, found: Iterable[Found] = ()) -> None:
        """Take all of it.

        Args:
            found: what there is.

        Raises:
            OSError: as of the walk.
            TargetError: there is no room for the list.

        """
        self._count = 0
        self._indexed = False
        self._data = Temporary()
        self._places = Places(self._data)
        self._data.execute(
            "create table found (id integer primary key, place integer, name blob, kind text, "
            "mode integer, device integer, ino integer, born integer, born_ns integer, status blob)"
        )
        try:
            self._take(found)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the inventory itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget it; see :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Forget it."""
        self._data.close()

    def __len__(self) -> int:
        """Return how much was found."""
        return self._count

    def _take(self, found: Iterable[Found]) -> None:
        rows: list[tuple[object, ...]] = []
        for path, status in found:
            directory, name = parted(path)
            place = self._places.number(directory)
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "other")
            values = (*_inode(status), _packed(status))
            rows.append((place, name, kind, status.st_mode, *values))
            if len(rows) == _ROWS:
                self._add(rows)
                rows = []
        self._add(rows)

    def _add(self, rows: list[tuple[object, ...]]) -> None:
        self._count += len(rows)
        self._data.executemany(
            "insert into found "  # noqa: S608 - our own words
            f"(place, name, kind, mode, {_INODE}, status) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            rows,
        )

    def __iter__(self) -> Iterator[Found]:
        """Yield all, a directory before what is in it."""
        return self._select("order by id")

    def directories(self, *, deepest_first: bool = False) -> Iterator[Found]:
        """Yield the directories, each before what is in it, or after that."""
        order = "desc" if deepest_first else "asc"
        return self._select(f"where kind = 'directory' order by id {order}")

    def regular(self) -> Iterator[Found]:
        """Yield the regular files, each once, by the first of its names."""
        return self._select(
            f"where id in (select min(id) from found where kind = 'file' "  # noqa: S608
            f"group by {_INODE}) order by id"
        )

    def links(self) -> Iterator[tuple[str, Found]]:
        """Yield the further names of regular files: the first name, and the other."""
        self._index()
        first: Found | None = None
        for one in self._select(
            f"where kind = 'file' and ({_INODE}) in (select {_INODE} from found "  # noqa: S608
            f"where kind = 'file' group by {_INODE} having count(*) > 1) order by {_INODE}, id"
        ):
            if first is None or one.status.identity != first.status.identity:
                first = one
            else:
                yield first.path, one

    def first(self, status: Status) -> str:
        """Return the first of the names of something that was found."""
        self._index()
        place, name = self._data.execute(
            f"select place, name from found where ({_INODE}) = (?, ?, ?, ?) "  # noqa: S608
            "and mode = ? order by id limit 1",
            (*_inode(status), status.st_mode),
        ).fetchone()
        return os.fsdecode(joined(self._places.path(place), name))

    def names(self, directory: str) -> Iterator[tuple[str, int]]:
        """Yield what is in a directory: names, with their modes, in the order of their bytes."""
        self._index()
        for name, mode in self._data.execute(
            "select name, mode from found where place = ? and name != x'' order by name",
            (self._places.known(os.fsencode(directory)),),
        ):
            yield os.fsdecode(name), mode

    def has(self, path: str, status: Status) -> bool:
        """Return whether a path, or an inode, was there."""
        self._index()
        directory, name = parted(path)
        row = self._data.execute(
            "select exists (select 1 from found where place = ? and name = ?) "  # noqa: S608
            f"or exists (select 1 from found where ({_INODE}) = (?, ?, ?, ?))",
            (self._places.known(directory), name, *_inode(status)),
        ).fetchone()
        return bool(row[0])

    def inodes(self) -> Iterator[tuple[int, int]]:
        """Yield the regular files' inode numbers, as SQLite keeps them, and times of birth.

        In order, each once: that of :meth:`Ledger.inodes`.
        """
        for ino, born, born_ns in self._data.execute(
            "select distinct ino, born, born_ns from found where kind = 'file' "
            "order by ino, born, born_ns"
        ):
            yield ino, born * _NS + born_ns

    def missing(self, ledger: Ledger) -> Iterator[tuple[int, Record]]:
        """Yield the files of a ledger that were not found: times of birth, and records.

        Records may be forgotten meanwhile.
        """
        there = self.inodes()
        other = next(there, None)
        for inode, record in ledger.inodes():
            while other is not None and other < inode:
                other = next(there, None)
            if other != inode:
                yield inode[1], record

    def _index(self) -> None:
        if not self._indexed:
            self._data.execute("create index by_name on found (place, name)")
            self._data.execute(f"create index by_inode on found ({_INODE})")
            self._indexed = True

    def _select(self, rest: str) -> Iterator[Found]:
        for place, name, status in self._data.execute(
            f"select place, name, status from found {rest}"  # noqa: S608 - our own words
        ):
            path = joined(self._places.path(place), name)
            yield Found(os.fsdecode(path), _unpacked(status))


def work_of(tree: Tree, found: Found) -> Work:
    """Return the work that a regular file is; opens it, reads nothing, leaves its times alone.

    Raises:
        OSError: it cannot be opened, or is another file by now.

    """
    with tree.opened(found.path, found.status) as fd:
        return Work.of(found.path, status_of(fd), _generation(fd), first_place(fd))


def _generation(fd: int) -> int:
    """Return the inode generation; 0 where the file system has none."""
    try:
        return generation_of(fd)
    except OSError:
        return 0


def _inode(status: Status) -> tuple[int, int, int, int]:
    """Return what names a file, as :data:`_INODE`."""
    born = divmod(status.st_birthtime_ns, _NS)
    return signed(status.st_dev), signed(status.st_ino), *born


def _packed(status: Status) -> bytes:
    return _STATUS.pack(
        *status[:10],
        *divmod(status.st_atime_ns, _NS), *divmod(status.st_mtime_ns, _NS),
        *divmod(status.st_ctime_ns, _NS), *divmod(status.st_birthtime_ns, _NS),
        *status[14:],
    )  # fmt: skip


def _unpacked(packed: bytes) -> Status:
    values = _STATUS.unpack(packed)
    times = [values[at] * _NS + values[at + 1] for at in range(10, 18, 2)]
    return Status(*values[:10], *times, *values[18:])
