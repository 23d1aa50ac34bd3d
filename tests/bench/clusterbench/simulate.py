# SPDX-License-Identifier: MIT
"""A cluster as a model: hosts with an LRU of blocks and a disk each, jobs, and who schedules them.

What is under test is the policy itself, pyduet.cluster.pick, not a copy of it. Around it all is as
simple as it can be and still have what makes caches useless to engines: jobs that read one after
another what does not fit, from the begin.
"""

import hashlib
import heapq
import itertools
import random
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from pyduet.cluster.pick import Picker

Block = int
Host = str


@dataclass(frozen=True)
class Shape:
    """A cluster, and what happens on it.

    Attributes:
        hosts: how many.
        places: tasks that one runs at a time.
        blocks: of the whole data.
        ratio: data to the memory of all hosts.
        replicas: copies of each block on disks.
        overlap: which part of the second job's blocks the first reads as well.
        second: how much of the first job is done when the second begins; 1: all.
        jobs: how many; each but the first begins that much after the one before.
        disk: seconds of a host's disk for a block.
        work: seconds of a task besides.
        delay: seconds until the directory says what a host's memory holds.

    """

    hosts: int = 3
    places: int = 2
    blocks: int = 240
    ratio: float = 2.0
    replicas: int = 2
    overlap: float = 1.0
    second: float = 1.0
    jobs: int = 2
    disk: float = 1.0
    work: float = 0.2
    delay: float = 0.5

    @property
    def told(self) -> str:
        """What does not vary in the tables, in words."""
        return (
            f"{self.hosts} hosts with {self.places} places and a disk each, {self.blocks} blocks, "
            f"{self.replicas} replicas; {self.disk:g} s from the disk, {self.work:g} s of work; "
            f"what a memory holds is known {self.delay:g} s after it came"
        )

    @property
    def names(self) -> list[Host]:
        """The hosts' names."""
        return [f"h{number}" for number in range(self.hosts)]

    @property
    def memory(self) -> int:
        """Blocks that fit in one host's memory."""
        return max(1, round(self.blocks / self.ratio / self.hosts))


@dataclass
class Result:
    """What came of it.

    Attributes:
        reads: of blocks, by tasks.
        hits: of these, from memory.
        seconds: until the last job was done.
        policy: seconds of this machine's processor that the policy took, told and asked.

    """

    reads: int = 0
    hits: int = 0
    seconds: float = 0.0
    policy: float = 0.0

    @property
    def rate(self) -> float:
        """The share of reads from memory."""
        return self.hits / self.reads if self.reads else 0.0


class Scheduler(Protocol):
    """Who says what a job reads next."""

    def pick(self, host: Host) -> Block | None:
        """Return a block for a free place of a host, or None."""

    def left(self) -> int:
        """Return how many blocks are still to be picked."""


class Default:
    """As engines do it: the first block that the host has a replica of, or else the first."""

    def __init__(self, world: "World", blocks: list[Block]) -> None:
        self._replicas = world.replicas
        self._todo = dict.fromkeys(blocks)
        self._near: dict[Host, deque[Block]] = {host: deque() for host in world.shape.names}
        for block in blocks:
            for host in self.near(block):
                self._near[host].append(block)

    def near(self, block: Block) -> Iterable[Host]:
        """Return the hosts that are to read a block, if they can."""
        return self._replicas[block]

    def left(self) -> int:
        return len(self._todo)

    def pick(self, host: Host) -> Block | None:
        near = self._near[host]
        while near:
            block = near.popleft()
            if block in self._todo:
                del self._todo[block]
                return block
        first = next(iter(self._todo), None)
        if first is not None:
            del self._todo[first]
        return first


class Hashed(Default):
    """Soft affinity, as Alluxio and Trino do it: each block has one host, by a hash of its name."""

    def near(self, block: Block) -> Iterable[Host]:
        def weight(host: Host) -> bytes:
            return hashlib.blake2b(f"{host}/{block}".encode()).digest()

        return [max(self._replicas[block], key=weight)]


class Late:
    """The policy, asked when a place is free."""

    def __init__(self, world: "World", blocks: list[Block]) -> None:
        shape = world.shape
        self._picker = Picker(
            {block: world.replicas[block] for block in blocks},
            dict.fromkeys(shape.names, shape.places),
        )
        for host, said in world.said.items():
            self._picker.holds(host, said)
        self._world = world
        world.told.append(self._tell)

    def _tell(self, host: Host, gained: Iterable[Block], lost: Iterable[Block]) -> None:
        begin = time.perf_counter()
        self._picker.lost(host, lost)
        self._picker.gained(host, gained)
        self._world.result.policy += time.perf_counter() - begin

    def left(self) -> int:
        return len(self._picker)

    def pick(self, host: Host) -> Block | None:
        begin = time.perf_counter()
        choice = self._picker.pick(host)
        self._world.result.policy += time.perf_counter() - begin
        return choice.block if choice else None


class Once(Late):
    """The policy, asked for all blocks when the job begins: placed and ordered once."""

    def __init__(self, world: "World", blocks: list[Block]) -> None:
        super().__init__(world, blocks)
        world.told.remove(self._tell)
        self._queues: dict[Host, list[Block]] = {host: [] for host in world.shape.names}
        hosts = itertools.cycle(self._queues)
        while len(self._picker):
            host = next(hosts)
            block = super().pick(host)
            if block is not None:
                self._queues[host].append(block)
        for queue in self._queues.values():
            queue.reverse()

    def left(self) -> int:
        return sum(map(len, self._queues.values()))

    def pick(self, host: Host) -> Block | None:
        queue = self._queues[host] or max(self._queues.values(), key=len)
        return queue.pop() if queue else None


