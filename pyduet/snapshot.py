# SPDX-License-Identifier: MIT
"""What is cached now: files, pages and ranges below a directory, without opening one of them."""

import errno
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

from pyduet._driver import abi, bulk
from pyduet.device import DEFAULT_DEVICE, Device
from pyduet.errors import Operation, error_for
from pyduet.events import FileId, Mask
from pyduet.task import Task


class PageRange(NamedTuple):
    """Consecutive cached pages of a file that are alike."""

    #: The first page, in units of the page size.
    index: int  # type: ignore[assignment]  # tuple.index is of no use here
    #: How many.
    pages: int
    #: Whether they are dirty.
    dirty: bool


class Residency(NamedTuple):
    """What the page cache holds of a file."""

    #: Of the file, or None: it has lost its last name, or its name is not
    #: known (``docs/limits.md``).
    path: str | None
    #: Inode number and generation.
    file: FileId
    #: Cached pages.
    cached: int
    #: Those of them that are dirty.
    dirty: int
    #: The cached pages, in order.
    ranges: tuple[PageRange, ...]


def residency(
    path: str | os.PathLike[str], *, device: str | os.PathLike[str] = DEFAULT_DEVICE
) -> Iterator[Residency]:
    """Yield every file below a directory that has cached pages, or the file itself, in no order.

    The driver looks at the inodes that are in memory, and at no others: what
    it costs depends on what is cached, not on how much there is on disk
    (``docs/performance.md`` has it beside walks with mincore(2) and
    cachestat(2)). It takes a short-lived task, which is gone when the iterator
    is. What changes meanwhile may or may not be seen.

    Who has no CAP_SYS_ADMIN is told of the files that he owns or may write, as
    with mincore(2).

    Args:
        path: directory or regular file.
        device: the device node.

    Raises:
        NotLoadedError, OffError, TooManyTasksError, PathNotFoundError,
        UnsupportedFilesystemError, PermissionDeniedError: as of
            :meth:`Device.register`, when the first file is asked for.
        IncompleteError: it does not fit the memory limits; what was yielded
            before is true.

    """
    with (
        Device(device) as opened,
        opened.register(
            path,
            Mask.EXISTS | Mask.MODIFIED,
            name=f"residency-{os.getpid()}",
            ranges=True,
            snapshot=True,
        ) as task,
    ):
        files = _files(task)
        while some := list(itertools.islice(files, bulk.COUNT)):
            answers = bulk.paths(task, [file for file, _ in some])
            for (file, answer), (_, ranges) in zip(answers, some, strict=True):
                yield _of(file, answer, ranges)


def _files(task: Task) -> Iterator[tuple[FileId, list[PageRange]]]:
    """Yield each file with its ranges: a snapshot tells of one file after the other."""
    # Half of what calling the classes costs, and there may be millions.
    new, dirty = tuple.__new__, abi.Page.DIRTY.value
    last: tuple[int, int] | None = None
    ranges: list[PageRange] = []
    for batch in task.batches():
        for ino, generation, _, index, state, pages in batch.rows():
            if state == abi.ITEM_OVERFLOW:
                raise error_for(errno.EOVERFLOW, Operation.SNAPSHOT, task.path)
            file = (ino, generation)
            if file != last:
                if last:
                    yield new(FileId, last), ranges
                last, ranges = file, []
            ranges.append(new(PageRange, (index, pages, state & dirty != 0)))
    if last:
        yield new(FileId, last), ranges


def _of(file: FileId, answer: str | int, ranges: list[PageRange]) -> Residency:
    path = answer if isinstance(answer, str) else None
    if isinstance(answer, int) and -answer not in (errno.ENOENT, errno.EACCES):
        raise error_for(-answer, Operation.PATH, str(file))
    cached = dirty = 0
    for _, pages, is_dirty in ranges:
        cached += pages
        dirty += pages if is_dirty else 0
    return tuple.__new__(Residency, (path, file, cached, dirty, tuple(ranges)))
