# SPDX-License-Identifier: MIT
"""What a task is told: masks, states, files and items."""

import enum
from collections.abc import Iterator
from typing import NamedTuple

from pyduet._driver import abi
from pyduet._driver.abi import ITEM_OVERFLOW, Event, Page


class Mask(enum.IntFlag):
    """What a task asks for when it registers; or them together.

    The first four are event-based: every event since the last read, or-ed per
    page. ``MODIFIED`` and ``EXISTS`` are state-based: what changed, net, since
    the task was last told; opposite events cancel. ``EXISTS`` excludes
    ``ADDED`` and ``REMOVED``, ``MODIFIED`` excludes ``DIRTY`` and ``FLUSHED``.
    """

    ADDED = Page.ADDED
    REMOVED = Page.REMOVED
    DIRTY = Page.DIRTY
    FLUSHED = Page.FLUSHED
    MODIFIED = Page.MODIFIED
    EXISTS = Page.EXISTS

    @property
    def names(self) -> list[str]:
        """The names of the bits that are set, in lower case."""
        return [str(bit.name).lower() for bit in Mask if bit in self]

    @property
    def excluded(self) -> "Mask":
        """What cannot be asked for beside this."""
        found = Mask(0)
        for state, events in _EXCLUDES.items():
            if self & state:
                found |= events
            if self & events:
                found |= state
        return found

    def check(self, *, snapshot: bool = False) -> None:
        """Make sure that the driver takes this mask.

        Args:
            snapshot: whether it is for what is cached now and nothing else.

        Raises:
            ValueError: it does not; says which rule is broken.

        """
        every = ", ".join(str(bit.name).lower() for bit in Mask)
        if unknown := self & ~sum(Mask):
            raise ValueError(f"the mask has bits that mean nothing, {unknown:#x}; it is of {every}")
        if not self:
            raise ValueError(f"an empty mask asks for nothing; choose of {every}")
        for state, events in _EXCLUDES.items():
            if self & state and self & events:
                (name,), others = state.names, " and ".join(events.names)
                raise ValueError(f"{name} excludes {others}; leave out {name} or the others")
        if snapshot and (events := self & ~sum(_EXCLUDES)):
            raise ValueError(
                f"a snapshot tells no {' and '.join(events.names)}; choose of "
                f"{' and '.join(Mask(sum(_EXCLUDES)).names)}"
            )


#: Each state, and the events that say the same in another way.
_EXCLUDES = {
    Mask.EXISTS: Mask.ADDED | Mask.REMOVED,
    Mask.MODIFIED: Mask.DIRTY | Mask.FLUSHED,
}


class State(enum.IntFlag):
    """What an item says about its pages.

    To an event-based task: these events happened. To a state-based one:
    ``ADDED`` is cached now, ``REMOVED`` no longer is, ``DIRTY`` is dirty now,
    ``FLUSHED`` no longer is.
    """

    ADDED = Page.ADDED
    REMOVED = Page.REMOVED
    DIRTY = Page.DIRTY
    FLUSHED = Page.FLUSHED
    #: Alone: the task was not told all; see :class:`Item`.
    OVERFLOW = ITEM_OVERFLOW

    @property
    def names(self) -> list[str]:
        """The names of the bits that are set, in lower case."""
        return [str(bit.name).lower() for bit in State if bit in self]

    def __str__(self) -> str:
        """Return the names, joined by commas."""
        return ",".join(self.names)

    def __format__(self, spec: str) -> str:
        """Format the names as a string."""
        return format(str(self), spec)


class FileId(NamedTuple):
    """A file, whichever task told of it; hashable.

    What names a file within its file system, and on btrfs within its subvolume:
    files of two tasks are the same file when their ids are equal and the tasks
    watch the same file system. :func:`identity_of` asks it of a path.
    """

    #: Inode number, ``st_ino``.
    ino: int
    #: Inode generation: tells a reused inode number from the old one.
    generation: int

    def __str__(self) -> str:
        """Return the file in the words of messages."""
        return f"inode {self.ino} (generation {self.generation})"


class Item(NamedTuple):
    """The same news about one page or several consecutive ones of a file.

    An overflow (``State.OVERFLOW``) is about no page: it says that the task was
    not told all of a file, or, with an inode number of 0, of files that are not
    known. ``Task.rescan()`` brings back what can be brought back.
    """

    #: The file.
    file: FileId
    #: The first page, in units of the page size.
    index: int  # type: ignore[assignment]  # tuple.index is of no use here
    #: How many pages, at least 1; 0 of an overflow.
    pages: int
    #: What is said about them.
    state: State

    @property
    def end(self) -> int:
        """Index of the page after the last one."""
        return self.index + self.pages

    @property
    def nr(self) -> int:
        """How many pages, as ``struct duet_item`` calls it: the same as ``pages``."""
        return self.pages


#: Every state there can be, made once: building flags is slow in the stream.
_STATES = {bits: State(bits) for bits in (*range(1 << len(Event)), ITEM_OVERFLOW)}


def decode(data: bytes | memoryview) -> Iterator[Item]:
    """Yield what one read of a task's descriptor returned.

    Neighbours in the stream are merged when they say the same of consecutive
    pages of one file; the order stays. Overflows stay as they are.

    Args:
        data: whole items of ``abi.ITEM.size`` bytes.

    Raises:
        ValueError: ``data`` holds a part of an item, or an unknown state.

    """
    if len(data) % abi.ITEM.size:
        raise ValueError(f"{len(data)} bytes are no whole number of items")
    file = FileId(-1, -1)
    first = end = state = -1
    for ino, generation, _, index, news, nr in abi.ITEM.iter_unpack(data):
        same_file = (ino, generation) == file
        if same_file and index == end and news == state and state != ITEM_OVERFLOW:
            end += nr or 1
            continue
        if state >= 0:
            yield _new(Item, (file, first, end - first, _STATES[state]))
        if not same_file:
            file = FileId(ino, generation)
        if news not in _STATES:
            raise ValueError(f"unknown state {news:#x} of page {index} of inode {ino}")
        first, state = index, news
        end = index if state == ITEM_OVERFLOW else index + (nr or 1)
    if state >= 0:
        yield _new(Item, (file, first, end - first, _STATES[state]))


#: Half of what calling the class costs, in the one place where that matters.
_new = tuple.__new__
