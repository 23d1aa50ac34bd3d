# SPDX-License-Identifier: MIT
"""The pax format, held against Python's tarfile; tests/tasks holds it against tar and bsdtar."""

import contextlib
import io
import json
import operator
import os
import random
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyduet.maintenance.archive import attributes, pax
from pyduet.maintenance.archive.chain import Link, link_of

_NS = 10**9
NAMES = st.binary(min_size=1, max_size=300).filter(
    lambda name: not {b"", b".", b".."} & set(name.split(b"/")) and b"\0" not in name
)
KEYWORDS = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)
VALUES = st.builds(operator.mul, st.binary(max_size=40), st.integers(0, 50))
EXTENTS = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=5)


@st.composite
def files(draw: st.DrawFn) -> tuple[pax.Member, bytes]:
    """A file, with what of it is in the archive."""
    extents: list[tuple[int, int]] | None = None
    size = draw(st.integers(0, 3000))
    if draw(st.booleans()):
        extents, end = [], 0
        for gap, length in draw(EXTENTS):
            extents.append((end + (gap + (gap == 0 and end > 0)) * 512, length * 512))
            end = sum(extents[-1])
        size = end + draw(st.sampled_from([0, 512, 5000]))
        if not size:
            extents = None
    member = pax.Member(
        name="./" + os.fsdecode(draw(NAMES)),
        type=pax.FILE,
        mode=draw(st.integers(0, 0o7777)),
        uid=draw(st.integers(0, 2**32 - 2)),
        gid=draw(st.integers(0, 2**32 - 2)),
        mtime_ns=draw(st.integers(-(10**20), 10**21)),
        size=size,
        extents=extents,
        records=[
            (pax.attribute(name), value)
            for name, value in draw(st.dictionaries(KEYWORDS, VALUES, max_size=3)).items()
        ],
    )
    # Of one number: what is drawn byte by byte is more than Hypothesis can make and shrink.
    return member, random.Random(draw(st.integers(0))).randbytes(member.stored)


def archive_of(contents: list[tuple[pax.Member, bytes]]) -> bytes:
    """Return an archive."""
    written = b"".join(pax.header(member) + pax.padded(data) for member, data in contents)
    return written + pax.ending(len(written))


def read(archive: bytes, path: Path) -> list[pax.Stored]:
    """Read it back."""
    path.write_bytes(archive)
    with open(path, "rb") as file:
        return list(pax.members(file.fileno(), str(path)))


def fields(member: pax.Member) -> tuple[Any, ...]:
    extents = None if member.extents is None else list(member.extents)
    return (
        member.name, member.type, member.mode, member.uid, member.gid, member.mtime_ns,
        member.size, member.target, extents,
    )  # fmt: skip


