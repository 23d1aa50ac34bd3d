# SPDX-License-Identifier: MIT
"""In the guest: what is measured, section by section."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from . import guest
from .guest import MOUNT, Holder, Sample, Settings, State

BIG = f"{MOUNT}/watched/big"
SMALL = f"{MOUNT}/watched/small"
SMALL_FILES = 20000
# Each measured in a cycle of its own, from a state entered for it.
PAIRS = ("added,removed", "dirty,flushed")

NO_MODULE = State("no module", guest.nothing)
EMPTY = State("empty probe", lambda: guest.module("emptyprobe"))
ON = State("on, no task", guest.duet)


@contextlib.contextmanager
def _other_file_system() -> Iterator[None]:
    with guest.other_file_system() as path, guest.tasks(1, guest.EVENTS, path):
        yield


def _uninvolved() -> list[State]:
    """Duet is there, and the work is none of its business."""
    tree = f"{MOUNT}/elsewhere"
    return [
        ON,
        State("task on another file system", _other_file_system),
        State("task on another tree", lambda: guest.tasks(1, guest.EVENTS, tree)),
    ]


def _watching(
    count: int, mask: int, done: str = ""
) -> Callable[[], contextlib.AbstractContextManager[object]]:
    return partial(guest.tasks, count, mask, done=done)


def _events(section: str, mib: int, rounds: int, counts: tuple[int, ...]) -> None:
    guest.load("create", BIG, str(mib << 20))
    states = [NO_MODULE, EMPTY, *_uninvolved()]
    states.append(State("file marked done", _watching(1, guest.EVENTS, f"done {BIG}")))
    for count in counts:
        label = f"{count} task" + "s" * (count > 1)
        states.append(State(f"{label}, all four events", _watching(count, guest.EVENTS)))
    for count in counts:
        label = f"{count} task" + "s" * (count > 1)
        states.append(State(f"{label}, EXISTS and MODIFIED", _watching(count, guest.STATES)))
    only = "1 task, that event only"
    guest.load("cool")
    for kinds in PAIRS:
        guest.load("cycle", BIG, kinds)
    for number in range(rounds):
        guest.say(f"{section}, round {number + 1} of {rounds}")
        for kinds in PAIRS:
            for state in states:
                guest.measure(section, state, partial(guest.load, "cycle", BIG, kinds))
        for kind, mask in guest.MASKS.items():
            state = State(only, _watching(1, mask))
            guest.measure(section, state, partial(guest.load, "cycle", BIG, kind))


def _read(section: str, mib: int, rounds: int) -> None:
    guest.load("create", BIG, str(mib << 20))
    for _ in range(rounds):
        for work, kind in (("cycle", "runs"), ("odd", "single pages")):
            for mask, label in ((guest.ADDED, "ADDED"), (guest.STATES, "EXISTS and MODIFIED")):
                guest.load("cool")
                with guest.tasks(1, mask) as held:
                    # Only reads: what is cached then stays.
                    guest.load(*(("readall", BIG) if work == "cycle" else ("odd", BIG)))
                    _, took, items, pages = held.ask("read")
                guest.emit(Sample(section, f"{label}, {kind}", "per page", int(took) / int(pages)))
                guest.emit(Sample(section, f"{label}, {kind}", "per item", int(took) / int(items)))
                guest.say(f"{section}, {label}, {kind}: {took} ns, {items} items, {pages} pages")


def _small_tree() -> None:
    """Make it, and read it so often that what it costs is steady."""
    guest.tree(SMALL, SMALL_FILES, 4096)
    for _ in range(2):
        guest.load("cool")
        guest.load("small", SMALL, str(SMALL_FILES))


def _small(section: str, rounds: int, *, brief: bool) -> None:
    _small_tree()

    def work() -> list[tuple[str, float]]:
        # To mark a file, or to make another file system, is to have something cached.
        guest.load("cool")
        return guest.load("small", SMALL, str(SMALL_FILES))

    states = [NO_MODULE, EMPTY]
    if not brief:
        states += _uninvolved()
        states.append(
            State("files marked done", _watching(1, guest.EVENTS, f"doneall {SMALL} {SMALL_FILES}"))
        )
        states.append(State("1 task, ADDED only", _watching(1, guest.ADDED)))
    states.append(State("1 task, all four events", _watching(1, guest.EVENTS)))
    if not brief:
        states.append(State("8 tasks, all four events", _watching(8, guest.EVENTS)))
        states.append(State("1 task, EXISTS and MODIFIED", _watching(1, guest.STATES)))
    for number in range(rounds):
        guest.say(f"{section}, round {number + 1} of {rounds}")
        for state in states:
            guest.load("cool")
            guest.measure(section, state, work)


FLAT_FEW = 1000
FLAT_ROUNDS = 2


def _flat(files: int) -> None:
    """The cost of an event and of a path with so many inodes cached, all of them watched."""
    section = f"flat: {files:,} cached inodes"
    many = f"{MOUNT}/watched/flat-{files}"
    guest.tree(many, files, 0)
    guest.load("create", BIG, str(16 << 20))

    def work() -> list[tuple[str, float]]:
        return [figure for kinds in PAIRS for figure in guest.load("cycle", BIG, kinds)]

    guest.load("cool")
    guest.load("readtree", many, str(files))
    work()
    for state in (NO_MODULE, EMPTY) * FLAT_ROUNDS:
        guest.measure(section, state, work)
    guest.load("cool")
    watching = "1 task, EXISTS and MODIFIED"
    with guest.tasks(1, guest.STATES) as held:
        guest.load("readtree", many, str(files))
        work()
        for _ in range(FLAT_ROUNDS):
            held.ask("read")
            guest.measure(section, State(watching, guest.nothing), work)
        held.ask("read")
        _, took, count = held.ask(f"paths {many} {files}")
        guest.emit(Sample(section, watching, "get_path", int(took) / int(count)))
        chain = int(held.ask("table")[1])
        guest.emit(Sample(section, watching, "longest chain", chain))


def flat(args: Settings) -> None:
    """Does the number of cached inodes matter?"""
    for files in (FLAT_FEW, args.flat_files):
        _flat(files)


def memory(_settings: Settings) -> None:
    """The bytes that Duet takes."""
    guest.load("create", BIG, str(256 << 20))
    guest.tree(SMALL, SMALL_FILES, 0)
    works: tuple[tuple[str, int, list[str]], ...] = (
        ("per page, 256 MiB file", 65536, ["readall", BIG]),
        ("per file, 20,000 one-page files", SMALL_FILES, ["readtree", SMALL, str(SMALL_FILES)]),
    )
    for max_tasks, mask, label in (
        (1, guest.STATES, "EXISTS and MODIFIED"),
        (8, guest.STATES, "EXISTS and MODIFIED"),
        (8, guest.EVENTS, "all four events"),
        (64, guest.STATES, "EXISTS and MODIFIED"),
    ):
        for kind, count, work in works:
            guest.load("cool")
            with guest.tasks(1, mask, max_tasks=max_tasks) as held:
                guest.load(*work)
                for when in ("unread", "read"):
                    used = guest.attribute("bytes")
                    state = f"max_tasks {max_tasks}, {label}, {when}"
                    guest.emit(Sample("memory, bytes", state, kind, used / count))
                    held.ask("read")
        guest.say(f"memory, max_tasks {max_tasks}, {label}")


CORES_BLOCKS = 4
CORES_PAIRS = 6


def cores(_settings: Settings) -> None:
    """A process per CPU writes, while a file is watched that nobody touches.

    This is real time, which the host's other work disturbs: so on and off take turns, in changing
    order, a second each.
    """
    section = "many cores, 1 MiB files written per second"
    guest.load("create", f"{MOUNT}/watched/one", "4096")
    guest.load("churn", f"{MOUNT}/elsewhere", "3")
    states = [State("off", guest.nothing), State("one file watched", _watching(1, guest.STATES))]
    for _ in range(CORES_BLOCKS):
        took = dict.fromkeys((state.name for state in states), 0.0)
        for _ in range(CORES_PAIRS):
            states.reverse()
            for state in states:
                with state.enter():
                    took[state.name] += guest.load("churn", f"{MOUNT}/elsewhere", "1")[0][1]
        rates = {name: CORES_PAIRS * 1e9 / value for name, value in took.items()}
        for name, rate in rates.items():
            guest.emit(Sample(section, name, "files/s", rate))
        ratio = 100 * rates["one file watched"] / rates["off"]
        guest.emit(Sample(section, "on / off", "%", ratio))
        guest.say(f"{section}: {rates}")


# What a user would pick instead: name, and how it is started.
PEERS: dict[str, Callable[[], contextlib.AbstractContextManager[Holder | None]]] = {
    "no module": contextlib.nullcontext,
    "Duet, all four events": partial(guest.tasks, 1, guest.EVENTS),
    "Duet, EXISTS and MODIFIED": partial(guest.tasks, 1, guest.STATES),
    "eBPF, counts per inode": partial(guest.peer, f"{guest.HERE}/peers.bpf.o", "counts"),
    "eBPF, states in a map": partial(guest.peer, f"{guest.HERE}/peers.bpf.o", "states"),
    "eBPF, ring buffer, batches": partial(guest.peer, f"{guest.HERE}/peers.bpf.o", "ring"),
    "eBPF, ring buffer, woken": partial(guest.peer, f"{guest.HERE}/peers.bpf.o", "woken"),
    "ftrace buffer, unread": guest.ftrace_events,
    "fanotify on the mount": partial(guest.peer, MOUNT, "fanotify"),
}


def peers(_settings: Settings) -> None:
    """The same work with Duet, and with what one would use instead; then, what is cached now."""
    section = "peers: extra per page or file, and what reading it costs then"
    guest.load("create", BIG, str(64 << 20))
    guest.load("cycle", BIG, PAIRS[0])
    works = (
        ("page, cold sequential", ["readall", BIG]),
        ("one-page file, cold", ["small", SMALL, str(SMALL_FILES)]),
    )
    for column, work in works:
        if work[0] == "small":
            _small_tree()
        for name, start in PEERS.items():
            guest.load("cool")
            with start() as held:
                kind, value = guest.load(*work)[0]
                guest.emit(Sample(section, name, column, value))
                if held is not None:
                    took = int(held.ask("read")[1])
                    count = SMALL_FILES if work[0] == "small" else (64 << 20) // 4096
                    guest.emit(Sample(section, name, f"read, per {column}", took / count))
            guest.say(f"peers, {name}, {column}: {kind} {value:.1f}")
    _residency()


def _residency() -> None:
    section = "peers: what is cached now, 20,000 one-page files, per file"
    guest.load("cool")
    guest.load("readtree", SMALL, str(SMALL_FILES))
    for how in ("mincore", "cachestat"):
        _, took, pages = guest.call(f"{guest.HERE}/peer", SMALL, how, str(SMALL_FILES)).split()
        guest.say(f"residency, {how}: {took} ns, {pages} pages")
        guest.emit(Sample(section, f"{how} walk", "per file", int(took) / SMALL_FILES))
    for how, state in (
        ("snapshot", "Duet, snapshot"),
        ("resident", "Duet, EXISTS: and from then on each change"),
    ):
        with guest.duet():
            _, took, *counts = guest.call(f"{guest.HERE}/task", how, SMALL).split()
        guest.say(f"residency, {state}: {took} ns, {' items, '.join(counts)} pages")
        guest.emit(Sample(section, state, "per file", int(took) / SMALL_FILES))


def core(_settings: Settings) -> None:
    """The quick look for who works on the driver."""
    _events("events", 32, 1, (1, 2))
    _read("read", 16, 1)
    _small("20,000 one-page files", 1, brief=True)


def events(_settings: Settings) -> None:
    """Extra cost per event, in every relation that Duet may have to a file."""
    _events("events", 64, 2, (1, 2, 4, 8))


def read(_settings: Settings) -> None:
    """What the reader pays in the kernel."""
    _read("read", 64, 2)


def small(_settings: Settings) -> None:
    """The first sight of a file."""
    _small("20,000 one-page files", 1, brief=False)
