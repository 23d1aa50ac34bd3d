# SPDX-License-Identifier: MIT
"""What a task was told, added up: which pages of which files are cached and dirty."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from pyduet._driver import abi
from pyduet.events import FileId, Item


class Tracker:
    """Holds the cached and the dirty pages per file, as an ``EXISTS | MODIFIED`` task tells them.

    Pages are kept as sets, about 60 bytes a page. A file without a cached page
    is forgotten.

    Thread-safety: none; one thread applies and asks.
    """

    def __init__(self) -> None:
        """Start knowing nothing."""
        self._cached: dict[FileId, set[int]] = {}
        self._dirty: dict[FileId, set[int]] = {}

    def apply(self, items: Iterable[Item]) -> None:
        """Take in items in the order in which the task returned them."""
        for item in items:
            pages = range(item.index, item.end)
            state = item.state.value  # a plain number: a flag's & makes an object each time
            if state & abi.Page.ADDED.value:
                self._cached.setdefault(item.file, set()).update(pages)
            if state & abi.Page.DIRTY.value:
                self._dirty.setdefault(item.file, set()).update(pages)
            if state & abi.Page.REMOVED.value:
                _discard(self._cached, item.file, pages)
            if state & (abi.Page.REMOVED.value | abi.Page.FLUSHED.value):
                _discard(self._dirty, item.file, pages)

    def files(self) -> list[FileId]:
        """Return the files that have cached pages."""
        return list(self._cached)

    def cached(self, file: FileId) -> AbstractSet[int]:
        """Return the indexes of the cached pages of a file: a view, not to be changed."""
        return self._cached.get(file, frozenset())

    def dirty(self, file: FileId) -> AbstractSet[int]:
        """Return the indexes of the dirty pages of a file: a view, not to be changed."""
        return self._dirty.get(file, frozenset())


def _discard(pages_of: dict[FileId, set[int]], file: FileId, pages: range) -> None:
    known = pages_of.get(file)
    if known is not None:
        known.difference_update(pages)
        if not known:
            del pages_of[file]
