# SPDX-License-Identifier: MIT
"""The send stream's format, and what is put off in one, without a file system."""

import io
import os
import struct

import pytest

from pyduet.maintenance.btrfs.sendplan import SendPlan
from pyduet.maintenance.btrfs.sendstream import (
    HEADER,
    WRITE_MAX,
    Attr,
    Cmd,
    Command,
    StreamError,
    read,
    write,
)

#: As btrfs-progs 6.2 wrote it on Linux 6.12, of an empty stream: its end.
END = bytes.fromhex("000000001500506cc99d")
UUID = bytes(range(16))


def number(value: int) -> bytes:
    return struct.pack("<Q", value)


def command(kind: Cmd, path: str = "", **attributes: bytes) -> Command:
    return Command(
        kind, {Attr.PATH: path.encode()} | {Attr[name]: value for name, value in attributes.items()}
    )


def commands(data: bytes) -> list[Command]:
    return [one for one, _ in read(io.BytesIO(data))]


def test_the_checksum_is_the_kernels() -> None:
    assert Command(Cmd.END, {}).encoded() == END
    assert commands(HEADER + END) == [Command(Cmd.END, {})]


def test_a_stream_comes_back_as_it_was() -> None:
    some = [
        command(Cmd.SUBVOL, "name", UUID=UUID, CTRANSID=number(7)),
        Command(Cmd.CHMOD, {Attr.PATH: b"a\xff/b", 5: number(0o755)}),
        Command(Cmd.END, {}),
    ]
    data = HEADER + b"".join(one.encoded() for one in some)
    assert commands(data) == some
    assert HEADER + b"".join(encoded for _, encoded in read(io.BytesIO(data))) == data


def test_data_are_written_in_pieces() -> None:
    data = os.urandom(2 * WRITE_MAX + 1)
    written = commands(HEADER + b"".join(write(b"file", 4096, data)) + END)[:-1]
    assert [one.integer(Attr.FILE_OFFSET) for one in written] == [
        4096 + n * WRITE_MAX for n in range(3)
    ]
    assert b"".join(one[Attr.DATA] for one in written) == data
    assert list(write(b"file", 0, b"")) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"btrfs-strean\0" + HEADER[13:] + END, "does not begin"),
        (HEADER[:13] + struct.pack("<I", 2) + END, "version 2"),
        (HEADER[:5], "ends in the middle"),
        (HEADER, "ends in the middle"),
        (HEADER + END[:-1], "ends in the middle"),
        (HEADER + END[:-1] + b"\0", "checksum"),
    ],
)
def test_what_is_no_stream_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(StreamError, match=words):
        commands(data)


def test_an_attribute_has_64_kib_at_most() -> None:
    with pytest.raises(StreamError, match="too many"):
        Command(Cmd.WRITE, {Attr.DATA: bytes(1 << 16)}).encoded()
    with pytest.raises(StreamError, match="no SIZE"):
        command(Cmd.TRUNCATE, "x").integer(Attr.SIZE)


def planned(*some: Command) -> tuple[SendPlan, list[Command]]:
    """Take a stream; returns also what stays where it is."""
    kept: list[bytes] = []
    plan = SendPlan(kept.append)
    plan.take(command(Cmd.SUBVOL, "s", UUID=UUID, CTRANSID=number(7)), b"")
    for one in (*some, Command(Cmd.END, {})):
        plan.take(one, one.encoded())
    return plan, commands(HEADER + b"".join(kept) + END)[:-1]


def late(plan: SendPlan) -> list[Command]:
    return commands(HEADER + b"".join(plan.late()))


def extent(path: str, offset: int, size: int) -> Command:
    return command(Cmd.UPDATE_EXTENT, path, FILE_OFFSET=number(offset), SIZE=number(size))


def clone(path: str, source: str, uuid: bytes = UUID) -> Command:
    return command(
        Cmd.CLONE, path, CLONE_UUID=uuid, CLONE_CTRANSID=number(7), CLONE_PATH=source.encode()
    )


def test_paths_are_those_of_the_end() -> None:
    """What was named before a directory moved is written where it is then."""
    moved = [
        command(Cmd.MKFILE, "o257-1-0"),
        command(Cmd.RENAME, "o257-1-0", PATH_TO=b"old/file"),
        extent("old/file", 0, 10),
        extent("old/there/before", 5, 1),
        clone("old/copy", "old/file"),
        clone("old/far", "old/file", bytes(16)),
        command(Cmd.UTIMES, "old/file", UUID=b"1"),
        command(Cmd.LINK, "link", PATH_LINK=b"old/file"),
        command(Cmd.UTIMES, "link", UUID=b"2"),
        command(Cmd.RENAME, "old", PATH_TO=b"new/deep"),
        command(Cmd.UNLINK, "new/deep/file"),
        command(Cmd.UTIMES, "gone"),
        command(Cmd.RMDIR, "gone"),
    ]
    plan, kept = planned(*moved)
    wanted = []
    for item, path in plan.files():
        plan.is_inode(item, 300 + item)
        wanted.append(plan.wanted(300 + item))
        assert wanted[-1] is not None
        assert wanted[-1].path == path
    assert wanted == [
        (b"link", [range(10)]),
        (b"new/deep/there/before", [range(5, 6)]),
    ]
    assert [Cmd(one.number) for one in kept[1:]] == [
        Cmd.RENAME, Cmd.LINK, Cmd.RENAME, Cmd.UNLINK, Cmd.RMDIR,
    ]  # fmt: skip
    assert late(plan) == [
        clone("new/deep/copy", "link"),
        clone("new/deep/far", "old/file", bytes(16)),
        command(Cmd.UTIMES, "link", UUID=b"2"),
        Command(Cmd.END, {}),
    ]


def test_two_names_of_a_file_are_one() -> None:
    plan, _ = planned(extent("a", 0, 4), extent("b", 4, 4), extent("c", 0, 1))
    for (item, _), ino in zip(plan.files(), (257, 257, (1 << 64) - 5), strict=True):
        plan.is_inode(item, ino)
    assert plan.wanted(257) == (b"a", [range(4), range(4, 8)])
    assert list(plan.left()) == [257, 257, (1 << 64) - 5]
    plan.written(257)
    assert not plan.is_wanted(257)
    assert plan.wanted(257) is None
    assert list(plan.left()) == [(1 << 64) - 5]


def test_capabilities_come_after_the_data() -> None:
    given = command(Cmd.SET_XATTR, "a", XATTR_NAME=b"security.capability", DATA=b"c")
    other = command(Cmd.SET_XATTR, "a", XATTR_NAME=b"user.note", DATA=b"n")
    taken = command(Cmd.REMOVE_XATTR, "b", XATTR_NAME=b"security.capability")
    plan, kept = planned(given, other, given.but({Attr.PATH: b"b"}), taken)
    assert kept == [other, taken]
    assert late(plan) == [given, Command(Cmd.END, {})]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(StreamError, match="no name in the end"):
        list(planned(extent("a", 0, 1), command(Cmd.UNLINK, "a"))[0].files())
    with pytest.raises(StreamError, match="not expected"):
        planned(command(Cmd.WRITE, "a"))