@given(contents=st.lists(files(), max_size=3))
def test_it_is_read_as_it_was_written(
    contents: list[tuple[pax.Member, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive = archive_of(contents)
    assert len(archive) % 10240 == 0
    found = read(archive, tmp_path_factory.getbasetemp() / "archive")
    assert len(found) == len(contents)
    for one, (member, data) in zip(found, contents, strict=True):
        assert fields(one) == fields(member)
        assert archive[one.data :][: one.stored] == data
        assert {keyword: one.known[keyword] for keyword, _ in member.records} == dict(
            member.records
        )
        for keyword, _ in member.records:
            name = pax.attribute_name(keyword)
            assert name is not None
            assert pax.attribute(name) == keyword


@given(contents=st.lists(files(), max_size=3))
def test_pythons_tarfile_reads_it(contents: list[tuple[pax.Member, bytes]]) -> None:
    with tarfile.open(
        fileobj=io.BytesIO(archive_of(contents)), encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for (member, data), found in zip(contents, tar, strict=True):
            assert found.name == member.name
            assert (found.mode, found.uid, found.gid) == (member.mode, member.uid, member.gid)
            assert found.size == member.size
            assert found.mtime == pytest.approx(member.mtime_ns / _NS)
            file = tar.extractfile(found)
            assert file is not None
            whole = bytearray(member.size)
            place = 0
            for offset, length in [(0, member.size)] if member.extents is None else member.extents:
                whole[offset : offset + length] = data[place : place + length]
                place += length
            assert file.read() == bytes(whole)


@given(
    contents=st.lists(files(), min_size=1, max_size=3),
    wrongs=st.lists(
        st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=9
    ),
    cut=st.integers(0, 3000),
)
def test_what_is_damaged_is_said(
    contents: list[tuple[pax.Member, bytes]],
    wrongs: list[tuple[int, int]],
    cut: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It is said, or it is read; it never ends otherwise, and never goes on for ever."""
    damaged = bytearray(archive_of(contents))
    for place, byte in wrongs:
        damaged[place % len(damaged)] = byte
    damaged = damaged[: len(damaged) - cut]
    path = tmp_path_factory.getbasetemp() / "damaged"
    found: list[pax.Stored] = []
    with contextlib.suppress(pax.ArchiveError):
        found = read(bytes(damaged), path)
    assert len(found) <= len(contents)


def test_a_size_below_nothing_does_not_lead_back(tmp_path: Path) -> None:
    member = pax.Member("./f", pax.FILE, 0o644, 0, 0, 0, records=[(b"size", b"-1536")])
    with pytest.raises(pax.ArchiveError, match="a size that no file has"):
        read(archive_of([(member, b"")]), tmp_path / "archive")


@given(changes=hostile.CHANGES)
@hostile.each_known
def test_a_hostile_archive_is_read_or_refused(
    changes: list[hostile.Change], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile"
    with contextlib.suppress(pax.ArchiveError):
        read(hostile.changed(hostile.members(), changes), path)
    with contextlib.suppress(pax.ArchiveError):
        link_of(str(path))


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([(b"GNU.sparse.major", b"1")], "no word of its size"),
        ([(b"GNU.sparse.major", b"1"), (b"GNU.sparse.realsize", b"1")], "map of holes"),
        ([(b"uid", b"-1")], "an owner that there cannot be"),
        ([(b"gid", b"4294967295")], "an owner that there cannot be"),
        ([(b"size", b"9" * 25)], "a size that no file has"),
    ],
)
def test_what_is_wrong_with_it_is_said(
    records: list[tuple[bytes, bytes]], words: str, tmp_path: Path
) -> None:
    member = pax.Member("./f", pax.FILE, 0o644, 0, 0, 0, records=records)
    with pytest.raises(pax.ArchiveError, match=words):
        read(archive_of([(member, b"")]), tmp_path / "archive")


@pytest.mark.parametrize(
    "said",
    [
        "[" * 100_000, "1", "{}", json.dumps({**Link.new("a", "/", None).kept, "id": [1]}),
    ],
    ids=["deep", "number", "nothing", "list"],
)  # fmt: skip
def test_what_says_something_strange_is_no_archive_of_ours(said: str, tmp_path: Path) -> None:
    records = [(b"comment", b"duet " + said.encode())]
    member = pax.Member(".", pax.DIRECTORY, 0o755, 0, 0, 0, records=records)
    (tmp_path / "archive").write_bytes(archive_of([(member, b"")]))
    with pytest.raises(pax.ArchiveError, match="no archive of duet run backup"):
        link_of(str(tmp_path / "archive"))


def of_many_records(path: Path, count: int) -> None:
    """Make an archive with a member of so many records."""
    member = pax.Member(".", pax.DIRECTORY, 0o755, 0, 0, 0, records=[(b"a", b"b")] * count)
    path.write_bytes(archive_of([(member, b"")]))


def of_many_holes(path: Path, count: int) -> None:
    """Make an archive with a file of so many extents; they are a hole."""
    extents = [(number * 1024, 512) for number in range(count)]
    member = pax.Member("./f", pax.FILE, 0o644, 0, 0, 0, size=count * 1024, extents=extents)
    header = pax.header(member)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + member.stored + 4 * pax.BLOCK)


@pytest.mark.parametrize(
    ("make", "few", "many"), [(of_many_records, 10_000, 160_000), (of_many_holes, 20_000, 640_000)]
)
def test_what_is_read_takes_its_time_by_its_length(
    make: Callable[[Path, int], None], few: int, many: int, tmp_path: Path
) -> None:
    """Of 16 times as much: some 16 times as long, not 256 times."""

    def seconds(count: int) -> float:
        make(tmp_path / "archive", count)
        with open(tmp_path / "archive", "rb") as file:
            begin = time.thread_time()
            assert len(list(pax.members(file.fileno(), "archive"))) == 1
            return time.thread_time() - begin

    longer = min(seconds(many) for _ in range(2)) / min(seconds(few) for _ in range(3))
    assert longer < 4 * many / few


@pytest.mark.parametrize("size", [pax.LONGEST - 512, pax.LONGEST + 512])
def test_a_header_takes_no_memory_that_is_not_there(size: int, tmp_path: Path) -> None:
    about = pax.Member("", b"x", 0o644, 0, 0, 0)
    path = tmp_path / "archive"
    path.write_bytes(pax._block(about, pax.BEGINNING, b"", size) + bytes(pax.BLOCK))
    if size > pax.LONGEST:
        os.truncate(path, 2 * size)
    tracemalloc.start()
    try:
        with pytest.raises(pax.ArchiveError), open(path, "rb") as file:
            list(pax.members(file.fileno(), "archive"))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "acl",
    [b"", b"user", b"user:::", b"owner::rwx", b"user:-1:r", b"user:4294967296:r", b"mask:1:r"],
)
def test_what_is_no_acl_is_refused(acl: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        attributes._acl_bytes(acl)


@pytest.mark.parametrize("length", [*range(80, 110), *range(985, 1005), 9990, 99_990])
def test_the_length_of_a_record_counts_itself(length: int, tmp_path: Path) -> None:
    member = pax.Member(".", pax.DIRECTORY, 0o755, 0, 0, 0, records=[(b"comment", b"x" * length)])
    [found] = read(archive_of([(member, b"")]), tmp_path / "archive")
    assert found.known == {b"comment": b"x" * length}


@pytest.mark.parametrize(
    "acl",
    [
        "user::rwx,group::r-x,other::---",
        "user::rw-,user:0:r--,user:4000000000:rwx,group::---,group:5:--x,mask::rwx,other::r--",
    ],
)
def test_an_acl_is_the_kernels_again(acl: str) -> None:
    kernels = attributes._acl_bytes(acl.encode())
    assert attributes._acl_text(kernels) == acl.encode()
    assert attributes._acl_bytes(b",".join(reversed(acl.encode().split(b",")))) == kernels


def test_names_of_a_directory() -> None:
    names = {b"b": True, b"a\n": False, b"\xff": False}
    keyword, value = pax.dumpdir(names.items())
    assert (keyword, value) == (b"GNU.dumpdir", b"Ya\n\0Db\0Y\xff\0\0")
    assert pax.dumped(value) == names
    assert pax.dumped(pax.dumpdir([])[1]) == {}
