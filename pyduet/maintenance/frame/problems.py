# SPDX-License-Identifier: MIT
"""What is wrong with files: all of it is counted, and kept on the disk, however much it is."""

import os

from pyduet.maintenance.files.places import Places, joined, parted
from pyduet.maintenance.files.temporary import Temporary
from pyduet.maintenance.work import Problem, Trouble

#: Why a file may be looked at again in the next round.
_PASSING = (Trouble.VANISHED, Trouble.UNSTABLE)
#: Bytes of problems that are listed together: those of :data:`~.work.NAMED` ordinary paths, and
#: not of as many of the longest.
_BYTES = 8 << 20
#: What stands before an absolute path: no name in a directory is that. Of the copy that rsync makes
#: its path is known, and of what is in the tree the path there.
_ABSOLUTE = b"\0"


class Problems:
    """A problem for each path that is named.

    Of a file that was processed the first one counts, and it counts before what a
    look at the tree says. Whatever is asked may raise :class:`TargetError`: there is
    no room.

    Thread-safety: none.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._data = Temporary()
        self._places = Places(self._data)
        self._data.execute(
            "create table named (id integer primary key, place integer, name blob, "
            "is_processed integer, trouble text, words blob, unique (place, name))"
        )
        self._count = 0

    def close(self) -> None:
        """Forget them."""
        self._data.close()

    def __len__(self) -> int:
        """Return how many paths are named."""
        return self._count

    def see(self, problem: Problem) -> None:
        """Name what a look at the tree could not see."""
        self._add(problem, "do nothing", is_processed=False)

    def name(self, problem: Problem) -> None:
        """Name a file that was processed, or could not be."""
        self._add(
            problem,
            "do update set is_processed = 1, trouble = excluded.trouble, words = excluded.words "
            "where not is_processed",
            is_processed=True,
        )

    def _add(self, problem: Problem, otherwise: str, *, is_processed: bool) -> None:
        path, trouble, words = problem
        directory, name = _parted(path)
        before = self._row(path)
        self._data.execute(
            "insert into named (place, name, is_processed, trouble, words) "  # noqa: S608
            f"values (?, ?, ?, ?, ?) on conflict (place, name) {otherwise}",
            (self._places.number(directory), name, is_processed, trouble.value, os.fsencode(words)),
        )
        self._count += before is None

    def forgive(self, path: str) -> None:
        """Take back what may pass, and was said of a file that was processed after all."""
        row = self._row(path)
        if row is not None and Trouble(row[1]) in _PASSING:
            self._data.execute("delete from named where id = ?", (row[0],))
            self._count -= 1

    def is_final(self, path: str) -> bool:
        """Return whether a file was processed, or could not be, and need not be tried again."""
        row = self._row(path)
        return row is not None and bool(row[2]) and Trouble(row[1]) not in _PASSING

    def clear(self) -> None:
        """Take all of it back."""
        self._data.execute("delete from named")
        self._count = 0

    def look_again(self) -> None:
        """Forget what the last look at the tree could not see."""
        if self._count:
            self._count -= self._data.execute("delete from named where not is_processed").rowcount

    def first(self, most: int) -> list[Problem]:
        """Return the first of them, in the order in which they were named.

        Args:
            most: so many; fewer where their paths are longer than paths are.

        """
        found = []
        size = 0
        for place, name, trouble, words in self._data.execute(
            "select place, name, trouble, words from named order by id limit ?", (most,)
        ):
            path = joined(self._places.path(place), name)
            size += len(path) + len(words)
            if size > _BYTES:
                break
            path = path.removeprefix(_ABSOLUTE)
            found.append(Problem(os.fsdecode(path), Trouble(trouble), os.fsdecode(words)))
        return found

    def _row(self, path: str) -> tuple[int, str, int] | None:
        """Return what is kept of a path: number, trouble, whether it was processed."""
        if not self._count:
            return None
        directory, name = _parted(path)
        row: tuple[int, str, int] | None = self._data.execute(
            "select id, trouble, is_processed from named where place = ? and name = ?",
            (self._places.known(directory), name),
        ).fetchone()
        return row


def _parted(path: str) -> tuple[bytes, bytes]:
    directory, name = parted(path)
    return (_ABSOLUTE if path.startswith("/") else b"") + directory, name
