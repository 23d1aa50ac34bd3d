# SPDX-License-Identifier: MIT
"""Dask: each worker says what its host's memory holds, and a map binds its tasks as late as it can.

Needs ``distributed``.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from distributed import Client, Future, Worker, WorkerPlugin, as_completed

from pyduet.cluster.blocks import Blocks
from pyduet.cluster.news import Announcer, Directory, Message
from pyduet.cluster.pick import Picker, Why
from pyduet.cluster.source import DuetSource, MincoreSource, Source
from pyduet.cluster.stores import Store
from pyduet.device import DEFAULT_DEVICE, Device
from pyduet.errors import DuetError

_LOG = logging.getLogger(__name__)
#: Of Dask's events: where workers say what they hold.
TOPIC = "duet"
#: Seconds between two looks at which workers there are.
_LOOK = 5.0


class ResidencyPlugin(WorkerPlugin):
    """Has each worker say what the memory of its host holds of a data directory.

    ``client.register_plugin(ResidencyPlugin("/data", Plain("/data")))``. Where a host has no Duet,
    it looks with mincore, which is slower; the worker's log says so. With several workers on one
    host each does: have one with several threads.
    """

    name = "duet-residency"

    def __init__(
        self,
        directory: str | os.PathLike[str],
        store: Store,
        *,
        interval: float = 0.5,
        look: float = 10.0,
        device: str | os.PathLike[str] = DEFAULT_DEVICE,
        topic: str = TOPIC,
    ) -> None:
        """Say what is to be known.

        Args:
            directory: whose files are blocks, on each host.
            store: which files are which blocks.
            interval: seconds between two messages.
            look: seconds between two looks where there is no Duet.
            device: the device node.
            topic: of Dask's events.

        """
        self._directory, self._store = os.fsdecode(directory), store
        self._interval, self._look = interval, look
        self._device, self._topic = os.fsdecode(device), topic
        self._over: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def setup(self, worker: Worker) -> None:
        """Begin, on a worker."""
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(worker, self._over), name=self.name, daemon=True
        )
        self._thread.start()

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 -- Dask's name for it
        """End, with its worker."""
        if self._over and self._thread:
            self._over.set()
            self._thread.join(2 * self._interval)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the thread: the plugin is sent to each worker before that begins."""
        return {**self.__dict__, "_over": None, "_thread": None}

    def _run(self, worker: Worker, over: threading.Event) -> None:
        while not over.is_set():
            blocks = Blocks(self._store.part)
            announcer = Announcer(worker.address, blocks)
            try:
                self._say(worker, over, blocks, announcer)
            except (DuetError, OSError) as error:
                _LOG.warning("%s: %s; nothing is resident, as far as is known", self.name, error)
                blocks.clear()
                worker.log_event(self._topic, announcer.message())
                over.wait(self._look)

    def _say(
        self, worker: Worker, over: threading.Event, blocks: Blocks, announcer: Announcer
    ) -> None:
        try:
            device = Device(self._device)
        except DuetError as error:
            _LOG.warning("%s: %s; it looks each %g s instead", self.name, error, self._look)
            source: Source = MincoreSource(self._directory, self._store, blocks, self._look)
            self._tell(worker, over, source, announcer)
            return
        with device, DuetSource(device, self._directory, self._store, blocks) as source:
            self._tell(worker, over, source, announcer)

    def _tell(
        self, worker: Worker, over: threading.Event, source: Source, announcer: Announcer
    ) -> None:
        while not over.is_set():
            end = time.monotonic() + self._interval
            while (left := end - time.monotonic()) > 0:
                source.step(left)
            worker.log_event(self._topic, announcer.message())


class Done(NamedTuple):
    """A task that ended.

    Attributes:
        block: that it was for.
        future: of Dask; its ``result()`` returns, or raises, what the task did.
        worker: that it was meant for; Dask runs it elsewhere if that is gone.
        why: it was meant for that one.

    """

    block: str
    future: Future[Any]
    worker: str
    why: Why


