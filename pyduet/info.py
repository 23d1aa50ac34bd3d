# SPDX-License-Identifier: MIT
"""What the driver tells of itself: its settings, its tasks, its table; all frozen."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntFlag
from itertools import islice
from typing import NamedTuple, Self

from pyduet._driver import abi
from pyduet.events import Mask


class EventCounts(NamedTuple):
    """A number for each kind of event."""

    added: int
    removed: int
    dirtied: int
    flushed: int


class DropCounts(NamedTuple):
    """How often something was dropped, by cause."""

    #: The memory limit of all tasks.
    limit: int
    #: The memory limit of one task.
    task_limit: int
    #: The kernel was out of memory.
    nomem: int


_NOTHING = Mask(0)


@dataclass(frozen=True, slots=True)
class DriverInfo:
    """What there is, and how it is set (``struct duet_info``).

    Attributes:
        abi_version: version of the interface.
        on: whether Duet is switched on.
        max_tasks: how many tasks can be registered; the next start's when off.
        tasks: how many are.
        node_pages: pages that a node covers.
        node_bytes: size of a node for ``max_tasks`` tasks, in bytes.
        file_bytes: size of a file's entry with its first node, in bytes, for a few tasks; more
            take the room that they need in that node, once there are so many.
        hooks_found: the events whose hook this kernel has.
        hooks_alive: the events whose hook is attached and proved to work.
        limit: bytes that files, nodes and marks of all tasks may take.
        task_limit: bytes that what one task has not read yet may take.
        bytes: bytes that files, nodes and marks take now.
        files: entries of files.
        nodes: nodes, those within entries included.
        events: folios seen of watched files since the module was loaded.
        drops: what was dropped since the module was loaded.
        page_size: bytes of a page, the unit of all indices. This and what
            follows is 0 or empty where it was not said, as in old recordings.
        features: what the driver has beyond what every one has, by the names
            of ``DUET_FEATURE_*``.
        register_flags: what a registration can have, by the names of
            ``DUET_REGISTER_*``.
        masks: what it can ask for, as far as there are hooks.
        item_size: bytes of the largest item that it can ask for.

    """

    abi_version: int
    on: bool
    max_tasks: int
    tasks: int
    node_pages: int
    node_bytes: int
    file_bytes: int
    hooks_found: Mask
    hooks_alive: Mask
    limit: int
    task_limit: int
    bytes: int
    files: int
    nodes: int
    events: EventCounts
    drops: DropCounts
    page_size: int = 0
    features: tuple[str, ...] = ()
    register_flags: tuple[str, ...] = ()
    masks: Mask = _NOTHING
    item_size: int = 0

    @classmethod
    def of(cls, raw: abi.Info) -> Self:
        """Return what the kernel's structure says."""
        return cls(
            abi_version=raw.abi_version,
            on=bool(raw.on),
            max_tasks=raw.max_tasks,
            tasks=raw.nr_tasks,
            node_pages=raw.node_pages,
            node_bytes=raw.node_bytes,
            file_bytes=raw.file_bytes,
            hooks_found=_mask(raw.hooks_found),
            hooks_alive=_mask(raw.hooks_alive),
            limit=raw.limit,
            task_limit=raw.task_limit,
            bytes=raw.bytes,
            files=raw.nr_files,
            nodes=raw.nr_nodes,
            events=_events(raw.events),
            drops=_drops(raw.drops),
            page_size=1 << raw.page_shift if raw.page_shift else 0,
            features=_names(abi.Feature, raw.features),
            register_flags=_names(abi.Register, raw.register_flags),
            masks=Mask(raw.masks & sum(Mask)),
            item_size=raw.item_size,
        )


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """One registered task, of any process (``struct duet_task_info``).

    Attributes:
        id: identity of the task, 1 to 255; reused after the task ended.
        fd: number of the task's descriptor in the process that registered it,
            as it was then.
        name: human-readable name.
        mask: what the task asked for.
        path: the directory or file, as the registering process saw it.
        ranges: whether its items are runs of pages.
        no_scan: whether it was not told what was cached when it registered.
        snapshot: whether it is told only that.
        pid: process that registered it, 0 if the caller cannot see that one.
        uid: user that registered it.
        dev: device number of its file system, ``st_dev``.
        gone: whether its directory or file system is no more.
        age: seconds since the registration.
        limit: bytes that what it has not read yet may take.
        pending: bytes that it takes.
        files: that it wants to hear of and that have been seen.
        done: files marked done.
        delivered: items that it has read.
        drops: what was dropped of its news.
        overflows: overflow items that it was given.
        item_size: bytes of an item that it reads, 0 where it was not said.

    """

    id: int
    fd: int
    name: str
    mask: Mask
    path: str
    ranges: bool
    no_scan: bool
    snapshot: bool
    pid: int
    uid: int
    dev: int
    gone: bool
    age: float
    limit: int
    pending: int
    files: int
    done: int
    delivered: int
    drops: DropCounts
    overflows: int
    item_size: int = 0

    @classmethod
    def of(cls, raw: abi.TaskInfo) -> Self:
        """Return what the kernel's structure says."""
        return cls(
            id=raw.tid,
            fd=raw.fd,
            name=os.fsdecode(raw.name),
            mask=Mask(raw.mask & ~abi.Page.FD_NONBLOCK),
            path=os.fsdecode(raw.path),
            ranges=bool(raw.flags & abi.Register.RANGES),
            no_scan=bool(raw.flags & abi.Register.NO_SCAN),
            snapshot=bool(raw.flags & abi.Register.SNAPSHOT),
            pid=raw.pid,
            uid=raw.uid,
            dev=raw.dev,
            gone=bool(raw.gone),
            age=raw.age / 1e9,
            limit=raw.limit,
            pending=raw.pending,
            files=raw.files,
            done=raw.done,
            delivered=raw.delivered,
            drops=_drops(raw.drops),
            overflows=raw.overflows,
            item_size=raw.item_size,
        )


