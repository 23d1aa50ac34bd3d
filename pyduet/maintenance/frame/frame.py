# SPDX-License-Identifier: MIT
"""What all maintenance tasks share: finds the work, orders it, has it done, and remembers it."""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pyduet.device import DEFAULT_DEVICE, Device
from pyduet.maintenance.files.page_cache import Footprint, missing
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.frame.inventory import (
    Found,
    open_quietly,
    problem_of,
    regular,
    stamp_of,
    walk,
    work_of,
)
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.order import Order
from pyduet.maintenance.frame.pace import Courtesy, Throttle, be_idle
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.frame.work import (
    BadFileError,
    Problem,
    TargetError,
    Trouble,
    UnstableError,
    Work,
)
from pyduet.maintenance.sharing.holding import Held, available
from pyduet.maintenance.sharing.last_turn import LastTurn
from pyduet.maintenance.sharing.residency import Watch

#: How often a file that changes while it is processed is tried.
_TRIES = 3
#: How often all is looked at again for what changed after it was processed.
_ROUNDS = 3
#: Bytes of a batch, from which on no more files are added; and of the available memory one of so
#: many parts at most, else what is written of it takes the place of what others hold.
_BATCH, _BATCH_PART = 32 << 20, 16
#: Seconds to wait for others before asking again.
_TURN = 0.1
#: So many times what asking took is waited, up to as many seconds: it is not to keep a processor
#: busy, whose others do the work that is waited for.
_REST, _LONGEST = 4, 2.0
#: Share of a file that is cached, from which on reading the rest is no step ahead of others. Less
#: than what others hold of it at least: see Held.
_WARM = 0.4
#: Share of a file that is cached, above which the disk is not used for it: the last step of Order.
_FULL = 15 / 16
#: Bytes of a file that are read from the disk before it is looked whether others wait for it.
_UNLOOKED = 16 << 20


class _ReplacedError(Exception):
    """There is another file of this name by now."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a task is run.

    Attributes:
        device: the device node.
        informed: whether to ask Duet; without, files come in the device's order.
        rate: bytes a second to read from the device, 0 for no limit.
        idle: whether to take the idle classes of I/O and processor.
        give_way: whether to back off while others wait for the disk.
        window: bytes to read ahead of other tasks; 0 for a share of the memory that
            is available.
        patience: seconds to wait for other tasks while they use nothing.
        anew: whether to begin a new pass though the last one did not end.

    """

    device: str = DEFAULT_DEVICE
    informed: bool = True
    rate: int = 0
    idle: bool = True
    give_way: bool = True
    window: int = 0
    patience: float = 30.0
    anew: bool = False


@dataclass(slots=True)
class Progress:
    """How far a task is, and at its end what became of it.

    Attributes:
        step: what it does now, in a word or two.
        files, bytes: of the work that was found.
        files_done, bytes_done: of it that was processed, or named.
        bytes_cached: of the bytes processed that were in memory before: reads
            saved.
        waited: seconds that it waited for neighbours, for a limit or for others
            at the disk.
        again: files that were processed again, because they changed.
        problems: files that are named.
        report: what the task itself has counted.
        blind: why Duet tells nothing, if so.

    """

    step: str = "looking for work"
    files: int = 0
    bytes: int = 0
    files_done: int = 0
    bytes_done: int = 0
    bytes_cached: int = 0
    waited: float = 0.0
    again: int = 0
    problems: list[Problem] = field(default_factory=list)
    report: dict[str, int] = field(default_factory=dict)
    blind: str | None = None


class Frame:
    """Runs a maintenance task once.

    Thread-safety: none.
    """

    def __init__(
        self,
        task: Maintenance,
        root: str,
        ledger: Ledger,
        options: Options,
        tell: Callable[[Progress], object] = lambda _: None,
    ) -> None:
        """Prepare; nothing is done yet.

        Args:
            task: what is to be done.
            root: the directory.
            ledger: of the task and this directory; stays the caller's.
            options: how.
            tell: called with the progress, after each file and while waiting.

        """
        self._task = task
        self._root = os.path.abspath(root)
        self._ledger = ledger
        self._options = options
        self._tell = tell
        self._throttle = Throttle(options.rate, self._sleep)
        self._courtesy = Courtesy(self._sleep)
        self._unlooked = 0
        self._watch: Watch | None = None
        self._held: Held | None = None
        self._turn: LastTurn | None = None
        self.progress = Progress()

    def plan(self) -> Iterator[tuple[Work, float]]:
        """Yield what a run would do now, in its order, with the share that is cached; do nothing.

        Raises:
            OSError: as of :meth:`run`.

        """
        with self._watching():
            order = self._order(self._inventory())
            self._look(order)
            while best := order.best():
                yield best
                order.remove(best[0])

    def run(self) -> Progress:
        """Do all of the work; returns how it went.

        Raises:
            OSError: the directory cannot be looked into, or Duet not be asked.

        """
        if self._options.idle:
            be_idle()
        if self._options.anew and self._ledger.resumed:
            self._ledger.begin_anew()
        with self._watching():
            found = self._inventory()
            self._task.begin(self._root, self._ledger, found)
            try:
                found = self._work(found)
            finally:
                # Also of a run that is broken off: the next one goes on from here.
                self._secure()
            self._say("finishing")
            try:
                self._task.finish(found)
            except BadFileError as error:
                self._named(Problem("", error.trouble, error.words))
            self._ledger.end()
            if self._held is not None:
                self._held.give_up(self._wait)
        self.progress.report = dict(self._task.report())
        self._say("done")
        return self.progress

    def _work(self, found: list[Found]) -> list[Found]:
        """Process all, and again what changed meanwhile; returns what is there at the end."""
        self._work_off(self._order(found))
        for _ in range(_ROUNDS):
            found = self._inventory()
            order = self._ordered(self._changed(found))
            if not order.files:
                break
            self.progress.again += order.files
            self._work_off(order)
        self._vanished(found)
        return found

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        if not self._options.informed:
            self.progress.blind = "not asked"
            yield
            return
        with Device(self._options.device) as device:
            self._watch = Watch(device, self._task.kind, self._root)
            self._held = Held(
                self._root,
                self._watch.neighbours,
                self._options.window,
                self._options.patience,
            )
            if self._task.after_others:
                self._turn = LastTurn(self._watch.neighbours, self._options.patience)
            try:
                with self._task.watching(device, self._root):
                    yield
            finally:
                self._watch.close()

    def _inventory(self) -> list[Found]:
        """Return all that is there, but what the task itself writes."""
        self._say("looking for work")
        own = {os.path.relpath(os.path.abspath(file), self._root) for file in self._own()}
        return [one for one in walk(self._root, self._named) if one.path not in own]

    def _own(self) -> Iterator[str]:
        yield from self._task.outputs
        yield from (self._ledger.file + suffix for suffix in ("", "-journal"))

    def _secure(self) -> None:
        self._task.secure()
        self._ledger.commit()

    def _order(self, found: Iterable[Found]) -> Order:
        """Return the work of this pass that is left."""
        return self._ordered(
            regular(found),
            lambda before: before is None or before.passed != self._ledger.number,
        )

    def _ordered(
        self,
        found: Iterable[Found],
        is_left: Callable[[Record | None], bool] = lambda _: True,
    ) -> Order:
        works: list[Work] = []
        idle: list[Work] = []
        for one in found:
            try:
                work = work_of(self._root, one)
            except OSError as error:
                self._named(problem_of(one.path, error))
                continue
            before = self._ledger.get(work.path)
            wanted = is_left(before) and self._task.worth(work, before)
            (works if wanted else idle).append(work)
        self._done(idle)  # neighbours need not keep them for us
        order = Order(works)
        self.progress.files += order.files
        self.progress.bytes += order.bytes
        return order

    def _work_off(self, order: Order) -> None:
        self._say("working")
        while True:
            begin = time.monotonic()
            self._look(order)
            works = self._next(order)
            if works is None:
                return
            if not works:
                self._wait(time.monotonic() - begin)
                continue
            self._unlooked = 0
            if self._task.batch > 1:
                self._do_many(works)
            else:
                self._do(works[0])
            if self._ledger.due:
                self._secure()
            self.progress.files_done += len(works)
            self.progress.bytes_done += sum(work.size for work in works)
            self._tell(self.progress)

    def _next(self, order: Order) -> list[Work] | None:
        """Take what is to be done now out of the order.

        Returns:
            Nothing to wait for others first, and None at the end.

        """
        if self._turn is not None:
            if not self._may_use_disk():
                return []
            work = self._turn.next(order)
            return [work] if work else [] if self._turn or order.best() else None
        works: list[Work] = []
        size = 0
        most = min(_BATCH, available() // _BATCH_PART) if self._task.batch > 1 else 0
        while not works or (len(works) < self._task.batch and size < most):
            best = order.best()
            if best is None:
                return works or None
            work, share = best
            size += work.size
            if share < _WARM and self._held is not None and not self._held.room(size):
                break
            if share <= _FULL and not self._may_use_disk():
                break
            order.remove(work)
            works.append(work)
        return works

    def _may_use_disk(self) -> bool:
        return not self._options.give_way or self._courtesy.may_read()

    def _spend(self, number: int) -> None:
        """Wait until so many bytes may be read from the disk."""
        self._unlooked += number
        if self._unlooked >= _UNLOOKED and self._options.give_way:
            self._courtesy.give_way()
            self._unlooked = 0
        self._throttle.spend(number)

    def _do_many(self, works: list[Work]) -> None:
        """Have a batch of files processed."""
        footprints = []
        for work in works:
            try:
                fd = open_quietly(os.path.join(self._root, work.path))
            except OSError as error:
                self._named(problem_of(work.path, error))
                continue
            try:
                footprints.append(Footprint(work, missing(fd, work.pages)))
            finally:
                os.close(fd)
        self._spend(sum(one.bytes for one in footprints))
        notes = self._task.process_many([one.work for one in footprints])
        for one in footprints:
            self._ledger.put(one.work, notes.get(one.work.path))
            self._saved(one.work, one.bytes)
            self._brought_in(one)
        self._done(works)

    def _do(self, work: Work) -> None:
        """Process a file, until it stands still for it."""
        for _ in range(_TRIES):
            try:
                note, work = self._attempt(work)
            except UnstableError:
                continue
            except _ReplacedError:
                pass  # by another file, which the next look finds
            except BadFileError as error:
                self._named(Problem(work.path, error.trouble, error.words))
            except TargetError:
                raise
            except OSError as error:
                self._named(problem_of(work.path, error))
            else:
                self._ledger.put(work, note)
            break
        else:
            self._named(
                Problem(work.path, Trouble.UNSTABLE, f"it changed in each of {_TRIES} attempts")
            )
        self._done([work])

    def _done(self, works: Sequence[Work]) -> None:
        if self._watch is not None:
            self._watch.done(works)

    def _attempt(self, work: Work) -> tuple[object, Work]:
        fd = open_quietly(os.path.join(self._root, work.path))
        try:
            now = stamp_of(os.fstat(fd))
            if now.ino != work.stamp.ino:
                raise _ReplacedError
            work = Work(work.path, now, work.generation, work.physical)
            footprint = Footprint(work, missing(fd, work.pages))
            share = min(1.0, footprint.bytes / work.size) if work.size else 0.0
            reading = Reading(
                work,
                fd,
                self._spend,
                share,
                functools.partial(self._behind, fd, footprint),
            )
            try:
                return self._task.process(reading, self._ledger.get(work.path)), work
            finally:
                self._saved(work, footprint.bytes if reading.read is None else reading.read)
                self._brought_in(footprint)
        finally:
            os.close(fd)

    def _saved(self, work: Work, read: int) -> None:
        """Count what of a file did not have to be read from the device."""
        self.progress.bytes_cached += max(0, work.size - read)

    def _behind(self, fd: int, footprint: Footprint, begin: int, end: int) -> None:
        """Drop a part of a large file that was read, which nobody else wants."""
        if self._held is None or not self._held.is_wanted(footprint):
            footprint.drop_part(fd, begin, end)

    def _brought_in(self, footprint: Footprint) -> None:
        if not footprint.ranges:
            return
        if self._held is None:
            footprint.drop(self._root)
        else:
            self._held.add(footprint)

    def _changed(self, found: Iterable[Found]) -> list[Found]:
        """Return what is new, or another than when it was processed in this pass."""
        named = {problem.path for problem in self.progress.problems}
        changed = []
        for one in regular(found):
            if one.path in named:
                continue
            before = self._ledger.get(one.path)
            if before is None or before.stamp != stamp_of(one.status):
                changed.append(one)
        return changed

    def _vanished(self, found: Iterable[Found]) -> None:
        there = {one.path for one in regular(found)}
        for path, before in list(self._ledger.files()):
            if path in there:
                continue
            try:
                os.lstat(os.path.join(self._root, path))
            except (FileNotFoundError, NotADirectoryError):
                self._task.vanished(path, before)
            except OSError:
                continue  # it cannot be seen, which was said
            self._ledger.forget(path)

    def _look(self, order: Order) -> None:
        if self._watch is not None:
            self._watch.look(order)
            if self._watch.lost is not None:
                self.progress.blind = str(self._watch.lost)

    def _wait(self, asking: float) -> None:
        """Wait for the neighbours, or for others at the disk; to ask took so many seconds."""
        self._say(
            "leaving the disk to others" if self._courtesy.leaves else "waiting for other tasks"
        )
        self._sleep(max(_TURN, min(_REST * asking, _LONGEST)))
        self.progress.step = "working"

    def _sleep(self, seconds: float) -> None:
        """Sleep, and go on telling how far things are."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            self._tell(self.progress)
        self.progress.waited += seconds

    def _named(self, problem: Problem) -> None:
        if problem.path not in {one.path for one in self.progress.problems}:
            self.progress.problems.append(problem)

    def _say(self, step: str) -> None:
        self.progress.step = step
        self._tell(self.progress)
