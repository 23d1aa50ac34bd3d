# SPDX-License-Identifier: MIT
"""A stream of items, wherever it comes from: a task of the driver, or a recording."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator

from pyduet.batch import Batch
from pyduet.events import FileId, Item, Mask

#: Items that a read has room for, unless told otherwise: 128 KiB of them.
MAX_ITEMS = 4096


class Stream(ABC):
    """Items as they come: blocking, with a timeout, in batches, or in an event loop.

    One thread, or one coroutine, reads a stream at a time.
    """

    #: Name that the task was registered with.
    name: str
    #: Directory or file that is watched, as it was given.
    path: str
    #: What was asked for.
    mask: Mask
    #: Whether the stream ends by itself, once all was told.
    finite: bool

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether the stream was closed."""

    @property
    def ended(self) -> bool:
        """Whether it is known that nothing more will come; a task may always be told more."""
        return False

    @abstractmethod
    def read_batch(self, max_items: int = MAX_ITEMS) -> Batch:
        """Return what is pending now, without waiting; an empty batch when nothing is.

        Args:
            max_items: how many of the driver's items at most.

        Raises:
            OffError: Duet was switched off.
            TaskEndedError: somebody ended the task.
            TaskGoneError: the directory was removed or the file system
                unmounted, and all was read.

        """

    @abstractmethod
    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to read.

        Args:
            timeout: seconds; 0 does not wait, None waits without end.

        Returns:
            Whether there may be: items, or the error that the task ended. A
            read looks closer, and may find nothing. False after ``timeout``,
            and when another thread closes the stream.

        """

    @abstractmethod
    async def wait_async(self) -> bool:
        """Wait in the running event loop until there is something to read.

        ``asyncio.timeout()`` limits it; cancelling it loses nothing.

        Returns:
            Whether there may be, as :meth:`wait` has it; False when the stream
            was closed meanwhile.

        Raises:
            RuntimeError: another coroutine waits already.

        """

    @abstractmethod
    def path_of(self, file: FileId, *, max_age: float = 1.0) -> str:
        """Return the path of a file.

        Args:
            file: one that the stream told of.
            max_age: seconds for which an answer is remembered; 0 asks anew.

        Raises:
            PathNotFoundError: it was deleted, or moved out of the directory.
            PermissionDeniedError: who registered the task may not know of it.

        """

    @abstractmethod
    def paths_of(self, files: Iterable[FileId]) -> dict[FileId, str]:
        """Return the paths of files; one that :meth:`path_of` would not find is left out.

        Args:
            files: that the stream told of.

        """

    def read(self, max_items: int = MAX_ITEMS) -> list[Item]:
        """Return what is pending now as objects; see :meth:`read_batch`.

        Consecutive items with the same news come merged, so there may be fewer
        objects than items.
        """
        return list(self.read_batch(max_items))

    def batches(
        self, timeout: float | None = None, *, max_items: int = MAX_ITEMS
    ) -> Iterator[Batch]:
        """Yield batches as they come, none of them empty; ends when the stream is closed.

        Args:
            timeout: stop after so many seconds without one; 0 yields what is
                pending and stops, None never stops.
            max_items: how many of the driver's items a batch has at most.

        Raises:
            OffError, TaskGoneError: as :meth:`read_batch`.
            ValueError: it was closed before.

        """
        batch = self.read_batch(max_items)
        try:
            while True:
                if batch:
                    yield batch
                elif self.finite or not self.wait(timeout):
                    return
                batch = self.read_batch(max_items)
        except ValueError:
            if not self.closed:
                raise

    def events(self, timeout: float | None = None) -> Iterator[Item]:
        """Yield items as they come; arguments and errors as of :meth:`batches`."""
        for batch in self.batches(timeout):
            yield from batch

    async def batches_async(self, *, max_items: int = MAX_ITEMS) -> AsyncIterator[Batch]:
        """Yield batches as they come, in the running event loop, without a thread.

        Closing the stream ends it, cancelling the task of the loop leaves it;
        what was not yielded is read the next time.

        Args:
            max_items: how many of the driver's items a batch has at most.

        Raises:
            OffError, TaskGoneError: as :meth:`read_batch`.
            RuntimeError: another coroutine waits already.
            ValueError: it was closed before.

        """
        batch = self.read_batch(max_items)
        try:
            while True:
                if batch:
                    yield batch
                elif self.finite or not await self.wait_async():
                    return
                batch = self.read_batch(max_items)
        except ValueError:
            if not self.closed:
                raise

    def __iter__(self) -> Iterator[Item]:
        """Yield items as they come, for ``for``: :meth:`events`, without a timeout."""
        return self.events()

    async def __aiter__(self) -> AsyncIterator[Item]:
        """Yield items as they come, for ``async for``; see :meth:`batches_async`."""
        async for batch in self.batches_async():
            for item in batch:
                yield item
