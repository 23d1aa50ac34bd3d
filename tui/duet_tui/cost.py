# SPDX-License-Identifier: MIT
"""What the number of tasks at a time costs in memory; docs/limits.md has the sizes."""

from dataclasses import dataclass

from pyduet.info import DriverInfo

#: Bytes that each further task adds to a node, and to a file's entry.
_NODE, _FILE = 40, 24
#: As many tasks as have a place in the node that is part of an entry.
_FIRST = 2
_POINTER = 8
#: Powers of two: the fewest and the most buckets of a hash table.
_FEWEST, _MOST = 10, 24


@dataclass(frozen=True, slots=True)
class Cost:
    """Sizes in bytes, when Duet is on for some number of tasks.

    Attributes:
        node: of a node.
        file: of a file's entry, with its first node, while there are two tasks at most.
        now: of what is in the table now, marks left out.
        tables: of the three hash tables, which no limit counts.
        nodes: that fit the limit, if nothing else did.

    """

    node: int
    file: int
    now: int
    tables: int
    nodes: int


def cost_of(info: DriverInfo, max_tasks: int, limit: int | None = None) -> Cost:
    """Return what it takes to be on for some number of tasks.

    Args:
        info: what is so now.
        max_tasks: how many tasks.
        limit: of the memory; None for that of ``info``.

    """
    more = max_tasks - info.max_tasks
    limit = info.limit if limit is None else limit
    node = info.node_bytes + _NODE * more
    first = min(max_tasks, _FIRST) - min(info.max_tasks, _FIRST)
    file = info.file_bytes + _FILE * more + _NODE * first
    return Cost(
        node=node,
        file=file,
        now=info.files * file + max(0, info.nodes - info.files) * node,
        tables=_POINTER * (_buckets(limit // node) + 2 * _buckets(limit // file)),
        nodes=limit // node,
    )


def _buckets(entries: int) -> int:
    return 1 << min(max(entries.bit_length(), _FEWEST), _MOST)
