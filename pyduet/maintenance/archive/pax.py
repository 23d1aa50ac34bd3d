# SPDX-License-Identifier: MIT
"""The pax format of tar, byte by byte: headers are written and read here, and nowhere else.

GNU tar, bsdtar and Python's tarfile read what this writes. It is not written by libarchive or by
tarfile, which get wrong what a backup needs: of libarchive 3.6 to 3.8 times before 1970 with a
fraction, and names of attributes that are no ASCII; of tarfile names of attributes that are no
UTF-8, and each binary value, which makes GNU tar warn of an unknown keyword. Neither can write
``GNU.dumpdir``. Neither reads back all of what GNU tar writes and reads.

Sources: pax in POSIX.1-2017; GNU tar's manual, "Storing Sparse Files" (1.0), "Dumpdir"; GNU tar's
``xheader.c`` for the escapes in keywords; star(5) for ``SCHILY.*``.
"""

import os
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

#: Bytes of a block: headers and data begin at a multiple of it.
BLOCK = 512
#: Bytes of a record, of which tar has the whole archive be a multiple.
_RECORD = 20 * BLOCK
#: What an archive of ours begins with: the name of its first extended header.
BEGINNING = b"./PaxHeaders.duet/"
#: Types of members, by the letter in the header.
FILE, LINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_EXTENDED = b"x"
_TYPES = {
    stat.S_IFREG: FILE, stat.S_IFLNK: SYMLINK, stat.S_IFCHR: CHARACTER, stat.S_IFBLK: DEVICE,
    stat.S_IFDIR: DIRECTORY, stat.S_IFIFO: FIFO,
}  # fmt: skip
# Name, mode, uid, gid, size, mtime, checksum, type, link, magic, user, group, major, minor, prefix.
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_MAGIC = b"ustar\x0000"
_SPARSE = b"GNU.sparse."
_SECOND = 10**9
#: Bytes of an extended header that are written, and believed: half of them are enough for the list
#: of a million names as long as names can be, or of ten million ordinary ones.
LONGEST = 512 << 20
#: Extents of a sparse file that are believed: 600 MB of memory. None of ours has a tenth of it.
_MOST_EXTENTS = 1 << 22
#: Bytes that are read at a time of what tells itself how long it is.
_PIECE = 1 << 20
#: Numbers of users and groups end before this one, which says "none".
_NOBODY = (1 << 32) - 1


class ArchiveError(ValueError):
    """An archive is damaged, or not one of ours; says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive.

    Attributes:
        name: in the archive: ``.`` for the root, ``./a/b`` for what is in it.
        type: a letter: :data:`FILE` and the others.
        mode: the permissions.
        uid, gid: the owner's numbers.
        user, group: names of them; empty where there are none.
        mtime_ns: nanoseconds since 1970.
        size: bytes of the file; of what is no file 0.
        target: of a link: what it leads to, or of a hard link the other name.
        device: of a device.
        extents: offset and length of what is no hole, in order; None where
            there are no holes.
        records: further records of the extended header, with keywords as they
            are written.

    """

    name: str
    type: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    user: str = ""
    group: str = ""
    size: int = 0
    target: str = ""
    device: int = 0
    extents: Sequence[tuple[int, int]] | None = None
    records: Sequence[tuple[bytes, bytes]] = ()

    @property
    def stored(self) -> int:
        """Bytes of its data that are in the archive, without the map of holes."""
        if self.extents is None:
            return self.size
        return sum(length for _, length in self.extents)


@dataclass(frozen=True, slots=True)
class Stored(Member):
    """A member that was read.

    Attributes:
        begin: byte of the archive where its headers begin.
        data: byte of the archive where its data begin.
        known: the further records, by keyword.

    """

    begin: int = 0
    data: int = 0
    known: dict[bytes, bytes] = field(default_factory=dict)


def type_of(mode: int) -> bytes | None:
    """Return the type that ``st_mode`` makes of a member; None for what no archive can have."""
    return _TYPES.get(stat.S_IFMT(mode))


# Writing


