# SPDX-License-Identifier: MIT
"""The stream of ``btrfs send``, version 1: read and written, command by command.

Its layout is that of fs/btrfs/send.h in the kernel. A command is its length, its
number and a checksum, and then attributes, each with its type and its length.
All numbers are little-endian.
"""

import enum
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO

import crc32c

_MAGIC = b"btrfs-stream\0"
_VERSION = struct.Struct("<I")
#: What a stream begins with.
HEADER = _MAGIC + _VERSION.pack(1)
_COMMAND = struct.Struct("<IHI")
_ATTRIBUTE = struct.Struct("<HH")
_NUMBER = struct.Struct("<Q")
#: Bytes of data in a write command at most, as the kernel's own (BTRFS_SEND_READ_SIZE).
WRITE_MAX = 48 << 10


class Cmd(enum.IntEnum):
    """The commands (BTRFS_SEND_C_*)."""

    SUBVOL = 1
    SNAPSHOT = 2
    MKFILE = 3
    MKDIR = 4
    MKNOD = 5
    MKFIFO = 6
    MKSOCK = 7
    SYMLINK = 8
    RENAME = 9
    LINK = 10
    UNLINK = 11
    RMDIR = 12
    SET_XATTR = 13
    REMOVE_XATTR = 14
    WRITE = 15
    CLONE = 16
    TRUNCATE = 17
    CHMOD = 18
    CHOWN = 19
    UTIMES = 20
    END = 21
    #: In place of WRITE, where no data were asked for.
    UPDATE_EXTENT = 22


class Attr(enum.IntEnum):
    """The attributes that are looked at here (BTRFS_SEND_A_*)."""

    UUID = 1
    CTRANSID = 2
    SIZE = 4
    XATTR_NAME = 13
    PATH = 15
    PATH_TO = 16
    PATH_LINK = 17
    FILE_OFFSET = 18
    DATA = 19
    CLONE_UUID = 20
    CLONE_CTRANSID = 21
    CLONE_PATH = 22


class StreamError(ValueError):
    """It is no send stream of version 1, or not a whole one."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a stream."""

    number: int
    #: By type, in the stream's order; also of types that :class:`Attr` does not have.
    attributes: Mapping[int, bytes]

    def integer(self, attribute: Attr) -> int:
        """Return an attribute that is a number of 64 bits."""
        try:
            return int(_NUMBER.unpack(self[attribute])[0])
        except struct.error:
            raise StreamError(f"the {attribute.name} of command {self.number} is odd") from None

    def __getitem__(self, attribute: Attr) -> bytes:
        """Return an attribute's bytes."""
        try:
            return self.attributes[attribute]
        except KeyError:
            raise StreamError(f"command {self.number} has no {attribute.name}") from None

    def but(self, attributes: Mapping[int, bytes]) -> "Command":
        """Return the same command with some attributes in place of its own."""
        return Command(self.number, {**self.attributes, **attributes})

    def encoded(self) -> bytes:
        """Return it as a stream has it.

        Raises:
            StreamError: an attribute is longer than 65,535 bytes.

        """
        body = bytearray()
        for kind, value in self.attributes.items():
            if len(value) > 0xFFFF:
                raise StreamError(f"{len(value)} bytes are too many for an attribute")
            body += _ATTRIBUTE.pack(kind, len(value))
            body += value
        sum_ = _checksum(_COMMAND.pack(len(body), self.number, 0) + body)
        return _COMMAND.pack(len(body), self.number, sum_) + body


def write(path: bytes, offset: int, data: bytes) -> Iterator[bytes]:
    """Yield the encoded commands that write data into a file.

    Args:
        path: of the file, in the subvolume.
        offset: bytes into the file.
        data: of any length.

    """
    for start in range(0, len(data), WRITE_MAX):
        yield Command(
            Cmd.WRITE,
            {
                Attr.PATH: path,
                Attr.FILE_OFFSET: _NUMBER.pack(offset + start),
                Attr.DATA: data[start : start + WRITE_MAX],
            },
        ).encoded()


def read(file: IO[bytes]) -> Iterator[tuple[Command, bytes]]:
    """Yield the commands of a stream, each with its encoded form, END as the last.

    Args:
        file: at the stream's beginning.

    Raises:
        StreamError: it is none, of another version, damaged, or ends too early.

    """
    start = _exactly(file, len(HEADER))
    if not start.startswith(_MAGIC):
        raise StreamError("it does not begin as a send stream does")
    if start != HEADER:
        (version,) = _VERSION.unpack(start[len(_MAGIC) :])
        raise StreamError(f"it is a send stream of version {version}, and only 1 is known here")
    while True:
        head = _exactly(file, _COMMAND.size)
        length, number, sum_ = _COMMAND.unpack(head)
        body = _exactly(file, length)
        if _checksum(_COMMAND.pack(length, number, 0) + body) != sum_:
            raise StreamError(f"the checksum of command {number} is wrong")
        yield Command(number, _attributes(body)), head + body
        if number == Cmd.END:
            return


def decode(encoded: bytes) -> Command:
    """Return a command that :meth:`Command.encoded` gave, or :func:`read`."""
    _, number, _ = _COMMAND.unpack_from(encoded)
    return Command(number, _attributes(encoded[_COMMAND.size :]))


def _attributes(body: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at < len(body):
        if at + _ATTRIBUTE.size > len(body):
            raise StreamError("an attribute is cut off")
        kind, length = _ATTRIBUTE.unpack_from(body, at)
        at += _ATTRIBUTE.size
        if at + length > len(body):
            raise StreamError("an attribute is cut off")
        found[kind] = body[at : at + length]
        at += length
    return found


def _exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise StreamError("it ends in the middle")
    return data


def _checksum(data: bytes) -> int:
    """Return the CRC32C as the kernel's crc32c() does from 0 on: nothing is inverted."""
    return int(crc32c.crc32c(data, 0xFFFFFFFF)) ^ 0xFFFFFFFF
