# SPDX-License-Identifier: MIT
"""What btrfs tells of itself: where data lie on which device, and their checksums.

The trees are read, and their items understood, by python-btrfs; to search trees needs
CAP_SYS_ADMIN. What that library does not know is here: which kind of checksums a file system has,
on which device a logical address is, and the kernel's scrub.
"""

import enum
import errno
import fcntl
import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import ioctl_opt
from btrfs import ctree, ioctl

_MAGIC = 0x94
#: struct btrfs_ioctl_fs_info_args of linux/btrfs.h, of which python-btrfs knows the first half.
_FS_INFO = struct.Struct("=QQ16sIIIHHQQ16s944x")
_IOC_FS_INFO: int = ioctl_opt.IOC(ioctl_opt.IOC_READ, _MAGIC, 31, _FS_INFO.size)
_WITH_CHECKSUMS = 1
#: struct btrfs_ioctl_scrub_args.
_SCRUB = struct.Struct("=QQQQ15Q872x")
_IOC_SCRUB: int = ioctl_opt.IOC(ioctl_opt.IOC_READ | ioctl_opt.IOC_WRITE, _MAGIC, 27, _SCRUB.size)
_READ_ONLY = 1
#: The tree that an open file is in.
_OWN = 0
#: Bytes for what is found in trees by one call.
_ROOM = 64 << 10


class Profile(enum.IntFlag):
    """What a chunk is for, and how it lies on the devices (BTRFS_BLOCK_GROUP_*)."""

    DATA = 0x1
    SYSTEM = 0x2
    METADATA = 0x4
    RAID0 = 0x8
    RAID1 = 0x10
    DUP = 0x20
    RAID10 = 0x40
    RAID5 = 0x80
    RAID6 = 0x100
    RAID1C3 = 0x200
    RAID1C4 = 0x400


_MIRRORED = Profile.RAID1 | Profile.DUP | Profile.RAID1C3 | Profile.RAID1C4
PARITY = Profile.RAID5 | Profile.RAID6


class Place(NamedTuple):
    """Where a copy of something lies."""

    device: int
    #: In bytes, on the device.
    physical: int