def header(member: Member) -> bytes:
    """Return all that comes before a member's data: its headers, and the map of its holes.

    The data of the extents follow, and zeros up to a multiple of :data:`BLOCK`.
    """
    name, target = os.fsencode(member.name), os.fsencode(member.target)
    records: list[tuple[bytes, bytes]] = []
    body, short, stored = b"", name, member.stored
    if not (_is_utf8(name) and _is_utf8(target)):
        # bsdtar wants to be told; GNU tar takes bytes as they are, and warns of the keyword.
        records.append((b"hdrcharset", b"BINARY"))
    if member.extents is not None:
        body = _map(member)
        stored += len(body)
        short = b"./GNUSparseFile.0/" + os.path.basename(name)
        records += [
            (_SPARSE + b"major", b"1"),
            (_SPARSE + b"minor", b"0"),
            (_SPARSE + b"name", name),
            (_SPARSE + b"realsize", b"%d" % member.size),
        ]
    elif len(name) > 100 or not name.isascii():
        records.append((b"path", name))
    if len(target) > 100 or not target.isascii():
        records.append((b"linkpath", target))
    for keyword, number, most in (
        (b"uid", member.uid, 8**7), (b"gid", member.gid, 8**7), (b"size", stored, 8**11),
    ):  # fmt: skip
        if number >= most:
            records.append((keyword, b"%d" % number))
    if member.mtime_ns % _SECOND or not 0 <= member.mtime_ns < 8**11 * _SECOND:
        records.append((b"mtime", _time(member.mtime_ns)))
    records += member.records
    blocks = []
    if records:
        text = b"".join(_record(keyword, value) for keyword, value in records)
        about = Member("", _EXTENDED, 0o644, 0, 0, 0)
        blocks += [_block(about, BEGINNING + os.path.basename(name), b"", len(text)), padded(text)]
    blocks += [_block(member, short, target, stored), body]
    return b"".join(blocks)


def padded(data: bytes) -> bytes:
    """Return data with zeros up to a multiple of :data:`BLOCK`."""
    return data + bytes(-len(data) % BLOCK)


def ending(offset: int) -> bytes:
    """Return what ends an archive that has so many bytes until then."""
    return bytes(2 * BLOCK + -(offset + 2 * BLOCK) % _RECORD)


def attribute(name: bytes) -> bytes:
    """Return the keyword of an extended attribute, as GNU tar and star escape it."""
    return b"SCHILY.xattr." + name.replace(b"%", b"%25").replace(b"=", b"%3D")


def attribute_name(keyword: bytes) -> bytes | None:
    """Return the name of the extended attribute of a keyword; None if it is of none."""
    if not keyword.startswith(b"SCHILY.xattr."):
        return None
    return keyword[13:].replace(b"%3D", b"=").replace(b"%25", b"%")


def _map(member: Member) -> bytes:
    """Return the map of a sparse file: GNU tar's format 1.0."""
    extents = list(member.extents or ())
    if sum(extents[-1]) < member.size if extents else True:
        extents.append((member.size, 0))
    numbers = [len(extents), *(number for extent in extents for number in extent)]
    return padded(b"".join(b"%d\n" % number for number in numbers))


