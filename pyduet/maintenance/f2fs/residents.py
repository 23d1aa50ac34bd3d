# SPDX-License-Identifier: MIT
"""How much of each segment is in memory, by what Duet tells and where files lie."""

from collections import Counter
from collections.abc import Iterable, Sequence

from pyduet._driver import abi
from pyduet.events import FileId, Item, Mask
from pyduet.maintenance.f2fs.handles import opened
from pyduet.maintenance.f2fs.segments import BLOCK, SEGMENT
from pyduet.maintenance.files.extents import NO_PLACE, Extent, extents
from pyduet.maintenance.files.inode_flags import COMPRESSED, ENCRYPTED, VERITY, flags_of
from pyduet.tally import Tally
from pyduet.task import Task

#: What Duet has to tell: f2fs writes nothing in place, so what is written back lies elsewhere.
WATCHED = Mask.EXISTS | Mask.FLUSHED


def spread(pages: Iterable[int], lies: Sequence[Extent], main: int) -> dict[int, list[int]]:
    """Return which pages of a file lie in which segment.

    Args:
        pages: their indexes.
        lies: the extents of the file, in its order.
        main: the block where the first segment begins.

    """
    found: dict[int, list[int]] = {}
    placed = iter(one for one in lies if not one.flags & NO_PLACE)
    extent = next(placed, None)
    for page in sorted(pages):
        while extent is not None and page * BLOCK >= extent.logical + extent.length:
            extent = next(placed, None)
        if extent is None:
            break
        if page * BLOCK >= extent.logical:
            block = (extent.physical + page * BLOCK - extent.logical) // BLOCK - main
            if block >= 0:
                found.setdefault(block // SEGMENT, []).append(page)
    return found


class Residents:
    """How many blocks of each segment are in memory, kept true by what Duet tells.

    A file is looked at again, by FIEMAP, when pages of it came or went, or were
    written back, by f2fs's cleaning as well.

    Thread-safety: none.
    """

    def __init__(self, task: Task, root: int, main: int) -> None:
        """Take a task that was just registered; it stays the caller's.

        Args:
            task: asks for :data:`WATCHED`.
            root: descriptor of the directory where the file system is mounted;
                stays the caller's.
            main: the block where the first segment begins.

        """
        self._task = task
        self._root = root
        self._main = main
        self._tally = Tally(task.mask, pages=True)
        self._stale: set[FileId] = set()
        self._of: dict[FileId, dict[int, int]] = {}
        #: Blocks in memory, by the number of the segment; true after :meth:`look`.
        self.cached: Counter[int] = Counter()

    def look(self) -> None:
        """Take in what Duet has to tell.

        Raises:
            OffError, TaskGoneError: the task ended.

        """
        while batch := self._task.read_batch():
            for item in batch:
                self._take(item)
        for file in self._stale:
            self.cached.subtract(self._of.pop(file, {}))
            pages = self._tally.cached(file)
            if not pages:
                continue
            with opened(self._root, file.ino, file.generation) as fd:
                if fd is not None and not _read_anyway(fd):
                    there = spread(pages, list(extents(fd)), self._main)
                    self._of[file] = {segment: len(some) for segment, some in there.items()}
                    self.cached.update(self._of[file])
        self._stale.clear()
        self._tally.begin_anew()  # forgets files of which nothing is cached any more

    def _take(self, item: Item) -> None:
        if item.state.value & abi.ITEM_OVERFLOW:
            # It brings what came and went; what was written back meanwhile is not told again.
            self._task.rescan()
            self._stale.update(self._tally.cached_files())
            return
        self._tally.apply([item])
        self._stale.add(item.file)


def _read_anyway(fd: int) -> bool:
    """Return whether f2fs moves a file's blocks past its page cache.

    It does of encrypted, compressed and verity files:
    f2fs_post_read_required() of fs/f2fs/f2fs.h.
    """
    return bool(flags_of(fd) & (COMPRESSED | ENCRYPTED | VERITY))