class World:
    """The cluster while jobs run on it."""

    def __init__(
        self, shape: Shape, *, knows: bool = False, evicts: bool = False, seed: int = 0
    ) -> None:
        """Have nothing in memory.

        Args:
            shape: what it is.
            knows: whether the directory has no delay.
            evicts: whether memory evicts first what the fewest jobs will read, and not what it has
                not read for the longest time, which is what kernels do.
            seed: of where replicas are.

        """
        rng = random.Random(seed)
        self.shape = shape
        self.result = Result()
        self.replicas = {
            block: rng.sample(shape.names, min(shape.replicas, shape.hosts))
            for block in range(shape.blocks * shape.jobs)
        }
        self.memory = {host: OrderedDict[Block, float]() for host in shape.names}
        self.said = {host: dict[Block, None]() for host in shape.names}
        self.told: list[Callable[[Host, Iterable[Block], Iterable[Block]], None]] = []
        self._knows, self._evicts = knows, evicts
        self._wanted: dict[Block, int] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._disk = dict.fromkeys(shape.names, 0.0)
        self._free = dict.fromkeys(shape.names, shape.places)
        #: Each job with how many of its tasks ended.
        self._running: list[tuple[Scheduler, list[int]]] = []
        self._newest: list[int] = []
        self.now = 0.0

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Have something happen."""
        heapq.heappush(self._events, (when, next(self._count), what))

    def run(self, scheduler: type[Default] | type[Late]) -> Result:
        """Run all jobs to their end."""
        shape, jobs = self.shape, self._jobs()
        for blocks in jobs:
            for block in blocks:
                self._wanted[block] = self._wanted.get(block, 0) + 1
        begun = itertools.count()
        after = round(shape.second * shape.blocks)

        def begin() -> None:
            number = next(begun)
            if number < shape.jobs:
                done = self._newest = [0]
                self._running.append((scheduler(self, jobs[number]), done))
                if not after:
                    begin()
                self._offer()

        def ended(done: list[int]) -> None:
            done[0] += 1
            if done is self._newest and done[0] == after:
                begin()

        self._ended = ended
        begin()
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.result.seconds = self.now
        return self.result

    def _jobs(self) -> list[list[Block]]:
        """Return the blocks of each job: of the first, and of each other as much is the same."""
        shape = self.shape
        same = round(shape.overlap * shape.blocks)
        jobs = [list(range(shape.blocks))]
        for number in range(1, shape.jobs):
            own = number * shape.blocks
            jobs.append([*range(same), *range(own, own + shape.blocks - same)])
        return jobs

    def _offer(self) -> None:
        """Give each free place to a job, in turn, as fair schedulers do."""
        going = True
        while going:
            going = False
            for host in self.shape.names:
                for number, (scheduler, done) in enumerate(self._running):
                    if not self._free[host]:
                        break
                    if not scheduler.left():
                        continue
                    block = scheduler.pick(host)
                    if block is None:
                        continue
                    going = True
                    self._start(host, block, done)
                    # The next place is another job's turn.
                    self._running.append(self._running.pop(number))
                    break

    def _start(self, host: Host, block: Block, done: list[int]) -> None:
        shape, memory = self.shape, self.memory[host]
        self._free[host] -= 1
        self.result.reads += 1
        self._wanted[block] -= 1
        ready = self.now
        if block in memory:
            self.result.hits += 1
            memory.move_to_end(block)
            ready = max(self.now, memory[block])  # it may be on its way
        else:
            # Read where it is run; a copy is near enough if there is none here.
            ready = self._disk[host] = max(self.now, self._disk[host]) + shape.disk
            self._bring(host, block, ready)

        def end() -> None:
            self._free[host] += 1
            self._ended(done)
            self._offer()

        self.at(ready + shape.work, end)

    def _bring(self, host: Host, block: Block, ready: float) -> None:
        memory, lost = self.memory[host], list[Block]()
        if len(memory) >= self.shape.memory:
            out = next(iter(memory))
            if self._evicts:
                out = min(memory, key=lambda one: self._wanted[one])
            del memory[out]
            lost.append(out)
        memory[block] = ready

        def say() -> None:
            for one in lost:
                self.said[host].pop(one, None)
            self.said[host][block] = None
            for tell in list(self.told):
                tell(host, [block], lost)

        if self._knows:
            say()
            return
        self.at(ready + self.shape.delay, say)
        self.at(ready + self.shape.delay, self._offer)


#: The columns: who schedules, and what it knows.
SCHEDULERS: dict[str, tuple[type[Default] | type[Late], bool, bool]] = {
    "default": (Default, False, False),
    "hash": (Hashed, False, False),
    "placed once": (Once, False, False),
    "late": (Late, False, False),
    "oracle": (Late, True, False),
    "bound": (Late, True, True),
}


def simulate(shape: Shape, name: str, seed: int = 0) -> Result:
    """Run the jobs under one scheduler of SCHEDULERS."""
    kind, knows, evicts = SCHEDULERS[name]
    return World(shape, knows=knows, evicts=evicts, seed=seed).run(kind)
