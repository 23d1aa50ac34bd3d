# SPDX-License-Identifier: MIT
"""Send: a btrfs send stream whose data are in the order of what is in memory."""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from typing import IO, Any, NamedTuple, cast

import ioctl_opt

from pyduet.files import generation_of
from pyduet.maintenance.btrfs import sendstream
from pyduet.maintenance.btrfs.replay import Replay
from pyduet.maintenance.btrfs.subvolume import subvolume
from pyduet.maintenance.files.extents import extents, shared
from pyduet.maintenance.files.output import Output
from pyduet.maintenance.files.page_cache import drop, missing
from pyduet.maintenance.files.reading import PIECE, Reading
from pyduet.maintenance.files.statx import status_of
from pyduet.maintenance.files.tree import Found, Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.frame.work import TargetError, stamp_of

#: FS_IOC_GETFLAGS and FS_NOCOW_FL of linux/fs.h; a long by its number, in truth an int.
_GETFLAGS: int = ioctl_opt.IOR(ord("f"), 1, ctypes.c_long)
_NOCOW = 0x800000


class _Wanted(NamedTuple):
    """A file of the snapshot of which the stream wants data."""

    #: In the snapshot, and in the stream at its end.
    path: bytes
    #: Which bytes, in order, none twice.
    ranges: list[range]


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
        self.outputs = (os.path.abspath(stream),)
        self._snapshot = os.path.abspath(snapshot)
        self._parent = None if parent is None else os.path.abspath(parent)
        self._begun = False
        #: What is still to be written, by inode number.
        self._wanted: dict[int, _Wanted] = {}

    def worth(self, found: Found, before: Record | None) -> bool:
        """Return whether data of a file are wanted that were not written yet."""
        del before
        return not self._begun or found.status.st_ino in self._wanted

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Find out what the stream wants, and write all of it that is no data.

        Raises:
            OSError: the directories are not what they should be, or may not be sent.
            TargetError: the stream cannot be written or computed, or is not what
                the ledger knows of it.

        """
        del found
        self._check(tree.path)
        self._ledger = ledger
        before = ledger.note("written")
        if before is not None:
            written, digest = before
            self._replay = Replay(lambda _: None)
            self._digest = self._compute()
            if self._digest != digest:
                raise TargetError(
                    0,
                    "btrfs send computes another stream than for the run that was broken off; "
                    "begin anew with --anew",
                    self._snapshot,
                )
            self._out = Output(self.outputs[0], written)
            done = {
                record.stamp.ino
                for record in ledger.files()
                if record.passed == ledger.number and record.note
            }
        else:
            self._out = Output(self.outputs[0])
            self._out.write(sendstream.HEADER)
            self._replay = Replay(self._out.write)
            self._digest = self._compute()
            done = set()
            self.secure()
        self._wanted = {ino: one for ino, one in self._find().items() if ino not in done}
        self._begun = True

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Write the data of a file that are wanted; the note says that they were."""
        del before
        wanted = self._wanted.get(reading.stamp.ino)
        if wanted is None:
            return None
        start = self._out.offset
        with self._opened(wanted) as fd:
            if generation_of(fd) != reading.work.generation:
                return None  # another file: the snapshot's is read in the end
            try:
                if not self._write_live(wanted, reading, fd):
                    self._out.cut(start)
                    self._write_snapshot(wanted, fd)
            except BaseException:
                self._out.cut(start)
                raise
        del self._wanted[reading.stamp.ino]
        return True

    def secure(self) -> None:
        """Have the stream on the disk, as far as the ledger is about to say."""
        self._out.sync()
        self._ledger.remark("written", [self._out.offset, self._digest])

    def finish(self, found: Inventory) -> None:
        """Write the data of files that are in the snapshot alone, and what comes after all data.

        Raises:
            OSError: the snapshot cannot be read.
            TargetError: the stream cannot be written.

        """
        del found
        for ino, wanted in list(self._wanted.items()):
            with self._opened(wanted) as fd:
                self._write_snapshot(wanted, fd)
            del self._wanted[ino]
        for encoded in self._replay.late():
            self._out.write(encoded)
        self._out.close()

    def _check(self, root: str) -> None:
        """Ensure that the directories are what they should be."""
        if shutil.which("btrfs") is None:
            raise TargetError(0, "it is not installed: the package btrfs-progs has it", "btrfs")
        if os.geteuid() != 0:
            raise PermissionError(errno.EPERM, "btrfs send needs root", self._snapshot)
        live = subvolume(root)
        for path in filter(None, (self._snapshot, self._parent)):
            one = subvolume(path)
            if one.fsid != live.fsid:
                raise OSError(errno.EINVAL, f"it is not on the file system of {root}", path)
            if not one.read_only:
                raise OSError(errno.EINVAL, "it is not read-only, as btrfs send wants it", path)
            if path == self._snapshot and one.parent_uuid != live.uuid:
                raise OSError(errno.EINVAL, f"it is no snapshot of {root}", path)

    def _compute(self) -> str:
        """Have btrfs compute the stream, and take it; returns a digest of it."""
        digest = hashlib.sha256()
        parent = [] if self._parent is None else ["-p", self._parent]
        command = ["btrfs", "send", "--quiet", "--no-data", *parent, self._snapshot]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            out, err = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
            trouble: Exception | None = None
            try:
                for one, encoded in sendstream.read(out):
                    digest.update(encoded)
                    self._replay.take(one, encoded)
            except sendstream.StreamError as error:
                trouble = error
                # What there is left; it says itself what is wrong, if it is that.
                out.close()
            except BaseException:
                process.kill()
                raise
            words = err.read().decode(errors="replace").strip()
            code = process.wait()
        if trouble is not None or code:
            reason = words.splitlines()[-1] if words else trouble or f"it ended with {code}"
            raise TargetError(0, f"btrfs send: {reason}", self._snapshot)
        return digest.hexdigest()

    def _find(self) -> dict[int, _Wanted]:
        """Return the files of which data are wanted, by inode number.

        A stream's final path of a file is its path in the snapshot, which says
        what its inode is.
        """
        found: dict[int, tuple[bytes, int, list[range]]] = {}
        snapshot = os.fsencode(self._snapshot)
        for path, ranges in self._replay.data():
            status = os.lstat(os.path.join(snapshot, path))
            if not stat.S_ISREG(status.st_mode):
                raise TargetError(
                    0,
                    "btrfs send wants data of it, and it is no file",
                    os.path.join(snapshot, path),
                )
            # An incremental stream may know two names of a file, and not that it is one.
            found.setdefault(status.st_ino, (path, status.st_size, []))[2].extend(ranges)
        return {
            ino: _Wanted(path, list(_joined(ranges, size)))
            for ino, (path, size, ranges) in found.items()
        }

    @contextlib.contextmanager
    def _opened(self, wanted: _Wanted) -> Iterator[int]:
        """Open a file of the snapshot; what is read of it does not stay in memory."""
        fd = os.open(
            os.path.join(self._snapshot, os.fsdecode(wanted.path)), os.O_RDONLY | os.O_CLOEXEC
        )
        try:
            ranges = missing(fd)
            try:
                yield fd
            finally:
                drop(fd, ranges)
        finally:
            os.close(fd)

    def _write_live(self, wanted: _Wanted, reading: Reading, fd: int) -> bool:
        """Write a file's data, as far as possible from the subvolume's file.

        Returns:
            Whether they are the snapshot's. Where bytes lie is asked before they
            are read, and again afterwards: who writes in between makes others of
            them, which then lie elsewhere.

        """
        places = _places(reading.fd, fd)
        for part, same in _split(wanted.ranges, places):
            pieces = reading.part(part.start, len(part)) if same else _pieces(fd, part)
            if not self._write(wanted.path, part, pieces):
                return False
        # Its times, too: what was written may have been put back.
        now = stamp_of(status_of(reading.fd))
        return now == reading.stamp and _places(reading.fd, fd) == places

    def _write_snapshot(self, wanted: _Wanted, fd: int) -> None:
        """Write a file's data from the snapshot."""
        for span in wanted.ranges:
            if not self._write(wanted.path, span, _pieces(fd, span)):
                raise OSError(errno.EIO, "it is shorter than btrfs send says", wanted.path)

    def _write(self, path: bytes, part: range, pieces: Iterable[bytes]) -> bool:
        """Write a part of a file; returns whether all of it came."""
        offset = part.start
        for piece in pieces:
            for encoded in sendstream.write(path, offset, piece):
                self._out.write(encoded)
            offset += len(piece)
        return offset == part.stop


def _places(live: int, snapshot: int) -> list[range]:
    """Return which bytes of a subvolume's file are those of the snapshot's, by their place.

    What is to be written to the subvolume's file is written first: to elsewhere,
    since the place is the snapshot's, too. A file without copy-on-write is not
    trusted to do that, and of a small one that lies among the metadata no place
    is told. Of what is compressed the place does not say enough, and that nothing
    has changed the file since does.
    """
    flags = ctypes.c_uint64()
    fcntl.ioctl(live, _GETFLAGS, flags)
    if flags.value & _NOCOW:
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


def _pieces(fd: int, part: range) -> Iterator[bytes]:
    """Yield a part of an open file."""
    offset = part.start
    while offset < part.stop:
        piece = os.pread(fd, min(PIECE, part.stop - offset), offset)
        if not piece:
            return
        offset += len(piece)
        yield piece
