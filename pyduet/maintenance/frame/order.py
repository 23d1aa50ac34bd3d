# SPDX-License-Identifier: MIT
"""In which order work is done: what is most in memory first, the rest as it lies on the device."""

import bisect
import heapq
import os
from array import array
from collections.abc import Iterable, Iterator
from typing import Self

from pyduet.events import FileId
from pyduet.maintenance.files.places import Places, joined, parted
from pyduet.maintenance.files.temporary import Temporary
from pyduet.maintenance.work import Stamp, Work

#: Steps in which residency counts: a page more or less does not move a file.
_STEPS = 16
_NS = 10**9


class Order:
    """The work that is left, and how much of each is cached; a context manager that forgets it.

    Without residency the order is that of the device: tasks that begin
    together walk together, and the disk seeks least.

    Some 30 bytes of memory are kept for a file; all else of it is in a temporary
    database.

    Thread-safety: none; one thread tells and asks.
    """

    def __init__(self, works: Iterable[Work]) -> None:
        """Take the work; of a file that comes twice, once.

        Raises:
            TargetError: there is no room for the list.

        """
        self._data = Temporary()
        self._places = Places(self._data)
        self._data.execute(
            "create table given (ino blob, generation blob, device blob, place integer, name blob, "
            "size integer, data integer, physical integer, birth integer, birth_ns integer, "
            "mtime integer, mtime_ns integer, ctime integer, ctime_ns integer, "
            "primary key (ino, generation, device, birth, birth_ns)) without rowid"
        )
        self._data.executemany(
            "insert or ignore into given values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            map(self._row, works),
        )
        self._data.execute("create table work as select * from given where 0")
        self._data.execute(
            "insert into work select * from given order by physical is null, physical, ino"
        )
        self._data.execute("drop table given")
        # Numbers of work are from 0 on; those of rows from 1 on.
        self._pages = array("Q")
        self._numbers = array("Q")
        self._inos = array("Q")
        self._generations = array("Q")
        self.bytes = 0
        for size, data in self._data.execute("select size, data from work order by rowid"):
            self._pages.append(-(-data // _PAGE))
            self.bytes += size
        for ino, generation, row in self._data.execute(
            "select ino, generation, rowid from work order by ino, generation"
        ):
            self._inos.append(int.from_bytes(ino))
            self._generations.append(int.from_bytes(generation))
            self._numbers.append(row - 1)
        self.files = len(self._pages)
        self._left = bytearray(b"\1") * self.files
        #: Of the files of which any is cached.
        self._cached: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        self._cursor = 0

    def __enter__(self) -> Self:
        """Return the order itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Forget it; see :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Forget it."""
        self._data.close()

    def told(self, identity: FileId, pages: int) -> None:
        """Take in that pages of a file came, or, below 0, went."""
        number = self._number(identity)
        if number is None:
            return
        before = self._step(number)
        cached = max(0, self._cached.get(number, 0) + pages)
        if cached:
            self._cached[number] = cached
        else:
            self._cached.pop(number, None)
        after = self._step(number)
        if after != before and after and self._left[number]:
            heapq.heappush(self._heap, (-after, number))

    def best(self) -> tuple[Work, float] | None:
        """Return what to do next, and which share of it is cached; it stays in the order."""
        heap = self._heap
        while heap:
            step, number = heap[0]
            if self._left[number] and self._step(number) == -step:
                return self._work(number), self._share(number)
            heapq.heappop(heap)
        self._cursor = self._next_left(self._cursor)
        if self._cursor < 0:
            self._cursor = len(self._left)
            return None
        return self._work(self._cursor), self._share(self._cursor)

    def ahead(self, count: int) -> list[Work]:
        """Return what comes next on the device, cached or not, as many as are asked for."""
        found: list[Work] = []
        number = self._next_left(self._cursor)
        while number >= 0 and len(found) < count:
            found.append(self._work(number))
            number = self._next_left(number + 1)
        return found

    def remove(self, work: Work) -> None:
        """Take a piece of work out: it is done, or cannot be.

        Raises:
            KeyError: it is not in the order.

        """
        numbers = list(self._numbers_of(work.identity))
        if len(numbers) > 1:
            # On overlayfs the files of its layers may have equal inode numbers.
            numbers = [one for one in numbers if self._work(one).inode == work.inode]
        if not numbers:
            raise KeyError(work.path)
        (number,) = numbers
        if self._left[number]:
            self._left[number] = 0
            self.files -= 1
            self.bytes -= work.size

    def _next_left(self, number: int) -> int:
        return self._left.find(b"\1", number)

    def _number(self, identity: FileId) -> int | None:
        return next(self._numbers_of(identity), None)

    def _numbers_of(self, identity: FileId) -> Iterator[int]:
        ino, generation = identity
        at = bisect.bisect_left(self._inos, ino)
        while at < len(self._inos) and self._inos[at] == ino:
            if self._generations[at] == generation:
                yield self._numbers[at]
            at += 1

    def _work(self, number: int) -> Work:
        row = self._data.execute("select * from work where rowid = ?", (number + 1,)).fetchone()
        (
            ino, generation, device, place, name, size, data, physical,
            birth, birth_ns, mtime, mtime_ns, ctime, ctime_ns,
        ) = row  # fmt: skip
        return Work(
            os.fsdecode(joined(self._places.path(place), name)),
            Stamp(int.from_bytes(ino), size, mtime * _NS + mtime_ns, ctime * _NS + ctime_ns),
            int.from_bytes(device),
            birth * _NS + birth_ns,
            int.from_bytes(generation),
            physical,
            data,
        )

    def _row(self, work: Work) -> tuple[object, ...]:
        stamp = work.stamp
        directory, name = parted(work.path)
        return (
            # As bytes: the largest of them is no number of SQLite's, and their order is the same.
            stamp.ino.to_bytes(8), work.generation.to_bytes(8), work.device.to_bytes(8),
            self._places.number(directory), name, stamp.size, work.data, work.physical,
            *divmod(work.born_ns, _NS),
            *divmod(stamp.mtime_ns, _NS), *divmod(stamp.ctime_ns, _NS),
        )  # fmt: skip

    def _share(self, number: int) -> float:
        pages = self._pages[number]
        return min(1.0, self._cached.get(number, 0) / pages) if pages else 0.0

    def _step(self, number: int) -> int:
        return -int(-self._share(number) * _STEPS // 1)


_PAGE = os.sysconf("SC_PAGESIZE")
