# SPDX-License-Identifier: MIT
"""A hash table of any size, as the driver would dump it: made up while it is read.

The lab proves the driver's dump; this is about how much of it is read, and how the screen stays.
"""

import dataclasses
import random
from collections.abc import Iterator

from duet_tui.replay import Replay
from duet_tui.view import View
from pilot import FIRST_LIGHT

from pyduet import NodeInfo, TableInfo
from pyduet.info import EventCounts

_NOTHING = EventCounts(0, 0, 0, 0)
#: Nodes of a file.
_OF_A_FILE = 1000


class Large(Replay):
    """The end of a recording, with another table.

    Attributes:
        calls: ranges of buckets that were asked for.
        read: nodes that were read.

    """

    def __init__(self, buckets: int = 1 << 20) -> None:
        super().__init__(str(FIRST_LIGHT), speed=0)
        self.buckets = buckets
        chance = random.Random(1)
        self.lengths = bytes(chance.choices((0, 1, 2, 3), (40, 35, 20, 5), k=buckets))
        self.count = sum(self.lengths)
        self.calls: list[tuple[int, int]] = []
        self.read = 0

    def look(self) -> View:
        view = super().look()
        assert view.info is not None
        return dataclasses.replace(view, info=dataclasses.replace(view.info, nodes=self.count))

    def table(self) -> TableInfo:
        chains = [self.lengths.count(length) for length in range(16)]
        return TableInfo(self.buckets, self.count, 3, tuple(chains))

    def nodes(self, first: int = 0, end: int = 0) -> Iterator[NodeInfo]:
        self.calls.append((first, end))
        for bucket in range(first, end or self.buckets):
            for chain in range(self.lengths[bucket]):
                self.read += 1
                ino = 1 + bucket % _OF_A_FILE
                yield NodeInfo(bucket, ino, 1, 1, 64 * chain, 1, False, 1, 0, _NOTHING)
