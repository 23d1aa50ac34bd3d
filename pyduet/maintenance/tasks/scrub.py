# SPDX-License-Identifier: MIT
"""Scrub: finds files whose content has changed though their size and times have not."""

import contextlib
import enum
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple, Self

import xxhash

from pyduet._place import open_to_write
from pyduet._text.jsonable import json_of
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.swap import swap_files
from pyduet.maintenance.files.tree import Found, Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.work import BadFileError, Stamp, TargetError, Trouble

#: Bytes of the blocks that a checksum is made of.
_BLOCK = 64 << 10
_ZEROS = bytes(_BLOCK)
#: What is counted of verified files besides.
_OF_VERIFIED = "moved", "metadata_changed", "bytes_verified_on_disk", "bytes_verified_in_memory"
#: The number of what :class:`Checksum` computes: one of another kind is compared with nothing.
_KIND = 1


class Checksum:
    """XXH3 (128 bits) of a file's content, whatever holes it has.

    Of each block of 64 KiB that is not all zeros, in order: its offset in 8
    bytes, the lowest first, and the block, the last as long as the file goes on.
    In the end the file's size in 8 bytes. So a hole costs nothing, and is the
    same as the zeros that a copy of the file may have in its place. It finds
    faults, not forgeries.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._digest = xxhash.xxh3_128()
        self._rest = b""
        self._rest_at = 0

    def add(self, offset: int, data: bytes) -> None:
        """Take in data: whole blocks in order, in pieces of any length."""
        if self._rest:
            offset, data = self._rest_at, self._rest + data
            self._rest = b""
        for begin in range(0, len(data), _BLOCK):
            block = data[begin : begin + _BLOCK]
            if len(block) < _BLOCK:
                self._rest, self._rest_at = block, offset + begin
            elif block != _ZEROS:
                self._add_block(offset + begin, block)

    def end(self, size: int) -> str:
        """Return the checksum of a file of this size."""
        if self._rest.strip(b"\0"):
            self._add_block(self._rest_at, self._rest)
        self._digest.update(size.to_bytes(8, "little"))
        return self._digest.hexdigest()

    def _add_block(self, offset: int, block: bytes) -> None:
        self._digest.update(offset.to_bytes(8, "little"))
        self._digest.update(block)


class Verdict(enum.StrEnum):
    """What a scrub finds of a file; the values are what is counted."""

    #: It had no checksum yet.
    NEW = "new"
    #: It has another size or time of modification than in the last pass.
    CHANGED = "changed"
    #: Its content is another, but in the last pass it was written at that very moment: nothing
    #: follows from that.
    UNSETTLED = "not_compared"
    #: Its content is what it was, and the disk has it so.
    ON_DISK = "verified_on_disk"
    #: Its content is what it was, but some of it at least was in memory before it was read.
    IN_MEMORY = "verified_in_memory"
    #: Its content is another, though its size and time of modification are what they were.
    DIFFERENT = "different"


class Note(NamedTuple):
    """What the ledger keeps of a file.

    Attributes:
        checksum: of its content.
        unread: in how many passes in a row it was in memory, at least in part.
        verdict: of the pass.
        from_disk, from_memory: how many bytes came from there; None in a ledger of
            before these were kept.

    """

    checksum: str
    unread: int
    verdict: Verdict
    from_disk: int | None = None
    from_memory: int | None = None

    @classmethod
    def of(cls, record: Record) -> Self | None:
        """Return the note of a record; None when its checksum is of another kind."""
        kind, *values = record.note
        if kind != _KIND:
            return None
        checksum, unread, verdict, *read = values
        return cls(checksum, unread, Verdict(verdict), *read)

    def kept(self) -> list[Any]:
        """Return it as it is in the ledger."""
        return [_KIND, *self]


def judge(before: Record | None, stamp: Stamp, checksum: str, from_memory: int) -> Verdict:
    """Return what is to be said of a file.

    Args:
        before: what the ledger has of it.
        stamp: of it now.
        checksum: of it now.
        from_memory: how many bytes of it came from memory.

    """
    note = Note.of(before) if before is not None else None
    if before is None or note is None:
        return Verdict.NEW
    then = before.stamp
    # A change of status alone (mode, owner, name, links, attributes) is no excuse.
    if (then.size, then.mtime_ns) != (stamp.size, stamp.mtime_ns):
        return Verdict.CHANGED
    if note.checksum == checksum:
        return Verdict.IN_MEMORY if from_memory else Verdict.ON_DISK
    return Verdict.DIFFERENT if before.settled else Verdict.UNSETTLED


class Scrub(Maintenance):
    """Compares each file with the checksum that the ledger has of it, on any file system.

    A file that has the size and the time of modification of the last pass has to
    have the content of that. Its path, mode, owner, links and attributes may be
    others. Of a file that changed the new checksum is kept.

    What is cached is read from memory, and says nothing about the disk: it is
    counted as such, and read from the disk after some such passes.
    """

    kind = "scrub"

    def __init__(
        self, *, from_disk: bool = False, passes: int = 10, verdicts: str | None = None
    ) -> None:
        """Prepare.

        Args:
            from_disk: whether to read from the disk what is in memory, too.
            passes: in how many passes in a row a file may be in memory, at least in
                part, before it is read from the disk all the same.
            verdicts: a file to write what is found of each file to, a line of JSON
                each, as :func:`open_to_write` opens it; of several lines of a file
                the last one holds.

        """
        self._passes = 0 if from_disk else passes
        self._verdicts = verdicts
        self._lines: IO[str] | None = None
        self._swap = swap_files()
        self._swap_found: set[tuple[int, int]] = set()
        self.outputs = () if verdicts is None else (os.path.abspath(verdicts),)

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Count anew, or go on.

        Raises:
            OSError: the file for the verdicts cannot be written.

        """
        del tree, found
        if self._verdicts is not None:
            fd = open_to_write(self._verdicts)
            self._lines = open(fd, "w", encoding="ascii")  # noqa: SIM115 - see finish()
            # What was in the file may be of another pass, or end in half a line.
            for record in ledger.files() if ledger.resumed else ():
                note = Note.of(record) if record.passed == ledger.number else None
                if note is not None:
                    self._tell(record.path, note.verdict, note.from_disk, note.from_memory)
        self._ledger = ledger
        self._counts = Counter[str](ledger.note("counts", {}))
        # What is wrong with a file is found and named once more by a run that goes on.
        del self._counts[Verdict.DIFFERENT]

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Read a file, and compare."""
        note = Note.of(before) if before is not None else None
        unread = note.unread if note is not None else 0
        is_past = reading.cached > 0 and unread >= self._passes
        checksum, from_disk, from_memory = self._read(reading, is_past=is_past)
        verdict = judge(before, reading.stamp, checksum, from_memory)
        if verdict is Verdict.DIFFERENT:
            assert before is not None  # noqa: S101 - it differs from that
            words = _words(before, reading.stamp) + self._second_look(reading, before, checksum)
            self._counts[verdict] += 1
            self._tell(reading.work.path, verdict, from_disk, from_memory)
            raise BadFileError(Trouble.DIFFERENT, words + _ADVICE)
        unread = unread + 1 if from_memory else 0
        if before is not None and note is not None and before.passed == self._ledger.number:
            # It was touched after it was processed, and is counted already.
            unread = min(unread, max(1, note.unread))
            if note.verdict is Verdict.NEW or note.checksum == checksum:
                verdict = note.verdict
            self._counts[note.verdict] -= 1
        elif before is not None and verdict in (Verdict.ON_DISK, Verdict.IN_MEMORY):
            self._counts["moved"] += before.path != reading.work.path
            is_other = before.path == reading.work.path and before.stamp != reading.stamp
            self._counts["metadata_changed"] += is_other
            self._counts["bytes_verified_on_disk"] += from_disk
            self._counts["bytes_verified_in_memory"] += from_memory
        self._counts[verdict] += 1
        self._ledger.remark("counts", self._counts)
        self._tell(reading.work.path, verdict, from_disk, from_memory)
        return Note(checksum, unread, verdict, from_disk, from_memory).kept()

    def worth(self, found: Found, before: Record | None) -> bool:
        """Return whether to look at a file: the kernel writes those it swaps to past all times."""
        inode = found.status.st_dev, found.status.st_ino
        if inode in self._swap:
            self._swap_found.add(inode)
            return False
        return super().worth(found, before)

    def secure(self) -> None:
        """Have the verdicts in their file."""
        if self._lines is not None:
            with self._written():
                self._lines.flush()

    def finish(self, found: Inventory) -> None:
        """Close the file of the verdicts."""
        del found
        if self._lines is not None:
            with self._written():
                self._lines.close()

    def report(self) -> Mapping[str, int]:
        """Return the number of files of each verdict, and what is to be said of those verified."""
        names = (*Verdict, *_OF_VERIFIED)
        return {str(name): self._counts[name] for name in names} | {
            "swap_files": len(self._swap_found)
        }

    def _tell(
        self, path: str, verdict: Verdict, from_disk: int | None, from_memory: int | None
    ) -> None:
        if self._lines is None:
            return
        line = {
            "path": path,
            "verdict": verdict,
            "bytes_from_disk": from_disk,
            "bytes_from_memory": from_memory,
        }
        with self._written():
            self._lines.write(json_of(line) + "\n")

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TargetError(error.errno, error.strerror, self._verdicts) from error

    def _read(self, reading: Reading, *, is_past: bool) -> tuple[str, int, int]:
        """Read a file.

        Args:
            reading: the file.
            is_past: whether to read past the memory.

        Returns:
            Its checksum, and how many bytes came from the disk, and from memory.

        Raises:
            UnstableError: it changed meanwhile.
            OSError: it cannot be read.

        """
        checksum = Checksum()
        length = 0
        with contextlib.ExitStack() as stack:
            direct = stack.enter_context(reading.past_cache()) if is_past else None
            for offset, data in reading.data(_BLOCK):
                checksum.add(offset, data)
                length += len(data)
        reading.check()
        if is_past:
            from_memory = length - (0 if direct is None else direct.read)
        else:
            from_memory = min(length, reading.cached)
        return checksum.end(reading.stamp.size), length - from_memory, from_memory

    def _second_look(self, reading: Reading, before: Record, checksum: str) -> str:
        """Return what the disk itself says of a file that is not what it should be."""
        try:
            now, _, from_memory = self._read(reading, is_past=True)
        except OSError as error:
            return f"; to read it once more, past the memory, failed: {error.strerror}"
        if from_memory:
            return "; it could not be read once more from the disk itself"
        note = Note.of(before)
        if note is not None and now == note.checksum:
            return (
                "; read once more, from the disk itself, it is that of the last pass: what is in "
                "memory is bad, or what lies between"
            )
        if now == checksum:
            return "; read once more, from the disk itself, it is the same"
        return "; read once more, from the disk itself, it is a third one"


def _words(before: Record, stamp: Stamp) -> str:
    """Return what is known of a file whose content is not what it should be."""
    if before.stamp == stamp:
        return (
            "its content is not that of the last pass, though its size and all its times are: "
            "no program that writes a file can keep its time of change, so the disk or the memory "
            "has gone bad, or somebody wrote to the device or set the clock back"
        )
    return (
        "its content is not that of the last pass, though its size and time of modification are: "
        "its time of change is another, as after a change of mode, owner, name, links or "
        "attributes; so the disk or the memory has gone bad, or a program wrote it and put its "
        "time back"
    )


#: What who reads that should do.
_ADVICE = "; compare it with a backup, and if it is right, touch it: then it counts as changed"
