# SPDX-License-Identifier: MIT
"""Looking at a hash table of any size with little work: some buckets of each part of it."""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from duet_tui.backend import Backend
from pyduet.events import FileId
from pyduet.info import NodeInfo, TableInfo

#: Nodes that one pass reads, more or less: some ten milliseconds.
BUDGET = 4096
#: Buckets that a search asks for at a time.
_STRIDE = 4096


@dataclass(frozen=True, slots=True)
class Picture:
    """What one pass saw.

    Attributes:
        table: its shape, as the driver counts it, exactly.
        cells: nodes a bucket, in the buckets of each cell that were read.
        per_cell: buckets that a cell stands for.
        read: of each cell, how many were.
        seconds: that it took.

    """

    table: TableInfo
    cells: list[float]
    per_cell: int
    read: int
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether all of the table was read."""
        return self.read == self.per_cell


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the table, with what it says to each task.

    Attributes:
        shares: at least one; of a node that says nothing to any task its
            ``task`` is 0.

    """

    shares: tuple[NodeInfo, ...]

    @property
    def first(self) -> NodeInfo:
        """What all shares say alike: bucket, file, pages."""
        return self.shares[0]

    @property
    def file(self) -> FileId:
        """The file."""
        return FileId(self.first.ino, self.first.generation)


def nodes_of(shares: Iterable[NodeInfo]) -> Iterator[Node]:
    """Yield the nodes of a dump: the shares of one come one after the other."""
    for _, some in itertools.groupby(
        shares, lambda one: (one.bucket, one.dev, one.ino, one.generation, one.index)
    ):
        yield Node(tuple(some))


def sample(backend: Backend, room: int, turn: int, stopped: Callable[[], bool]) -> Picture | None:
    """Look at the table once.

    Where there are more nodes than a pass reads, some buckets of each cell are
    read, others at the next turn.

    Args:
        backend: whose table.
        room: cells that there is room for, at least 1.
        turn: number of the pass.
        stopped: whether nobody waits for it any more.

    Returns:
        What was seen; None when it was stopped.

    Raises:
        DuetError: Duet is off, or it is not permitted.

    """
    begin = time.monotonic()
    table = backend.table()
    per_cell = max(1, -(-table.buckets // room))
    count = -(-table.buckets // per_cell)
    cells = [0.0] * count
    read = per_cell
    if table.nodes <= BUDGET:
        for node in nodes_of(backend.nodes()):
            if node.first.bucket < table.buckets:
                cells[node.first.bucket // per_cell] += 1 / per_cell
    else:
        read = max(1, min(per_cell, per_cell * BUDGET // table.nodes))
        for cell in range(count):
            if stopped():
                return None
            first = cell * per_cell + turn * read % (per_cell - read + 1)
            end = min(first + read, table.buckets)
            if first < end:
                cells[cell] = sum(1 for _ in nodes_of(backend.nodes(first, end))) / (end - first)
    return Picture(table, cells, per_cell, read, time.monotonic() - begin)


def search(
    backend: Backend,
    wanted: Callable[[NodeInfo], bool],
    progress: Callable[[int, int, list[Node]], None],
    stopped: Callable[[], bool],
) -> None:
    """Look through the whole table, some buckets at a time.

    Where a file is cannot be computed: the driver hashes an address of its own.

    Args:
        backend: whose table.
        wanted: whether a node is looked for.
        progress: called now and then with the buckets that were looked at, all
            there are, and what was found since the last call.
        stopped: whether to stop.

    Raises:
        DuetError: Duet is off, or it is not permitted.

    """
    buckets = backend.table().buckets
    for first in range(0, buckets, _STRIDE):
        if stopped():
            return
        end = min(first + _STRIDE, buckets)
        progress(
            end,
            buckets,
            [node for node in nodes_of(backend.nodes(first, end)) if wanted(node.first)],
        )
        time.sleep(0)  # lets the screen draw
