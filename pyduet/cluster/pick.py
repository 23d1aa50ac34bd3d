# SPDX-License-Identifier: MIT
"""Which block a free host reads next: the policy. It knows no engine, no store and no clock."""

import enum
import hashlib
import heapq
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

#: A block, as its store names it; and a host, as the engine does.
BlockT = TypeVar("BlockT", bound=Hashable)
Host = str

#: How much of a new duration goes into what is expected of the next one.
_WEIGHT = 0.2


class Why(enum.Enum):
    """Why a block was picked for a host, the best reason first."""

    RESIDENT = "resident"  #: the host's memory holds it
    LOCAL = "local"  #: the host has a replica, and no host's memory holds it
    COLD = "cold"  #: no host's memory holds it, and others have the replicas
    HELP = "help"  #: another host's memory holds it, which has more to do than a read takes


class Choice(NamedTuple, Generic[BlockT]):
    """What a host is to read next.

    Attributes:
        block: which.
        why: for what reason.

    """

    block: BlockT
    why: Why


class _Queue:
    """Numbers, the lowest first; each is in it once."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._heap = sorted(set(numbers))
        self._there = set(self._heap)

    def add(self, number: int) -> None:
        if number not in self._there:
            self._there.add(number)
            heapq.heappush(self._heap, number)

    def take(self) -> int | None:
        """Return the lowest, which leaves it, or None."""
        if not self._heap:
            return None
        number = heapq.heappop(self._heap)
        self._there.remove(number)
        return number


class Picker(Generic[BlockT]):
    """Picks the blocks of one job, one for each place that comes free, as late as that.

    A job that reads first what is in memory takes nothing from the disk for it, and takes it before
    it is evicted for what comes after. So of two jobs over the same data each gets what the other
    brought in, and neither knows of the other: both know what is resident.

    What is known of a memory is a moment old. The block held longest is the next to be evicted, and
    may be gone: who picked that first would read it from the disk, for which the next in turn is
    evicted, and so on to the last (docs/cluster.md has the figures). So the last held comes first.

    A block is picked for a host in this order:

    1. what its memory holds, the last held first;
    2. what no memory holds and it is the home of, in the order of the job, which is that of the
       disk. One of the hosts that have a replica is the block's home, by a hash of their names: so
       jobs that begin at once, before anything is resident, meet at the same hosts;
    3. what no memory holds and it has a replica of, in the same order;
    4. what no memory holds;
    5. what another host's memory holds, if that has more such blocks for each of its places than it
       reads in the time of one read from a disk: the one that it would come to last.

    All that is kept is of blocks that are still to be read. A pick costs the logarithm of their
    number at most, whatever the number of hosts, but for the fifth, which looks at each host.

    Attributes:
        patience: how many resident blocks one place of a host reads while another reads one from a
            disk. :meth:`took` learns it; at first it is 1.

    Thread-safety: none; one thread tells and asks.
    """

    def __init__(
        self, replicas: Mapping[BlockT, Collection[Host]], places: Mapping[Host, int]
    ) -> None:
        """Have all blocks to read, none of them resident.

        Args:
            replicas: the blocks of the job in their order, and which hosts have each on a disk.
            places: how many blocks each host reads at a time. Only these hosts are picked for; what
                the memory of others holds counts as if nobody held it.

        """
        self.patience = 1.0
        self._replicas = replicas
        self._order = {block: number for number, block in enumerate(replicas)}
        self._blocks = list(replicas)
        self._places = dict(places)
        self._todo = set(replicas)
        #: Of blocks to read: at each host, the last held last; and which hosts hold each.
        self._held: dict[Host, dict[BlockT, None]] = {host: {} for host in places}
        self._holders: dict[BlockT, set[Host]] = {}
        #: What may be cold, by its number; what is not any more is passed over, once.
        self._cold = _Queue()
        self._home = {host: _Queue() for host in places}
        self._local = {host: _Queue() for host in places}
        for block in replicas:
            self._be_cold(block)
        self._took: dict[bool, float] = {}

    def __len__(self) -> int:
        """Return how many blocks are still to be picked."""
        return len(self._todo)

    def __iter__(self) -> Iterator[BlockT]:
        """Iterate over the blocks that are still to be picked, in the order of the job."""
        return (block for block in self._blocks if block in self._todo)

    def gained(self, host: Host, blocks: Iterable[BlockT]) -> None:
        """Note what a host's memory holds from now on, in the order in which it came to."""
        held = self._held.get(host)
        if held is None:
            return
        for block in blocks:
            if block in self._todo:
                held[block] = None
                self._holders.setdefault(block, set()).add(host)

    def lost(self, host: Host, blocks: Iterable[BlockT]) -> None:
        """Note what a host's memory holds no more, or too little of."""
        held = self._held.get(host, {})
        for block in list(blocks):
            if block not in held:
                continue
            del held[block]
            holders = self._holders[block]
            holders.remove(host)
            if not holders:
                del self._holders[block]
                self._be_cold(block)

    def holds(self, host: Host, blocks: Iterable[BlockT]) -> None:
        """Note all that a host's memory holds, in place of what was said before."""
        now = dict.fromkeys(blocks)
        self.lost(host, [block for block in self._held.get(host, {}) if block not in now])
        self.gained(host, (block for block in now if block not in self._held.get(host, {})))

    def joined(self, host: Host, places: int) -> None:
        """Have one more host to pick for, or another number of its places; 0: it is gone."""
        if places and host in self._places:
            self._places[host] = places
            return
        if places:
            self._places[host] = places
            self._held[host] = {}
            self._home[host], self._local[host] = _Queue(), _Queue()
        else:
            self.lost(host, list(self._held.get(host, {})))
            for of in (self._held, self._home, self._local, self._places):
                of.pop(host, None)
        # Others are the homes of its blocks now, or it of theirs.
        for block in self:
            if host in self._replicas[block] and block not in self._holders:
                self._be_cold(block)

    def pick(self, host: Host) -> Choice[BlockT] | None:
        """Pick a block for a host that has a place free, and have it to read no more.

        Returns:
            None where another host will have read what is left before this one could: ask again
            when something ended, or was said of what is resident. Never for all hosts at once.

        Raises:
            KeyError: there is no such host.

        """
        held = self._held[host]
        if held:
            return self._take(next(reversed(held)), Why.RESIDENT)
        for queue, why in (
            (self._home[host], Why.LOCAL),
            (self._local[host], Why.LOCAL),
            (self._cold, Why.COLD),
        ):
            while (number := queue.take()) is not None:
                block = self._blocks[number]
                if block in self._todo and block not in self._holders:
                    return self._take(block, why)
        return self._help()

    def again(self, block: BlockT) -> None:
        """Have a block to read once more: the one who read it failed, or was lost."""
        if block in self._todo:
            return
        self._todo.add(block)
        self._be_cold(block)

    def took(self, why: Why, seconds: float) -> None:
        """Learn how long a block took, from its being picked until it was done.

        Args:
            why: for what reason it was picked.
            seconds: how long it took.

        """
        hit = why is Why.RESIDENT
        before = self._took.get(hit, seconds)
        self._took[hit] = before + _WEIGHT * (seconds - before)
        if len(self._took) == 2 and self._took[True] > 0:
            self.patience = max(1.0, self._took[False] / self._took[True])

    def _help(self) -> Choice[BlockT] | None:
        """Pick what another host holds, if that has more to do than a read takes."""
        if not self._todo:
            return None
        busiest = max(self._held, key=lambda one: len(self._held[one]) / self._places[one])
        held = self._held[busiest]
        if not held or len(held) <= self.patience * self._places[busiest]:
            return None
        return self._take(next(iter(held)), Why.HELP)

    def _take(self, block: BlockT, why: Why) -> Choice[BlockT]:
        self._todo.remove(block)
        for host in self._holders.pop(block, ()):
            del self._held[host][block]
        return Choice(block, why)

    def _be_cold(self, block: BlockT) -> None:
        number = self._order[block]
        self._cold.add(number)
        near = [host for host in self._replicas[block] if host in self._local]
        for host in near:
            self._local[host].add(number)
        if near:
            self._home[max(near, key=lambda host: _weight(host, block))].add(number)


def _weight(host: Host, block: Hashable) -> bytes:
    """Return how much a host is a block's home: the same in each process (rendezvous hashing)."""
    return hashlib.blake2b(f"{host}\0{block}".encode(), digest_size=8).digest()
