# SPDX-License-Identifier: MIT
"""Send: a btrfs send stream whose data are in the order of what is in memory."""

import contextlib
import errno
import hashlib
import io
import os
import select
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Any, cast

from pyduet.files import generation_of
from pyduet.maintenance.btrfs import sendstream
from pyduet.maintenance.btrfs.sendplan import SendPlan, Wanted
from pyduet.maintenance.btrfs.subvolume import Subvolume, subvolume
from pyduet.maintenance.files.extents import extents, shared
from pyduet.maintenance.files.inode_flags import NOCOW, flags_of
from pyduet.maintenance.files.output import OtherOutputError, Output, names_of
from pyduet.maintenance.files.page_cache import drop, missing
from pyduet.maintenance.files.reading import PIECE, Reading, pieces_of
from pyduet.maintenance.files.statx import status_of
from pyduet.maintenance.files.tree import Found, Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.work import TargetError, stamp_of

#: Seconds between two words on how far btrfs send is.
_SAY = 1.0


class Send(Maintenance):
    """Writes a stream that ``btrfs receive`` takes, full or incremental.

    ``btrfs send --no-data`` computes everything but the data, and reads none.
    Its commands come first, then the data as files come, then what has to come
    after the data: clones, capabilities and times.

    A snapshot's files share no page cache with those of the subvolume that it is
    of. So the subvolume's file is read, by its inode number, and what of it lies
    at the same place on the device as in the snapshot has the snapshot's bytes;
    only the rest is read from the snapshot.
    """

    kind = "send"

    def __init__(self, snapshot: str, stream: str, *, parent: str | None = None) -> None:
        """Prepare; nothing is written yet.

        Args:
            snapshot: a read-only snapshot of the task's directory.
            stream: the file to write; a run that goes on after another was
                broken off finds what that has written there.
            parent: an older read-only snapshot, which is there where the stream
                is received; None for a full stream.

        """
        self.outputs = names_of(stream)
        self._snapshot_path = os.path.abspath(snapshot)
        self._parent = None if parent is None else os.path.abspath(parent)
        self._plan: SendPlan | None = None
        #: What the run wrote that is gone on with, as the ledger has it.
        self._before: Any = None
        self._held = contextlib.ExitStack()

    def worth(self, found: Found, before: Record | None) -> bool:
        """Return whether data of a file are wanted that were not written yet."""
        del before
        return self._plan is None or self._plan.is_wanted(found.status.st_ino)

    def survey(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Find out whether a stream is gone on with, and what it wants then.

        Raises:
            OSError: the directories are not what they should be, or may not be sent.
            TargetError: the stream cannot be written or computed.

        """
        del found
        self._ledger = ledger
        self._snapshot = self._held.enter_context(Tree(self._snapshot_path))
        parent = None
        if self._parent is not None:
            parent = self._held.enter_context(Tree(self._parent))
        self._source = self._check(tree, self._snapshot, parent)
        before = ledger.note("written")
        if before is not None:
            if self._goes_on(before):
                self._before = before[0]
                return
            ledger.begin_anew()
        with self._output(read_only=True):
            pass  # else it cannot be written
        if self.dry_run:
            self._compute(lambda _: None)

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Open the stream; a new one begins with all that comes before the data.

        Raises:
            OSError: it cannot be computed.
            TargetError: it cannot be written or computed.

        """
        del tree, ledger, found
        self._out = self._held.enter_context(self._output(self._before))
        if self._before is None:
            self._out.write(sendstream.HEADER)
            self._compute(self._out.write)
            self.secure()

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Write the data of a file that are wanted; the note says that they were."""
        del before
        plan = self._planned()
        wanted = plan.wanted(reading.stamp.ino)
        if wanted is None:
            return None
        start = self._out.offset
        with self._opened(wanted) as fd:
            if generation_of(fd) != reading.work.generation:
                return None  # another file: the snapshot's is read in the end
            ranges = list(_joined(wanted.ranges, os.fstat(fd).st_size))
            try:
                if not self._write_live(wanted.path, ranges, reading, fd):
                    self._out.cut(start)
                    self._write_snapshot(wanted.path, ranges, fd, reading.spend)
            except BaseException:
                self._out.cut(start)
                raise
        plan.written(reading.stamp.ino)
        return True

    def secure(self) -> None:
        """Have the stream on the disk, as far as the ledger is about to say."""
        self._out.sync()
        self._ledger.remark("written", [self._out.written, self._digest])

    def finish(self, found: Inventory) -> None:
        """Write the data of files that are in the snapshot alone, and what comes after all data.

        Raises:
            OSError: the snapshot cannot be read.
            TargetError: the stream cannot be written.

        """
        del found
        plan = self._planned()
        for ino in plan.left():
            wanted = plan.wanted(ino)
            if wanted is not None:
                with self._opened(wanted) as fd:
                    ranges = list(_joined(wanted.ranges, os.fstat(fd).st_size))
                    self._write_snapshot(wanted.path, ranges, fd)
                plan.written(ino)
        for encoded in plan.late():
            self._out.write(encoded)
        self._out.finish()

    def close(self) -> None:
        """Let go of the snapshots and of the stream."""
        self._held.close()

    def _planned(self) -> SendPlan:
        if self._plan is None:
            raise RuntimeError("it was not begun")
        return self._plan

    def _goes_on(self, before: Any) -> bool:
        """Return whether the stream of the run that was broken off is this one."""
        written, digest = before
        try:
            with self._output(written, read_only=True):
                pass  # else it is not there
        except OtherOutputError as error:
            self.warn(f"begun anew, and not gone on with: {error.filename}: {error.strerror}")
            return False
        # What btrfs's own stream has before the data is there already.
        self._compute(lambda _: None)
        if self._digest == digest:
            return True
        self.warn(
            f"begun anew, and not gone on with: {self._snapshot_path}: btrfs send computes "
            "another stream than for the run that was broken off"
        )
        return False

    def _output(
        self, written: Any = None, *, read_only: bool = False
    ) -> contextlib.closing[Output]:
        return contextlib.closing(
            Output(self.outputs[0], sendstream.HEADER, written, read_only=read_only)
        )

    def _check(self, tree: Tree, snapshot: Tree, parent: Tree | None) -> Subvolume:
        """Ensure that the directories are what they should be; returns the snapshot."""
        if shutil.which("btrfs") is None:
            raise TargetError(0, "it is not installed: the package btrfs-progs has it", "btrfs")
        if os.geteuid() != 0:
            raise PermissionError(errno.EPERM, "btrfs send needs root", self._snapshot_path)
        live = subvolume(tree.fd, tree.path)
        source = subvolume(snapshot.fd, self._snapshot_path)
        for one in filter(None, (snapshot, parent)):
            it = subvolume(one.fd, one.path)
            if it.fsid != live.fsid:
                raise OSError(
                    errno.EINVAL, f"it is not on the file system of {tree.path}", one.path
                )
            if not it.read_only:
                raise OSError(errno.EINVAL, "it is not read-only, as btrfs send wants it", one.path)
        if source.parent_uuid != live.uuid:
            raise OSError(errno.EINVAL, f"it is no snapshot of {tree.path}", self._snapshot_path)
        return source

    def _compute(self, keep: Callable[[bytes], object]) -> None:
        """Have btrfs compute the stream, and find out what it wants.

        Args:
            keep: is given what of it comes before the data.

        """
        plan = SendPlan(keep)
        self._held.callback(plan.close)
        self._digest = self._taken(plan)
        if plan.source != self._source.name_in_streams:
            raise TargetError(0, "it was replaced while it was looked at", self._snapshot_path)
        self._find(plan)
        for record in self._ledger.files():
            if record.passed == self._ledger.number and record.note:
                plan.written(record.stamp.ino)
        self._plan = plan

    def _taken(self, plan: SendPlan) -> str:
        """Have btrfs compute the stream, and take it; returns a digest of it."""
        digest = hashlib.sha256()
        parent = [] if self._parent is None else ["-p", self._parent]
        command = ["btrfs", "send", "--quiet", "--no-data", *parent, self._snapshot_path]
        count = 0

        def say() -> None:
            self.say(f"btrfs send computes: {count:,} commands")

        with (
            tempfile.TemporaryFile() as words,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words) as process,
        ):
            trouble: Exception | None = None
            out = io.BufferedReader(_Patient(cast("IO[bytes]", process.stdout), say), PIECE)
            try:
                for one, encoded in sendstream.read(out):
                    count += 1
                    digest.update(encoded)
                    plan.take(one, encoded)
            except sendstream.StreamError as error:
                trouble = error
                # What there is left; it says itself what is wrong, if it is that.
                out.close()
            except BaseException:
                process.kill()
                raise
            code = process.wait()
            words.seek(0)
            said = words.read().decode(errors="replace").strip().splitlines()
        if trouble is not None or code:
            reason = said[-1] if said else trouble or f"it ended with {code}"
            raise TargetError(0, f"btrfs send: {reason}", self._snapshot_path)
        return digest.hexdigest()

    def _find(self, plan: SendPlan) -> None:
        """Find out which inodes the files are of which data are wanted.

        A stream's final path of a file is its path in the snapshot, which says
        what its inode is.
        """
        for item, path in plan.files():
            name = os.fsdecode(path)
            with self._snapshot.held(name) as fd:
                status = status_of(fd)
            if not stat.S_ISREG(status.st_mode):
                raise TargetError(0, "btrfs send wants data of it, and it is no file", name)
            plan.is_inode(item, status.st_ino)

    @contextlib.contextmanager
    def _opened(self, wanted: Wanted) -> Iterator[int]:
        """Open a file of the snapshot; what is read of it does not stay in memory."""
        with self._snapshot.opened(os.fsdecode(wanted.path)) as fd:
            ranges = missing(fd)
            try:
                yield fd
            finally:
                drop(fd, ranges)

    def _write_live(self, path: bytes, ranges: Sequence[range], reading: Reading, fd: int) -> bool:
        """Write a file's data, as far as possible from the subvolume's file.

        Returns:
            Whether they are the snapshot's. Where bytes lie is asked before they
            are read, and again afterwards: who writes in between makes others of
            them, which then lie elsewhere.

        """
        places = _places(reading.fd, fd)
        for part, same in _split(ranges, places):
            if same:
                pieces = reading.part(part.start, len(part))
            else:
                pieces = pieces_of(fd, part.start, len(part), reading.spend)
            if not self._write(path, part, pieces):
                return False
        # Its times, too: what was written may have been put back.
        now = stamp_of(status_of(reading.fd))
        return now == reading.stamp and _places(reading.fd, fd) == places

    def _write_snapshot(
        self,
        path: bytes,
        ranges: Iterable[range],
        fd: int,
        spend: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Write a file's data from the snapshot."""
        for span in ranges:
            if not self._write(path, span, pieces_of(fd, span.start, len(span), spend)):
                raise OSError(errno.EIO, "it is shorter than btrfs send says", os.fsdecode(path))

    def _write(self, path: bytes, part: range, pieces: Iterable[bytes]) -> bool:
        """Write a part of a file; returns whether all of it came."""
        offset = part.start
        for piece in pieces:
            for encoded in sendstream.write(path, offset, piece):
                self._out.write(encoded)
            offset += len(piece)
        return offset == part.stop


class _Patient(io.RawIOBase):
    """A pipe that says now and then that it is still waited for."""

    def __init__(self, pipe: IO[bytes], say: Callable[[], object]) -> None:
        self._pipe = pipe
        self._say = say
        self._said = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            has_come, _, _ = select.select([self._pipe], [], [], _SAY)
            if time.monotonic() - self._said >= _SAY:
                self._said = time.monotonic()
                self._say()
            if has_come:
                return os.readv(self._pipe.fileno(), [buffer])

    def close(self) -> None:
        self._pipe.close()
        super().close()


def _places(live: int, snapshot: int) -> list[range]:
    """Return which bytes of a subvolume's file are those of the snapshot's, by their place.

    What is to be written to the subvolume's file is written first: to elsewhere,
    since the place is the snapshot's, too. A file without copy-on-write is not
    trusted to do that, and of a small one that lies among the metadata no place
    is told. Of what is compressed the place does not say enough, and that nothing
    has changed the file since does.
    """
    if flags_of(live) & NOCOW:
        return []
    mapping = list(extents(live, sync=True))
    same = stamp_of(status_of(live)) == stamp_of(status_of(snapshot))
    return list(shared(mapping, extents(snapshot), encoded=same))


def _split(spans: Iterable[range], places: Iterable[range]) -> Iterator[tuple[range, bool]]:
    """Yield ranges in parts, in order, with whether each part is among the places."""
    rest = iter(places)
    place = next(rest, None)
    for span in spans:
        at = span.start
        while at < span.stop:
            while place is not None and place.stop <= at:
                place = next(rest, None)
            inside = place is not None and place.start <= at
            stop = span.stop
            if place is not None:
                stop = min(stop, place.stop if inside else place.start)
            yield range(at, stop), inside
            at = stop


def _joined(ranges: Iterable[range], size: int) -> Iterator[range]:
    """Yield what ranges cover of so many bytes, in order."""
    start = stop = 0
    for one in sorted(ranges, key=lambda one: one.start):
        if one.start > stop:
            if start < stop:
                yield range(start, stop)
            start = one.start
        stop = max(stop, min(one.stop, size))
    if start < stop:
        yield range(start, stop)