@dataclass(frozen=True, slots=True)
class TableInfo:
    """The hash table of nodes (``struct duet_table``): for debugging, a later driver may have none.

    Attributes:
        buckets: how many.
        nodes: how many.
        longest: nodes in the fullest bucket.
        chains: how many buckets have as many nodes as the index says; the
            last one stands for so many or more.

    """

    buckets: int
    nodes: int
    longest: int
    chains: tuple[int, ...]

    @classmethod
    def of(cls, raw: abi.Table) -> Self:
        """Return what the kernel's structure says."""
        return cls(
            buckets=raw.buckets, nodes=raw.nodes, longest=raw.longest, chains=tuple(raw.chains)
        )


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a node says of some consecutive pages of a file to a task (``struct duet_node_info``).

    For debugging, as :class:`TableInfo`.

    Attributes:
        bucket: where it is in the table.
        ino: inode number of the file.
        generation: its inode's generation.
        dev: device number of its file system, ``st_dev``.
        index: the node's first page, in units of the page size.
        task: id of the task, 0 when the node says nothing to any.
        queued: whether the task has it to read.
        cached: a bit for each page that is cached, while a task is state-based.
        dirty: a bit for each page that is dirty, likewise.
        bits: a bit for each page and kind of event. Event-based: what was not
            read yet. State-based: as what the task knows the page (``added``,
            ``dirtied``).

    """

    bucket: int
    ino: int
    generation: int
    dev: int
    index: int
    task: int
    queued: bool
    cached: int
    dirty: int
    bits: EventCounts

    @classmethod
    def of(cls, raw: abi.NodeInfo) -> Self:
        """Return what the kernel's structure says."""
        return cls(
            bucket=raw.bucket,
            ino=raw.ino,
            generation=raw.gen,
            dev=raw.dev,
            index=raw.idx,
            task=raw.tid,
            queued=bool(raw.queued),
            cached=raw.cached,
            dirty=raw.dirty,
            bits=_events(raw.bits),
        )


def _events(counts: Iterable[int]) -> EventCounts:
    """Return the counts of the events known here: the kernel's array has room for more."""
    return EventCounts(*islice(counts, len(abi.Event)))


def _drops(counts: Iterable[int]) -> DropCounts:
    """Return the counts of the causes known here, likewise."""
    return DropCounts(*islice(counts, len(abi.Drop)))


def _names(kind: type[IntFlag], bits: int) -> tuple[str, ...]:
    """Return the names of the bits that are known here, in lower case."""
    return tuple(str(bit.name).lower() for bit in kind if bits & bit)


#: A bit of ``duet_info.hooks_*`` and the event of a mask that it means.
_HOOKS = {
    abi.Event.ADDED: Mask.ADDED,
    abi.Event.REMOVED: Mask.REMOVED,
    abi.Event.DIRTY: Mask.DIRTY,
    abi.Event.FLUSHED: Mask.FLUSHED,
}


def _mask(bits: int) -> Mask:
    mask = Mask(0)
    for event, bit in _HOOKS.items():
        if bits & 1 << event:
            mask |= bit
    return mask
