# SPDX-License-Identifier: MIT
"""btrfs scrub: verifies btrfs's own checksums, and reads only what nobody else has read."""

import contextlib
import errno
import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pyduet.device import Device
from pyduet.files import cached_ranges
from pyduet.maintenance.btrfs.pages_read import PagesRead
from pyduet.maintenance.btrfs.trees import PARITY, Btrfs, Extent, Place, Profile
from pyduet.maintenance.files.ranges import within, without
from pyduet.maintenance.files.reading import PIECE, Reading, pieces_of
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.work import BadFileError, Trouble, UnstableError

_PAGE = mmap.PAGESIZE
#: Faults of a file that are told one by one.
_TOLD = 3


class Fault(NamedTuple):
    """A block whose copy on a device is not what it should be."""

    #: In the file.
    offset: int
    logical: int
    place: Place
    words: str


class BtrfsScrub(Maintenance):
    """Verifies every block of data below the directory, block by block.

    - A block of a page that was read since the pass began was verified by
      btrfs then; it is not read again.
    - What is not cached is read through the page cache, which verifies it and
      lets other tasks have it.
    - What is cached but was not read since the pass began, or was written, is
      read from the device, past the cache, and compared with the checksum tree.
    - Where there are several copies, each is read from its device: the cache
      does not tell which of them it was read from.

    Metadata are left to the kernel's own scrub, which takes them by chunks.
    """

    kind = "btrfs-scrub"

    def __init__(self, *, repair: bool = False) -> None:
        """Prepare.

        Args:
            repair: have the kernel mend what is bad from a good copy.

        """
        self._repair = repair
        self._pages_read: PagesRead | None = None

    def watching(self, device: Device, root: str) -> contextlib.AbstractContextManager[object]:
        """Watch which pages are read, from here on."""
        self._pages_read = PagesRead(device, root, "duet-btrfs-scrub")
        return self._pages_read

    def survey(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Ask the file system what it is made of.

        Raises:
            OSError: it is no btrfs, or that is not permitted.

        """
        del found
        self._ledger = ledger
        try:
            self._fs = Btrfs(tree.fd)
            self._fs.forget_chunks()
        except OSError as error:
            words = {
                errno.ENOTTY: "is not on btrfs: scrub, without btrfs-, takes any file system",
                errno.EPERM: "reading btrfs's trees needs root (CAP_SYS_ADMIN)",
            }.get(error.errno or 0, error.strerror)
            raise OSError(error.errno, words, tree.path) from error
        if any(one.profile & PARITY and one.profile & Profile.DATA for one in self._fs.chunks()):
            raise OSError(
                errno.EOPNOTSUPP,
                "has data under parity (RAID 5, 6), which is not looked at block by block: use "
                "btrfs scrub start",
                tree.path,
            )
        self._errors = self._fs.errors()
        self._open: dict[int, int] = {}
        self._counts: dict[str, int] = dict.fromkeys(
            ("data", "from_cache", "from_device", "unchecked", "repaired", "metadata"), 0
        )
        self._counts |= ledger.note("counts", {})

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Verify a file's blocks."""
        del before
        work, fs = reading.work, self._fs
        resident = cached_ranges(reading.fd)
        verified = self._pages_read.pages(work, resident) if self._pages_read is not None else []
        if (errors := fs.errors()) != self._errors:
            # Somebody's read failed. Whose, is not told: so those that cannot be looked at any
            # more are not believed.
            self._errors = errors
            if self._pages_read is not None:
                self._pages_read.forget_gone()
                verified = self._pages_read.pages(work, resident)
        reading.read = 0
        extents = list(fs.extents(reading.fd, work.stamp.ino))
        faults: list[Fault] = []
        counts = dict(self._counts)
        try:
            for extent in extents:
                faults += self._extent(reading, extent, resident, verified)
            # Were they still the file's when they were read? The checksums of what was moved are
            # gone with it.
            doubtful = faults or self._counts["unchecked"] > counts["unchecked"]
            moved = doubtful and list(fs.extents(reading.fd, work.stamp.ino)) != extents
        except LookupError:
            moved = True
        if moved:
            self._counts = counts
            raise UnstableError
        if faults:
            self._bad(faults)
        if self._pages_read is not None:
            self._pages_read.done(work)
        self._ledger.remark("counts", self._counts)

    def finish(self, found: Inventory) -> None:
        """Have the kernel scrub the metadata, and the file system's own trees.

        Raises:
            BadFileError: they are not as they should be.

        """
        del found
        errors = lost = 0
        try:
            for chunk in self._fs.chunks():
                if not chunk.profile & (Profile.METADATA | Profile.SYSTEM):
                    continue
                for place in chunk.places:
                    scrubbed = self._fs.scrub(place, repair=self._repair)
                    self._counts["metadata"] += scrubbed.bytes
                    self._counts["repaired"] += scrubbed.corrected
                    errors += scrubbed.errors
                    lost += scrubbed.uncorrectable
        except OSError as error:
            busy = error.errno == errno.EINPROGRESS
            words = "another scrub is running; run this again after it" if busy else error.strerror
            raise BadFileError(Trouble.FAILED, f"metadata were not scrubbed: {words}") from error
        finally:
            for fd in self._open.values():
                os.close(fd)
        if errors or lost:
            raise BadFileError(
                Trouble.CORRUPT,
                f"metadata: {errors} errors, {lost} that cannot be mended; dmesg names the blocks"
                + ("" if self._repair else "; --repair mends what has a good copy"),
            )

    def report(self) -> Mapping[str, int]:
        """Return bytes by how they were verified, and how many faults were mended."""
        return self._counts

    def _extent(
        self,
        reading: Reading,
        extent: Extent,
        resident: Sequence[range],
        verified: Sequence[range],
    ) -> Iterator[Fault]:
        """Verify a part of a file; yields what is bad."""
        pages = range(extent.offset // _PAGE, -(-(extent.offset + extent.length) // _PAGE))
        resident, verified = list(within(resident, pages)), list(within(verified, pages))
        self._counts["data"] += extent.length
        if self._fs.chunk(extent.logical).copies > 1:
            yield from self._from_device(reading, extent, extent.offset, extent.size)
            return
        if extent.compressed:
            # It is read as a whole, and verified as a whole, for any of its pages.
            if verified:
                self._counts["from_cache"] += extent.length
            elif resident:
                yield from self._from_device(reading, extent, extent.offset, extent.size)
            else:
                yield from self._through_cache(reading, extent, extent.offset, extent.length)
            return
        self._counts["from_cache"] += sum(map(len, verified)) * _PAGE
        for run in without(resident, verified):
            start, length = _bytes(run, extent)
            yield from self._from_device(reading, extent, start, length)
        for run in without(without([pages], resident), verified):
            start, length = _bytes(run, extent)
            yield from self._through_cache(reading, extent, start, length)

    def _through_cache(
        self, reading: Reading, extent: Extent, start: int, length: int
    ) -> Iterator[Fault]:
        """Read a part of a file as everybody does: btrfs verifies it."""
        try:
            for piece in pieces_of(reading.fd, start, length, reading.spend):
                reading.read = (reading.read or 0) + len(piece)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            if extent.compressed:
                start, length = extent.offset, extent.size
            faults = list(self._from_device(reading, extent, start, length))
            if not faults:
                raise
            yield from faults

    def _from_device(
        self, reading: Reading, extent: Extent, start: int, length: int
    ) -> Iterator[Fault]:
        """Read each copy of a part of an extent from its device, and compare the checksums."""
        block = self._fs.block
        logical = extent.logical + (start - extent.offset)
        length = -(-length // block) * block
        expected = self._fs.checksums(logical, length)
        self._counts["unchecked"] += length - len(expected) * block
        if not expected:
            return
        at = logical
        while at < logical + length:
            places, follow = self._fs.chunk(at).at(at)
            size = min(PIECE, follow, logical + length - at)
            for place in places:
                reading.spend(size)
                reading.read = (reading.read or 0) + size
                self._counts["from_device"] += size
                for offset, words in self._compare(place, at, size, expected):
                    inside = start if extent.compressed else start + (at + offset - logical)
                    yield Fault(
                        inside, at + offset, Place(place.device, place.physical + offset), words
                    )
            at += size

    def _compare(
        self, place: Place, logical: int, size: int, expected: Mapping[int, bytes]
    ) -> Iterator[tuple[int, str]]:
        """Yield which blocks of a copy are bad, and what is wrong."""
        block = self._fs.block
        try:
            data = self._read(place, size)
        except OSError as error:
            if size > block:
                for offset in range(0, size, block):
                    part = Place(place.device, place.physical + offset)
                    for _, words in self._compare(part, logical + offset, block, expected):
                        yield offset, words
            elif logical in expected:
                yield 0, f"cannot be read: {error.strerror}"
            return
        for offset in range(0, size, block):
            right = expected.get(logical + offset)
            if right is None:
                continue
            found = self._fs.checksum(data[offset : offset + block])
            if found != right:
                yield offset, f"checksum {found.hex()}, should be {right.hex()}"

    def _read(self, place: Place, size: int) -> bytes:
        """Read from a device, past the page cache."""
        fd = self._open.get(place.device)
        if fd is None:
            path = self._fs.devices[place.device]
            fd = self._open[place.device] = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        # What is read past the cache has to begin at a page of memory.
        with mmap.mmap(-1, size) as buffer:
            number = os.preadv(fd, [buffer], place.physical)
            if number < size:
                raise OSError(errno.EIO, os.strerror(errno.EIO), self._fs.devices[place.device])
            return buffer[:size]

    def _bad(self, faults: Sequence[Fault]) -> None:
        """Name what is bad; mend it first, if that is wanted and possible.

        Raises:
            BadFileError: always.

        """
        words = [
            f"block at byte {fault.offset:,} (logical {fault.logical}, "
            f"{self._fs.devices[fault.place.device]} at {fault.place.physical}): {fault.words}"
            for fault in faults[:_TOLD]
        ]
        if len(faults) > _TOLD:
            words.append(f"and {len(faults) - _TOLD} more")
        bad: dict[int, set[Place]] = {}
        for fault in faults:
            bad.setdefault(fault.logical, set()).add(fault.place)
        lost = [at for at, places in bad.items() if len(places) == self._fs.chunk(at).copies]
        if lost:
            words.append("there is no good copy: restore the file from a backup")
        elif not self._repair:
            words.append("there is a good copy: --repair mends it")
        else:
            words.append(self._mend(bad))
        raise BadFileError(Trouble.CORRUPT, "; ".join(words))

    def _mend(self, bad: Mapping[int, set[Place]]) -> str:
        """Have the kernel write good copies over bad ones."""
        wanted: set[Place] = set()
        for logical, places in bad.items():
            for stripe in self._fs.chunk(logical).places:
                end = stripe.physical + self._fs.device_length(stripe)
                if any(
                    one.device == stripe.device and stripe.physical <= one.physical < end
                    for one in places
                ):
                    wanted.add(stripe)
        corrected = sum(self._fs.scrub(place, repair=True).corrected for place in sorted(wanted))
        self._counts["repaired"] += corrected
        return f"mended {corrected} blocks from a good copy"


def _bytes(run: range, extent: Extent) -> tuple[int, int]:
    """Return where a run of pages begins in a file, and how long it is, within an extent."""
    start = max(run.start * _PAGE, extent.offset)
    return start, min(run.stop * _PAGE, extent.offset + extent.length) - start