def opportunistic_map(
    client: Client,
    function: Callable[[str], object],
    blocks: Mapping[str, Collection[str]],
    *,
    depth: int = 2,
    retries: int = 0,
    topic: str = TOPIC,
    patience: float = 30.0,
) -> Iterator[Done]:
    """Run a function of each block, on workers whose memory holds it and before the others.

    A task is given to Dask when a worker has a place for it, so that what is resident then counts.
    Results come as they are done. An iterator that is closed before its end cancels what runs.

    Args:
        client: of Dask.
        function: called with the name of a block, on a worker.
        blocks: in the order in which they would be read, each with who has it on a disk: addresses,
            names or hosts of workers.
        depth: tasks for each thread of a worker, the one that it runs as well. With 1 nothing is
            bound early, and a thread is idle for the way to the client and back.
        retries: how often Dask runs a task again that failed.
        topic: of Dask's events, where workers say what they hold.
        patience: seconds for which what a silent worker said is believed.

    Yields:
        each block, when its task ended.

    """
    if depth < 1:
        raise ValueError(f"depth is {depth}; at least 1 is needed")
    return _Map(client, function, blocks, depth, retries, topic, patience).run()


class _Map:
    """One run of :func:`opportunistic_map`."""

    def __init__(
        self,
        client: Client,
        function: Callable[[str], object],
        blocks: Mapping[str, Collection[str]],
        depth: int,
        retries: int,
        topic: str,
        patience: float,
    ) -> None:
        self._client, self._function = client, function
        self._depth, self._retries, self._topic = depth, retries, topic
        self._flying: dict[Future[Any], tuple[Done, float]] = {}
        self._news: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._directory = Directory(patience)
        workers, threads = self._workers(), self._threads()
        self._free = {worker: depth * places for worker, places in threads.items()}
        self._picker = Picker(
            {block: self._addresses(hosts, workers) for block, hosts in blocks.items()}, threads
        )
        self._looked = time.monotonic()
        known = {name for names in workers.values() for name in names}
        strangers = sorted({host for hosts in blocks.values() for host in hosts} - known)
        if strangers:
            _LOG.warning(
                "no worker is named %s: what they have on a disk counts as far away; the workers' "
                "names are %s", ", ".join(strangers[:5]), ", ".join(sorted(known)[:10]),
            )  # fmt: skip

    def run(self) -> Iterator[Done]:
        """Yield what is done, until all is."""
        client = self._client
        client.subscribe_topic(self._topic, lambda event: self._news.put(event[1]))
        for _, message in client.get_events(self._topic):
            self._news.put(message)
        self._directory.attach(self._picker)
        ended = as_completed()
        try:
            while len(self._picker) or self._flying:
                self._look()
                for future in self._submit():
                    ended.add(future)
                if not self._flying:
                    time.sleep(0.1)  # no worker is there
                    continue
                future = next(ended)
                done, begun = self._flying.pop(future)
                if done.worker in self._free:
                    self._free[done.worker] += 1
                self._picker.took(done.why, time.monotonic() - begun)
                yield done
        finally:
            client.unsubscribe_topic(self._topic)
            if self._flying:
                client.cancel(list(self._flying))

    def _submit(self) -> Iterator[Future[Any]]:
        """Give Dask a task for each free place, and yield them."""
        while not self._news.empty():
            self._directory.hear(self._news.get())
        self._directory.expire()
        going = True
        while going:
            going = False
            # One each in turn: or the first would have all that nobody holds.
            for worker in [one for one, free in self._free.items() if free > 0]:
                choice = self._picker.pick(worker)
                if choice is None:
                    continue
                going = True
                self._free[worker] -= 1
                future = self._client.submit(
                    self._function,
                    choice.block,
                    workers=[worker],
                    allow_other_workers=True,
                    pure=False,
                    retries=self._retries,
                )
                done = Done(choice.block, future, worker, choice.why)
                self._flying[future] = done, time.monotonic()
                yield future

    def _look(self) -> None:
        """See which workers there are, now and then."""
        if time.monotonic() < self._looked + _LOOK and self._free:
            return
        self._looked = time.monotonic()
        threads = self._threads()
        for worker in self._free.keys() - threads.keys():
            self._picker.joined(worker, 0)
            del self._free[worker]
        for worker, places in threads.items():
            if worker not in self._free:
                self._picker.joined(worker, places)
                self._free[worker] = places * self._depth
                self._picker.gained(worker, self._directory.held(worker))

    def _threads(self) -> dict[str, int]:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return {address: int(worker["nthreads"]) for address, worker in workers.items()}

    def _workers(self) -> dict[str, set[str]]:
        """Return each worker's address, with all that it may be called."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        return {
            address: {address, str(worker["name"]), str(worker["host"])}
            for address, worker in workers.items()
        }

    @staticmethod
    def _addresses(hosts: Collection[str], workers: Mapping[str, set[str]]) -> list[str]:
        return [address for address, names in workers.items() if not names.isdisjoint(hosts)]