class Chunk(NamedTuple):
    """Consecutive logical bytes, and where they lie."""

    logical: int
    length: int
    stripe: int
    profile: Profile
    places: tuple[Place, ...]
    sub_stripes: int

    @property
    def copies(self) -> int:
        """How many copies there are of each block."""
        if self.profile & _MIRRORED:
            return len(self.places)
        return self.sub_stripes if self.profile & Profile.RAID10 else 1

    def at(self, logical: int) -> tuple[list[Place], int]:
        """Return the copies of a byte, and how many bytes follow it there.

        Raises:
            NotImplementedError: it lies under :data:`PARITY`.

        """
        if self.profile & PARITY:
            raise NotImplementedError
        offset = logical - self.logical
        if not self.profile & (Profile.RAID0 | Profile.RAID10):
            places = [Place(one.device, one.physical + offset) for one in self.places]
            return places, self.length - offset
        each = self.copies
        number, within = divmod(offset, self.stripe)
        row, column = divmod(number, len(self.places) // each)
        group = self.places[column * each : (column + 1) * each]
        places = [Place(one.device, one.physical + row * self.stripe + within) for one in group]
        return places, self.stripe - within


class Extent(NamedTuple):
    """A part of a file, and the data on the devices that it is taken from."""

    #: In the file, in bytes.
    offset: int
    length: int
    #: The part of the data that is meant; all of it where it is compressed.
    logical: int
    size: int
    compressed: bool


class Btrfs:
    """A mounted btrfs, asked over a file or directory of it.

    Thread-safety: none.
    """

    def __init__(self, fd: int) -> None:
        """Ask what it is made of.

        Args:
            fd: an open file or directory; stays the caller's.

        Raises:
            OSError: it is no btrfs, or that is not permitted.

        """
        self._fd = fd
        buffer = bytearray(_FS_INFO.pack(0, 0, b"", 0, 0, 0, 0, 0, _WITH_CHECKSUMS, 0, b""))
        fcntl.ioctl(fd, _IOC_FS_INFO, buffer)
        info = _FS_INFO.unpack(buffer)
        last, count = info[:2]
        #: Bytes of a block of data, which has a checksum of its own.
        self.block: int = info[4]
        self._node: int = info[3]
        kind, self._checksum_size = info[6:8]
        self.checksum = _checksum(kind)
        self.devices = dict(self._devices(last, count))
        self._chunks: dict[int, Chunk] = {}

    def errors(self) -> int:
        """Return how many errors of reading its devices have had, of checksums among them."""
        total = 0
        for device in self.devices:
            stats = ioctl.dev_stats(self._fd, device)
            total += stats.read_errs + stats.corruption_errs + stats.generation_errs
        return total

    def extents(self, fd: int, ino: int) -> Iterator[Extent]:
        """Yield the parts of a file that have data on the devices, in its order.

        Inline data, which are metadata, holes and what is only reserved are left out.

        Args:
            fd: the open file.
            ino: its inode number.

        """
        for item in _items(fd, _OWN, ino, ctree.EXTENT_DATA_KEY):
            if item.type != ctree.FILE_EXTENT_REG or not item.disk_bytenr:
                continue
            offset, length, start = item.logical_offset, item.num_bytes, item.disk_bytenr
            if item.compression:
                yield Extent(offset, length, start, item.disk_num_bytes, True)
            else:
                yield Extent(offset, length, start + item.offset, length, False)

    def checksums(self, logical: int, size: int) -> dict[int, bytes]:
        """Return the checksum of each block, by its logical address; those without are left out."""
        # An item fills a node at most, and is found by where it begins.
        reach = self._node // self._checksum_size * self.block
        found = {}
        for header, item in _search(
            self._fd, ctree.CSUM_TREE_OBJECTID, ctree.EXTENT_CSUM_OBJECTID, ctree.EXTENT_CSUM_KEY,
            max(0, logical - reach), logical + size - 1,
        ):  # fmt: skip
            begin = header.offset
            number = len(item) // self._checksum_size
            first = max(0, (logical - begin) // self.block)
            last = min(number, -(-(logical + size - begin) // self.block))
            for at in range(first, last):
                place = at * self._checksum_size
                found[begin + at * self.block] = bytes(item[place : place + self._checksum_size])
        return found

    def chunk(self, logical: int) -> Chunk:
        """Return the chunk that a logical address is in.

        Raises:
            LookupError: there is none.

        """
        for again in (False, True):
            for one in self._chunks.values():
                if one.logical <= logical < one.logical + one.length:
                    return one
            if not again:
                self.forget_chunks()
        raise LookupError(f"no chunk has the address {logical}")

    def forget_chunks(self) -> None:
        """Ask anew where things lie: a balance may have moved them."""
        self._chunks = {one.logical: one for one in self.chunks()}

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks."""
        for one in _items(
            self._fd,
            ctree.CHUNK_TREE_OBJECTID,
            ctree.FIRST_CHUNK_TREE_OBJECTID,
            ctree.CHUNK_ITEM_KEY,
        ):
            places = tuple(Place(stripe.devid, stripe.offset) for stripe in one.stripes)
            profile = Profile(one.type)
            yield Chunk(one.vaddr, one.length, one.stripe_len, profile, places, one.sub_stripes)

    def device_length(self, place: Place) -> int:
        """Return how many bytes of a chunk lie at a place where one begins."""
        for item in _items(
            self._fd,
            ctree.DEV_TREE_OBJECTID,
            place.device,
            ctree.DEV_EXTENT_KEY,
            place.physical,
            place.physical,
        ):
            return int(item.length)
        raise LookupError(f"nothing begins at {place}")

    def scrub(self, place: Place, *, repair: bool) -> "Scrubbed":
        """Have the kernel scrub what lies at the place where a chunk begins, on one device.

        The call honours no smaller range than a chunk's.

        Args:
            place: where a chunk begins.
            repair: whether to mend what is bad, where there is a good copy.

        Raises:
            OSError: that is not possible, another scrub (EINPROGRESS) runs.

        """
        end = place.physical + self.device_length(place) - 1
        flags = 0 if repair else _READ_ONLY
        buffer = bytearray(_SCRUB.pack(place.device, place.physical, end, flags, *[0] * 15))
        fcntl.ioctl(self._fd, _IOC_SCRUB, buffer)
        found = _SCRUB.unpack(buffer)[4:]
        return Scrubbed(found[2] + found[3], sum(found[4:7]) + found[9], found[11], found[12])

    def _devices(self, last: int, count: int) -> Iterator[tuple[int, str]]:
        for number in range(1, last + 1):
            try:
                yield number, ioctl.dev_info(self._fd, number).path
            except OSError:
                if count == last:
                    raise
                # One of those that were removed.


class Scrubbed(NamedTuple):
    """What the kernel's own scrub found."""

    bytes: int
    errors: int
    uncorrectable: int
    corrected: int


def _checksum(kind: int) -> Callable[[bytes], bytes]:
    """Return a function for a kind of checksums (BTRFS_CSUM_TYPE_*).

    Raises:
        OSError: one that is not known here.

    """
    if kind == 0:
        import crc32c

        return lambda data: int(crc32c.crc32c(data)).to_bytes(4, "little")
    if kind == 1:
        import xxhash

        return lambda data: xxhash.xxh64(data).intdigest().to_bytes(8, "little")
    if kind == 2:
        return lambda data: hashlib.sha256(data).digest()
    if kind == 3:
        return lambda data: hashlib.blake2b(data, digest_size=32).digest()
    raise OSError(errno.EOPNOTSUPP, f"has checksums of kind {kind}, which is not known here")


def _search(
    fd: int, tree: int, objectid: int, kind: int, first: int = 0, last: int = ctree.ULLONG_MAX
) -> Iterator[tuple[Any, memoryview]]:
    """Yield header and data of the items of one object and kind, as python-btrfs gives them."""
    begin, end = (ctree.Key(objectid, kind, offset) for offset in (first, last))
    yield from ioctl.search_v2(fd, tree, begin, end, buf_size=_ROOM)


def _items(*where: int) -> Iterator[Any]:
    """Yield the items themselves; arguments as those of :func:`_search`."""
    for header, data in _search(*where):
        yield ctree.classify(header, data)
