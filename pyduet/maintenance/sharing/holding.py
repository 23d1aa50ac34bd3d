# SPDX-License-Identifier: MIT
"""What a task brought into the page cache, and keeps there while its neighbours want it."""

import mmap
import os
import time
from collections import deque
from collections.abc import Callable

from pyduet.maintenance.files.page_cache import Footprint
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.sharing.neighbours import Neighbours

#: Files asked about at a time.
_COUNT = 256
#: Seconds after which the neighbours are asked even if there is room.
_ASK = 0.5
#: Seconds between two looks whether what is held is still there.
_RECOUNT = 1.0
#: All tasks together hold this part of the memory that is available, at most: one of so many.
_PART = 4


class Held:
    """Footprints that are to be dropped when nobody wants them any more.

    While its neighbours want so much of what a task read that it may not stay
    in memory for long, the task reads nothing new: it waits for them. When
    none of them has used anything for as long as its patience lasts, it lets go
    of what it holds, and goes on. Those that have got done with nothing at all
    count no more until they do.

    A file of which the kernel has taken away more than half meanwhile, for want
    of memory, is held no more: to the others it is one that has to be read, so
    tasks would wait for each other with files that none of them takes.

    Thread-safety: none.
    """

    def __init__(self, tree: Tree, neighbours: Neighbours, window: int, patience: float) -> None:
        """Begin with nothing.

        Args:
            tree: the task's directory.
            neighbours: to ask.
            window: bytes to be held at most; 0 for a share of the memory.
            patience: seconds to wait for the neighbours while they use nothing.

        """
        self._tree = tree
        self._neighbours = neighbours
        self._window = window
        self._patience = patience
        self._held: deque[Footprint] = deque()
        self._moved = self._counted = self._asked = time.monotonic()
        self.bytes = 0

    def add(self, footprint: Footprint) -> None:
        """Hold what was brought in; to be dropped at once when nobody else wants it."""
        self._held.append(footprint)
        self.bytes += footprint.bytes

    def is_wanted(self, footprint: Footprint) -> bool:
        """Return whether a neighbour wants a file."""
        return self._neighbours.wanted([footprint.work])[0]

    def room(self, number: int) -> bool:
        """Return whether so many bytes may be brought in now; asks the neighbours if need be."""
        neighbours = len(self._neighbours.ids())
        window = self._window or available() // _PART // (1 + neighbours)
        is_full = self.bytes + number > window
        if is_full or not neighbours or time.monotonic() - self._asked >= _ASK:
            self.release()
        if self._held and self.bytes + number > window:
            self._recount()
        if not self._held or self.bytes + number <= window:
            return True
        if time.monotonic() - self._moved < self._patience:
            return False
        self._neighbours.forget_idle(self._patience)
        self.release()
        while self._held and self.bytes + number > window:
            self._let_go(self._held.popleft())
        self._moved = time.monotonic()
        return True

    def _recount(self) -> None:
        """Hold no more what has left memory for the most part."""
        if time.monotonic() - self._counted < _RECOUNT:
            return
        kept: deque[Footprint] = deque()
        for one in self._held:
            if one.left(self._tree).bytes * 2 >= one.bytes:
                kept.append(one)
            else:
                self._let_go(one)
        self._held = kept
        self._counted = time.monotonic()

    def release(self) -> None:
        """Drop what nobody wants any more."""
        kept: deque[Footprint] = deque()
        while self._held:
            some = [self._held.popleft() for _ in range(min(_COUNT, len(self._held)))]
            wanted = self._neighbours.wanted([one.work for one in some])
            for one, is_wanted in zip(some, wanted, strict=True):
                if is_wanted:
                    kept.append(one)
                else:
                    self._let_go(one)
                    self._moved = time.monotonic()
        self._held = kept
        self._asked = time.monotonic()

    def give_up(self, wait: Callable[[float], object]) -> None:
        """Drop all, what the neighbours want when they are done with it; for the task's end.

        What they find in memory they do not drop themselves. When the
        patience ends, it is dropped all the same.

        Args:
            wait: waits a little; is told how many seconds asking took.

        """
        self._moved = begin = time.monotonic()
        self.release()
        while self._held:
            if time.monotonic() - self._moved >= self._patience:
                self._let_go(self._held.popleft())
                continue
            wait(time.monotonic() - begin)
            begin = time.monotonic()
            self.release()

    def _let_go(self, one: Footprint) -> None:
        self.bytes -= one.bytes
        one.drop(self._tree)


def available() -> int:
    """Return how much memory is available, in bytes; where psutil cannot tell, what is free."""
    try:
        import psutil

        return int(psutil.virtual_memory().available)
    except (ImportError, OSError, ValueError, LookupError):  # /proc may have a stand-in
        return os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE
