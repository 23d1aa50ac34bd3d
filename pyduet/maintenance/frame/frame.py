# SPDX-License-Identifier: MIT
"""What all maintenance tasks share: finds the work, orders it, has it done, and remembers it."""

import contextlib
import enum
import functools
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pyduet.device import DEFAULT_DEVICE, Device
from pyduet.errors import DuetError
from pyduet.maintenance.files.page_cache import Footprint
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.settled import settle
from pyduet.maintenance.files.statx import Identity
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.inventory import Found, Inventory, work_of
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.order import Order
from pyduet.maintenance.frame.pace import Courtesy, Throttle
from pyduet.maintenance.frame.problems import Problems
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.frame.watchdog import Watchdog
from pyduet.maintenance.sharing.holding import Held, available
from pyduet.maintenance.sharing.last_turn import LastTurn
from pyduet.maintenance.sharing.residency import Watch
from pyduet.maintenance.work import (
    NAMED,
    BadFileError,
    LeftOut,
    Problem,
    ReplacedError,
    TargetError,
    Trouble,
    UnstableError,
    Work,
    problem_of,
    stamp_of,
)

#: How often a file that changes while it is processed is tried.
_TRIES = 3
#: How often a file that changed a moment ago is looked at before it is processed as it is, and the
#: seconds that all such files of a run are waited for: somebody may change files all the time.
_LOOKS, _GRACE = 2, 30.0
#: How often all is looked at again for what changed after it was processed.
_ROUNDS = 3
#: A batch has of the available memory one of so many parts at most, else what is written of it
#: takes the place of what others hold; and of so many where it is to be large.
_BATCH_PART, _LARGE_PART = 16, 4
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


#: Files that are put off together.
_YOUNG = 10_000
_RESTLESS = f"it was replaced again after each of {_ROUNDS + 1} rounds, and could not be processed"
#: What is left out and told one by one, at most; all of it is counted.
_TOLD = 1000
#: Files that neighbours are told of together.
_MARKS = 1000


class _YoungError(Exception):
    """A file changed a moment ago: its times cannot be believed yet."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class _Restless(NamedTuple):
    """A file that does not stand still.

    Attributes:
        work: the file.
        looks: how often it was too young.
        tries: how often it changed while it was processed.

    """

    work: Work
    looks: int = 0
    tries: int = 0


@contextlib.contextmanager
def _at_the_end(do: Callable[[], object]) -> Iterator[None]:
    """Do something, also after an error, which no other one may hide."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            do()
        raise
    do()


class Use(enum.StrEnum):
    """Whether a task asks Duet."""

    #: Where it works; the work is done all the same where it does not.
    AUTO = "auto"
    #: Or not at all: without Duet nothing is done.
    REQUIRED = "required"
    #: Not even where it works: to compare with.
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Options:
    """How a task is run.

    Attributes:
        device: the device node.
        duet: whether to ask Duet; without, files come in the device's order.
        rate: bytes a second to read from the device, 0 for no limit.
        give_way: whether to back off while others wait for the disk.
        window: bytes to read ahead of other tasks; 0 for a share of the memory that
            is available.
        patience: seconds to wait for other tasks while they use nothing.

    """

    device: str = DEFAULT_DEVICE
    duet: Use = Use.AUTO
    rate: int = 0
    give_way: bool = True
    window: int = 0
    patience: float = 30.0


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
        named: how many files are named.
        problems: the first ten thousand of the files that are named, at the end.
        left_out: what is no part of the work, the first thousand of it.
        left_out_count: how much that is.
        warnings: what else wants somebody's attention, a line each.
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
    named: int = 0
    problems: list[Problem] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    left_out_count: int = 0
    warnings: list[str] = field(default_factory=list)
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
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Prepare; nothing is done yet.

        Args:
            task: what is to be done.
            root: the directory.
            ledger: of the task and this directory; stays the caller's.
            options: how.
            tell: called with the progress, after each file and while waiting.
            note: called with what else there is to say of the run, a line each time.

        """
        self._task = task
        task.say, task.name, task.note, task.warn = self._say, self._name, note, self._warn
        task.ledger_files = ledger.files_kept
        self._root = os.path.abspath(root)
        self._ledger = ledger
        self._options = options
        self._tell = tell
        self._throttle = Throttle(options.rate, self._sleep)
        self._courtesy = Courtesy(self._sleep)
        self._unlooked = 0
        # What changed a moment ago is done when its times can be believed, all after one wait.
        self._young: list[_Restless] = []
        self._old_at = 0.0
        self._grace = _GRACE
        self._watch: Watch | None = None
        self._held: Held | None = None
        self._turn: LastTurn | None = None
        self._problems = Problems()
        self.progress = Progress()
        if ledger.warning is not None:
            self.progress.warnings.append(ledger.warning)

    def plan(self) -> Iterator[tuple[Work, float]]:
        """Yield what a run would do now, in its order, with the share that is cached; do nothing.

        Raises:
            OSError: as of :meth:`run`.

        """
        self._task.dry_run = True
        with (
            contextlib.closing(self._problems),
            self._watching(),
            self._inventory() as found,
            contextlib.closing(self._task),
        ):
            self._task.survey(self._tree, self._ledger, found)
            with self._order(found) as order:
                self._look(order)
                while best := order.best():
                    yield best
                    order.remove(best[0])

    def run(self) -> Progress:
        """Do all of the work; returns how it went.

        Raises:
            OSError: the directory cannot be looked into, or a task's own target
                cannot be used.
            DuetError: Duet is required, and cannot be asked.

        """
        with contextlib.closing(self._problems), self._watching():
            with contextlib.closing(self._task), _at_the_end(self._list_problems):
                self._run()
            self._ledger.end()
            if self._held is not None:
                self._held.give_up(self._wait)
        for one in self._task.left_out():
            self._leave_out(one)
        self.progress.report = dict(self._task.report())
        self._say("done")
        return self.progress

    def _run(self) -> None:
        found = self._inventory()
        try:
            self._task.survey(self._tree, self._ledger, found)
            self._task.begin(self._tree, self._ledger, found)
            if self._ledger.resumed:
                self._task.note("going on where the last run was ended")
            # Also of a run that is broken off: the next one goes on from here.
            with _at_the_end(self._secure):
                found = self._work(found)
            self._say("finishing")
            try:
                self._task.finish(found)
            except BadFileError as error:
                self._name(Problem("", error.trouble, error.words))
        finally:
            found.close()

    def _work(self, found: Inventory) -> Inventory:
        """Process all, and again what changed meanwhile; returns what is there at the end."""
        with self._order(found) as order:
            self._work_off(order)
        for _ in range(_ROUNDS):
            earlier, found = found, self._inventory()
            earlier.close()
            with self._ordered(self._changed(found)) as order:
                if not order.files:
                    break
                self.progress.again += order.files
                self._work_off(order)
        else:
            with found:
                last = self._inventory()
                for one, before in self._changed(last):
                    # What has come since is younger than the run, and of what was done and has
                    # changed again it has an earlier state.
                    is_late = not self._is_done(one, before)
                    if is_late and found.has(one.path, one.status):
                        self._name(Problem(one.path, Trouble.UNSTABLE, _RESTLESS))
            found = last
        self._vanished(found)
        return found

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Hold the directory, and be told of what is cached below it, if that is wanted."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(Watchdog(self._warn))
            self._tree = stack.enter_context(Tree(self._root))
            if self._options.duet is Use.NEVER:
                self.progress.blind = "not asked"
            else:
                try:
                    self._ask_duet(stack)
                except DuetError as error:
                    if self._options.duet is Use.REQUIRED:
                        raise
                    self.progress.blind = str(error)
            yield

    def _ask_duet(self, stack: contextlib.ExitStack) -> None:
        device = stack.enter_context(Device(self._options.device))
        watch = Watch(device, self._task.kind, self._root)
        stack.callback(watch.close)
        stack.enter_context(self._task.watching(device, self._root))
        self._watch = watch
        self._held = Held(
            self._tree, watch.neighbours, self._options.window, self._options.patience
        )
        if self._task.after_others:
            self._turn = LastTurn(watch.neighbours, self._options.patience)

    def _inventory(self) -> Inventory:
        """Return all that is there, but what the task itself writes."""
        self._say("looking for work")
        self._problems.look_again()
        self.progress.left_out, self.progress.left_out_count = [], 0
        return Inventory(self._counted(self._others(self._tree.walk(self._unsee, self._leave_out))))

    def _others(self, found: Iterable[Found]) -> Iterator[Found]:
        """Yield what the task does not write itself."""
        inodes, paths = self._own()
        for one in found:
            if (one.status.st_dev, one.status.st_ino) not in inodes and one.path not in paths:
                yield one

    def _own(self) -> tuple[set[tuple[int, int]], set[str]]:
        """Return what the task writes: inodes, and paths of what comes and goes beside it."""
        root = os.path.realpath(self._root)
        inodes: set[tuple[int, int]] = set()
        paths: set[str] = set()
        for file in (*self._task.outputs, *self._task.ledger_files):
            paths.add(os.path.relpath(os.path.realpath(file), root))
            with contextlib.suppress(OSError):
                status = os.stat(file)
                inodes.add((status.st_dev, status.st_ino))
        return inodes, paths

    def _counted(self, found: Iterable[Found]) -> Iterator[Found]:
        """Tell now and then that the walk goes on."""
        for number, one in enumerate(found):
            if not number % _MARKS:
                self._tell(self.progress)
            yield one

    def _leave_out(self, what: LeftOut) -> None:
        self.progress.left_out_count += 1
        if len(self.progress.left_out) < _TOLD:
            self.progress.left_out.append(what)

    def _secure(self) -> None:
        self._task.secure()
        self._ledger.commit()

    def _order(self, found: Inventory) -> Order:
        """Return the work of this pass that is left."""
        return self._ordered(
            (one, before) for one, before in self._known(found) if not self._is_done(one, before)
        )

    def _known(self, found: Inventory) -> Iterator[tuple[Found, Record | None]]:
        """Yield the regular files, each with what the ledger has of it."""
        for one in found.regular():
            yield one, self._ledger.get(one.status)

    def _is_done(self, one: Found, before: Record | None) -> bool:
        """Return whether this pass has processed a file, whatever became of it since."""
        if before is None or before.passed != self._ledger.number:
            return False
        return before.path == one.path or not self._task.by_name

    def _ordered(self, found: Iterable[tuple[Found, Record | None]]) -> Order:
        """Return what is worth the work; of the rest neighbours hear that it is not wanted."""
        idle: list[Work] = []

        def works() -> Iterator[Work]:
            for one, before in found:
                if self._task.worth(one, before):
                    try:
                        yield work_of(self._tree, one)
                    except OSError as error:
                        self._name(problem_of(one.path, error))
                elif before is not None:
                    idle.append(Work.of(one.path, one.status, before.generation, None))
                    if len(idle) == _MARKS:
                        self._done(idle)
                        idle.clear()

        order = Order(works())
        self._done(idle)
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
                if not self._young:
                    return
                self._do_young()
                continue
            if not works:
                self._wait(time.monotonic() - begin)
                continue
            self._unlooked = 0
            if self._task.batch > 1:
                self._do_many(works)
            else:
                self._do(_Restless(works[0]))
            if len(self._young) >= _YOUNG:
                self._do_young()

    def _do_young(self) -> None:
        """Try again what was put off, when all of it has become old enough."""
        young, self._young = self._young, []
        self._grow_old(self._old_at - time.monotonic())
        for one in young:
            self._do(one)

    def _grow_old(self, seconds: float) -> None:
        """Wait for young files, as long as that may last in all."""
        seconds = max(0.0, min(seconds, self._grace))
        self._grace -= seconds
        self._sleep(seconds)

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
        most = self._most()
        while not works or (len(works) < self._task.batch and size < most):
            best = order.best()
            if best is None:
                return works or None
            work, share = best
            size += work.data
            if share < _WARM and self._held is not None and not self._held.room(size):
                break
            if share <= _FULL and not self._may_use_disk():
                break
            order.remove(work)
            works.append(work)
        return works

    def _most(self) -> int:
        """Return from how many bytes on no more files are added to a batch."""
        if self._task.batch == 1:
            return 0
        wanted = self._task.batch_bytes
        return min(wanted, available() // _BATCH_PART) if wanted else available() // _LARGE_PART

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
        """Have a batch of files processed; when some are too young, after a wait for them all."""
        footprints, wait = self._looked_at(works)
        if wait:
            self._grow_old(wait)
            footprints, _ = self._looked_at([one.work for one, _ in footprints])
        self._spend(sum(one.bytes for one, _ in footprints))
        notes = self._task.process_many([one.work for one, _ in footprints])
        for one, settled in footprints:
            self._ledger.put(one.work, notes.get(one.work.path), settled=settled)
            self._saved(one.work, one.bytes)
            self._brought_in(one)
        self._did(works)

    def _looked_at(self, works: Sequence[Work]) -> tuple[list[tuple[Footprint, bool]], float]:
        """Look at files before they are processed.

        Returns:
            What of them is not in memory and whether they have settled; and seconds
            after which all that are too young may have.

        """
        found: list[tuple[Footprint, bool]] = []
        wait = 0.0
        for work in works:
            try:
                with self._tree.opened(work.path, work.inode) as fd:
                    now = settle(fd)
                    footprint = Footprint.of(
                        Work.of(work.path, now.status, work.generation, work.physical), fd
                    )
            except OSError as error:
                self._name(problem_of(work.path, error))
                continue
            found.append((footprint, now.is_settled))
            wait = max(wait, now.wait)
        return found, wait

    def _do(self, one: _Restless) -> None:
        """Process a file, or put it off when it does not stand still for it."""
        work, looks, tries = one
        try:
            is_patient = looks < _LOOKS and self._grace > 0
            note, settled, work = self._attempt(work, is_patient=is_patient)
        except _YoungError as error:
            self._put_off(_Restless(work, looks + 1, tries), error.seconds)
            return
        except UnstableError:
            if tries + 1 < _TRIES:
                self._put_off(_Restless(work, _LOOKS - 1, tries + 1), 0)
                return
            words = f"it changed in each of {_TRIES} attempts"
            self._name(Problem(work.path, Trouble.UNSTABLE, words))
        except ReplacedError:
            pass  # by another file, which the next look finds
        except BadFileError as error:
            self._name(Problem(work.path, error.trouble, error.words))
        except TargetError:
            raise
        except OSError as error:
            self._name(problem_of(work.path, error))
        else:
            self._ledger.put(work, note, settled=settled)
            self._forgive(work.path)
        self._did([work])

    def _put_off(self, one: _Restless, seconds: float) -> None:
        """Try a file again together with others, after so many seconds at least."""
        self._young.append(one)
        self._old_at = max(self._old_at, time.monotonic() + seconds)

    def _did(self, works: Sequence[Work]) -> None:
        """Count and secure what was done, and tell of it."""
        self._done(works)
        if self._ledger.due:
            self._secure()
        self.progress.files_done += len(works)
        self.progress.bytes_done += sum(work.data for work in works)
        self._tell(self.progress)

    def _done(self, works: Sequence[Work]) -> None:
        if self._watch is not None:
            self._watch.done(works)

    def _attempt(self, work: Work, *, is_patient: bool) -> tuple[object, bool, Work]:
        """Process a file; returns the task's note, whether its stamp holds, and what it was."""
        with self._tree.opened(work.path, work.inode) as fd:
            status, wait, error = settle(fd)
            if wait and is_patient:
                raise _YoungError(wait)
            if error is not None:
                self._name(problem_of(work.path, error))
            work = Work.of(work.path, status, work.generation, work.physical)
            before = self._ledger.get(status)
            if before is not None and before.generation != work.generation:
                before = None  # of another file, which had its number
            footprint = Footprint.of(work, fd)
            share = min(1.0, footprint.bytes / work.data) if work.data else 0.0
            behind = functools.partial(self._behind, fd, footprint)
            reading = Reading(
                work,
                fd,
                self._spend,
                share,
                status=status,
                settled=not wait and error is None,
                cached=footprint.cached,
                behind=behind,
            )
            try:
                note = self._task.process(reading, before)
                return note, reading.settled, work
            finally:
                self._saved(work, footprint.bytes if reading.read is None else reading.read)
                self._brought_in(footprint)

    def _saved(self, work: Work, read: int) -> None:
        """Count what of a file did not have to be read from the device."""
        self.progress.bytes_cached += max(0, work.data - read)

    def _behind(self, fd: int, footprint: Footprint, begin: int, end: int) -> None:
        """Drop a part of a large file that was read, which nobody else wants."""
        if self._held is None or not self._held.is_wanted(footprint):
            footprint.drop_part(fd, begin, end)

    def _brought_in(self, footprint: Footprint) -> None:
        if not footprint.ranges:
            return
        if self._held is None:
            footprint.drop(self._tree)
        else:
            self._held.add(footprint)

    def _changed(self, found: Inventory) -> Iterator[tuple[Found, Record | None]]:
        """Yield what is new, or another than when it was processed in this pass."""
        for one, before in self._known(found):
            if self._problems.is_final(one.path):
                continue
            if before is not None and self._is_done(one, before):
                # What has not settled is waited for no more; the next run takes it again.
                is_left = not before.settled and not self._grace
                if is_left or before.holds(stamp_of(one.status)):
                    continue
            if self._task.worth(one, before):
                yield one, before

    def _vanished(self, found: Inventory) -> None:
        """Forget the files of the ledger that are gone."""
        for born, before in found.missing(self._ledger):
            was = Identity(self._tree.device, before.stamp.ino, born, stat.S_IFREG)
            # What cannot be seen may be there all the same.
            if self._tree.is_gone(before.path, was):
                self._task.vanished(before)
                self._ledger.forget(before, born)

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

    def _name(self, problem: Problem) -> None:
        self._problems.name(problem)
        self.progress.named = len(self._problems)

    def _forgive(self, path: str) -> None:
        """Take back what was said of a file that was processed after all."""
        self._problems.forgive(path)
        self.progress.named = len(self._problems)

    def _warn(self, words: str) -> None:
        self.progress.warnings.append(words)
        self._tell(self.progress)

    def _unsee(self, problem: Problem) -> None:
        self._problems.see(problem)
        self.progress.named = len(self._problems)

    def _list_problems(self) -> None:
        problems = self._problems
        if self._task.problems is not None:
            problems = self._task.problems
            self.progress.left_out, self.progress.left_out_count = [], 0
        self.progress.problems = problems.first(NAMED)
        self.progress.named = len(problems)

    def _say(self, step: str) -> None:
        self.progress.step = step
        self._tell(self.progress)