def _record(keyword: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (keyword, value)
    length = len(rest) + len(str(len(rest)))
    if len(rest) + len(str(length)) != length:
        length += 1
    return b"%d%s" % (length, rest)


def _block(member: Member, name: bytes, target: bytes, size: int) -> bytes:
    def number(value: int, digits: int) -> bytes:
        return b"%0*o\0" % (digits, value if 0 <= value < 8**digits else 0)

    is_device = member.type in (CHARACTER, DEVICE)
    fields = [
        _ascii(name, 100),
        number(member.mode, 7),
        number(member.uid, 7),
        number(member.gid, 7),
        number(size, 11),
        number(member.mtime_ns // _SECOND, 11),
        b" " * 8,
        member.type,
        _ascii(target, 100),
        _MAGIC,
        _ascii(os.fsencode(member.user), 31),
        _ascii(os.fsencode(member.group), 31),
        number(os.major(member.device) if is_device else 0, 7),
        number(os.minor(member.device) if is_device else 0, 7),
        b"",
    ]
    fields[6] = b"%06o\0 " % sum(_HEADER.pack(*fields))
    return _HEADER.pack(*fields)


def _ascii(name: bytes, most: int) -> bytes:
    """Return what stands in for a name where it is too long or no ASCII: a record has it then."""
    if len(name) <= most and name.isascii():
        return name
    return bytes(byte if byte < 0x80 else ord("?") for byte in name[:most])


def _time(nanoseconds: int) -> bytes:
    seconds, rest = divmod(abs(nanoseconds), _SECOND)
    sign = b"-" if nanoseconds < 0 else b""
    return b"%s%d.%09d" % (sign, seconds, rest) if rest else b"%s%d" % (sign, seconds)


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


# Reading


def members(fd: int, path: str, end: int | None = None) -> Iterator[Stored]:
    """Yield the members of an archive that :func:`header` wrote the headers of.

    Args:
        fd: of the archive, open for reading; its own offset stays as it is.
        path: of the archive, for messages.
        end: byte before which it ends, of one that is not whole yet; None to
            have it end as an archive does.

    Raises:
        ArchiveError: it is damaged, or no archive of ours.
        OSError: it cannot be read.

    """
    offset = 0
    while end is None or offset < end:
        begin = offset
        block = _read(fd, path, offset, BLOCK)
        if not any(block):
            if end is None and not any(_read(fd, path, offset + BLOCK, BLOCK)):
                return
            raise ArchiveError(f"{path}: it is damaged at byte {offset}: nothing where a member is")
        known: dict[bytes, bytes] = {}
        letter, size = _checked(block, path, offset)
        if letter == _EXTENDED:
            if size > LONGEST:
                raise ArchiveError(
                    f"{path}: it is damaged at byte {offset}: a header of {size:,} bytes"
                )
            known = dict(_records(_read(fd, path, offset + BLOCK, size), path, offset))
            offset += BLOCK + size + -size % BLOCK
            block = _read(fd, path, offset, BLOCK)
            letter, size = _checked(block, path, offset)
        try:
            member, stored = _member(fd, path, offset + BLOCK, block, known, begin)
        except ArchiveError:
            raise
        except (ValueError, OverflowError) as error:
            raise ArchiveError(f"{path}: it is damaged at byte {begin}: {error}") from error
        yield member
        offset += BLOCK + stored + -stored % BLOCK


def _member(
    fd: int, path: str, data: int, block: bytes, known: dict[bytes, bytes], begin: int
) -> tuple[Stored, int]:
    """Return a member, and how many bytes follow its header."""
    fields = [value.split(b"\0")[0] for value in _HEADER.unpack(block)]
    letter = _HEADER.unpack(block)[7]
    if letter not in (FILE, LINK, SYMLINK, CHARACTER, DEVICE, DIRECTORY, FIFO):
        raise ArchiveError(f"{path}: at byte {begin} is a member of type {letter!r}: not by duet")
    stored = int(known.get(b"size", b"%d" % int(fields[4], 8)))
    size, extents = stored, None
    if known.get(_SPARSE + b"major") == b"1":
        if _SPARSE + b"realsize" not in known:
            raise ValueError("a file with holes, and no word of its size")
        size = int(known[_SPARSE + b"realsize"])
        extents, length = _read_map(fd, path, data, stored)
        data += length
        if sum(count for _, count in extents) + length != stored:
            raise ArchiveError(f"{path}: it is damaged at byte {begin}: its map is another's")
    if not (0 <= size < 1 << 63 and 0 <= stored < 1 << 62 and _is_in_order(extents or (), size)):
        raise ValueError("a size that no file has")
    uid = int(known.get(b"uid", b"%d" % int(fields[2], 8)))
    gid = int(known.get(b"gid", b"%d" % int(fields[3], 8)))
    if not (0 <= uid < _NOBODY and 0 <= gid < _NOBODY):
        raise ValueError("an owner that there cannot be")
    name = known.get(_SPARSE + b"name", known.get(b"path", fields[0]))
    seconds = known.get(b"mtime")
    member = Stored(
        name=os.fsdecode(name),
        type=letter,
        mode=int(fields[1], 8) & 0o7777,
        uid=uid,
        gid=gid,
        user=os.fsdecode(fields[10]),
        group=os.fsdecode(fields[11]),
        mtime_ns=int(fields[5], 8) * _SECOND if seconds is None else _nanoseconds(seconds),
        size=size,
        target=os.fsdecode(known.get(b"linkpath", fields[8])),
        device=os.makedev(int(fields[12], 8), int(fields[13], 8)),
        extents=extents,
        begin=begin,
        data=data,
        known=known,
    )
    return member, stored


def _is_in_order(extents: Sequence[tuple[int, int]], size: int) -> bool:
    end = 0
    for offset, length in extents:
        if offset < end or length < 0:
            return False
        end = offset + length
    return end <= size


def _read_map(fd: int, path: str, offset: int, most: int) -> tuple[list[tuple[int, int]], int]:
    """Return the extents of a sparse file, and how many bytes their map takes, at most so many."""
    text = bytearray()
    place = 0

    def number() -> int:
        nonlocal place
        while (end := text.find(b"\n", place)) < 0:
            # No number is as long: this is no map, and need not be read to its end.
            length = min(_PIECE, most - len(text))
            if length <= 0 or len(text) - place > BLOCK:
                raise ValueError("a map of holes that cannot be read")
            text.extend(_read(fd, path, offset + len(text), length))
        found = int(text[place:end])
        place = end + 1
        return found

    count = number()
    if not 0 <= count <= _MOST_EXTENTS:
        raise ValueError(f"a map of {count:,} parts of a file")
    extents = [(number(), number()) for _ in range(count)]
    return [extent for extent in extents if extent[1]], place + -place % BLOCK


def _checked(block: bytes, path: str, offset: int) -> tuple[bytes, int]:
    """Return the type and the size that a header says, if it is one."""
    fields = _HEADER.unpack(block)
    try:
        told = int(fields[6].split(b"\0")[0], 8)
        size = int(fields[4].split(b"\0")[0], 8)
    except ValueError:
        told = size = -1
    if fields[9] != _MAGIC or size < 0 or told != sum(block) - sum(fields[6]) + 8 * ord(" "):
        where = f"it is damaged at byte {offset}" if offset else "it is no archive of duet"
        raise ArchiveError(f"{path}: {where}: no header of a member is there")
    return fields[7], size


def _records(text: bytes, path: str, offset: int) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place < len(text):
        # The length of a record, which counts itself, has no more digits than that of the header.
        blank = text.find(b" ", place, place + len(str(LONGEST)) + 1)
        digits = text[place:blank] if blank > 0 else b""
        end = place + int(digits) if digits.isdigit() else 0
        equals = text.find(b"=", blank, end)
        if equals < 0 or end > len(text) or text[end - 1] != ord("\n"):
            raise ArchiveError(f"{path}: it is damaged at byte {offset}: a record cannot be read")
        yield text[blank + 1 : equals], text[equals + 1 : end - 1]
        place = end


def _nanoseconds(text: bytes) -> int:
    whole, _, fraction = text.lstrip(b"-").partition(b".")
    nanoseconds = int(whole) * _SECOND + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if text.startswith(b"-") else nanoseconds


def _read(fd: int, path: str, offset: int, length: int) -> bytes:
    """Read a part; what is not there takes no memory, however long it says that it is."""
    pieces = []
    while length:
        piece = os.pread(fd, min(length, _PIECE), offset)
        if not piece:
            raise ArchiveError(f"{path}: it ends at byte {offset}, too early")
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def dumpdir(names: Iterable[tuple[bytes, bool]]) -> tuple[bytes, bytes]:
    """Return the record that says what is in a directory, by which tar removes what is gone.

    Args:
        names: what is there, and whether it is a directory.

    """
    entries = sorted((name, b"D" if is_directory else b"Y") for name, is_directory in names)
    # tar searches in it by halves.
    return b"GNU.dumpdir", b"".join(letter + name + b"\0" for name, letter in entries) + b"\0"


def dumped(value: bytes) -> dict[bytes, bool]:
    """Return the names of a :func:`dumpdir`, and whether each is a directory."""
    return {entry[1:]: entry[:1] == b"D" for entry in value.split(b"\0") if entry}
