# SPDX-License-Identifier: MIT
"""Archives as somebody makes them who wants to do harm: whole, but with other things in them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from hypothesis import example
from hypothesis import strategies as st

from pyduet.maintenance.archive import pax
from pyduet.maintenance.archive.chain import Link

_CHECKSUM = slice(148, 156)
_SIZE = slice(124, 136)
#: Keywords that mean something, and values that may be too much for what reads them.
_KEYWORDS = (
    b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"comment", b"GNU.sparse.major",
    b"GNU.sparse.realsize", b"GNU.sparse.name", b"GNU.dumpdir", b"SCHILY.acl.access",
    b"SCHILY.acl.default", b"SCHILY.fflags", b"SCHILY.xattr.user.a", b"SCHILY.xattr.trusted.a",
)  # fmt: skip
_VALUES = (
    b"", b"0", b"1", b"-1", b"4294967295", b"9" * 30, b"9" * 5000, b"1.5", b"-.", b"\0", b"..",
    b"./../outside", b"/outside", b"./link/f", b"./d", b"./d/f/f", b".", b"./", b"x" * 300,
    b"duet " + b"[" * 100_000, b'duet {"id": 1}', b"user::rwx,mask:1:r", b"user:9999999999999:r",
    b"Yf\0Dlink\0\0", b"Ylink\0", b"\0\0", b"schg,sappnd,nodump", b"\xff\xfe",
)  # fmt: skip


class Change(NamedTuple):
    """Something that is done to an archive, to which member and where in it."""

    kind: str
    member: int
    place: int
    value: bytes


CHANGES = st.lists(
    st.builds(
        Change,
        st.sampled_from(["record", "unrecord", "flip", "field", "twice", "away", "first", "cut"]),
        st.integers(0, 20),
        st.integers(0, 3000),
        st.sampled_from(_VALUES) | st.binary(max_size=12),
    ),
    max_size=5,
)

#: What has been found by chance once.
KNOWN = [
    [],
    [Change("record", 2, _KEYWORDS.index(b"GNU.sparse.major"), b"1")],
    [Change("unrecord", 3, 3, b"")],
    [Change("record", 0, _KEYWORDS.index(b"comment"), b"duet " + b"[" * 100_000)],
    [Change("record", 2, _KEYWORDS.index(b"size"), b"9" * 30)],
    [Change("record", 2, _KEYWORDS.index(b"SCHILY.acl.access"), b"user::rwx,mask:1:r")],
    [Change("record", 2, _KEYWORDS.index(b"SCHILY.acl.access"), b"user:9999999999999:r")],
    [Change("field", 0, 124, b"-0000000001")],
    [Change("field", 7, 329, b"-000001")],
]


def each_known(test: Callable[..., None]) -> Callable[..., None]:
    """Have a test try what has been found once, besides what Hypothesis finds."""
    for changes in KNOWN:
        test = example(changes=changes)(test)
    return test


def members() -> list[tuple[bytes, bytes]]:
    """Return headers and data of an archive with each kind of thing in it."""
    link = Link.new("full.tar", "/", None)

    def member(name: str, kind: bytes, data: bytes = b"", **more: object) -> tuple[bytes, bytes]:
        fields = {"mode": 0o755, "uid": 0, "gid": 0, "mtime_ns": 10**18 + 1, "size": len(data)}
        return pax.header(pax.Member(name, kind, **{**fields, **more})), pax.padded(data)  # type: ignore[arg-type]

    listing = pax.dumpdir([(b"f", False), (b"sparse", False), (b"further", False)])
    return [
        member(".", pax.DIRECTORY, records=[link.record]),
        member("./d", pax.DIRECTORY),
        member("./d/f", pax.FILE, b"content", records=[(pax.attribute(b"user.a"), b"1")]),
        member("./d/sparse", pax.FILE, b"x" * 1024, size=9000, extents=[(1024, 512), (4096, 512)]),
        member("./d/further", pax.LINK, target="./d/f"),
        member("./link", pax.SYMLINK, target="../outside"),
        member("./pipe", pax.FIFO),
        member("./null", pax.CHARACTER, device=0x103),
        member("./d", pax.DIRECTORY, records=[listing]),
        member(".", pax.DIRECTORY),
    ]


def changed(contents: Sequence[tuple[bytes, bytes]], changes: Sequence[Change]) -> bytes:
    """Return an archive of headers and data to which something was done."""
    parts = list(contents)
    cut = None
    for change in changes:
        at = change.member % len(parts)
        header, data = parts[at]
        match change.kind:
            case "record":
                keyword = _KEYWORDS[change.place % len(_KEYWORDS)]
                more = pax._record(keyword, change.value)
                parts[at] = _edited(header, lambda text, more=more: text + more), data
            case "unrecord":
                parts[at] = _edited(header, lambda text, n=change.place: _without(text, n)), data
            case "flip":
                raw = bytearray(header)
                place = change.place % len(raw)
                raw[place : place + 1] = change.value[:1] or b"\0"
                parts[at] = bytes(raw), data
            case "field":
                raw = bytearray(header)
                block = len(raw) // pax.BLOCK - 1
                place = block * pax.BLOCK + change.place % pax.BLOCK
                value = change.value[: (block + 1) * pax.BLOCK - place]
                raw[place : place + len(value)] = value
                parts[at] = _checked(bytes(raw), block), data
            case "twice":
                parts.insert(change.place % len(parts), parts[at])
            case "away" if len(parts) > 1:
                del parts[at]
            case "first":
                parts.insert(0, parts.pop(at))
            case "cut":
                cut = change.place
    written = b"".join(header + data for header, data in parts)
    whole = written + pax.ending(len(written))
    return whole if cut is None else whole[: len(whole) - cut]


def _edited(header: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """Return a member's headers with another text of its extended header."""
    if header[156:157] != b"x":
        about = pax.header(pax.Member("x", pax.FILE, 0, 0, 0, 0, records=[(b"a", b"")]))
        header = about[: pax.BLOCK] + bytes(pax.BLOCK) + header
        text = b""
        rest = header[2 * pax.BLOCK :]
    else:
        size = int(header[_SIZE].rstrip(b"\0"), 8)
        text = header[pax.BLOCK :][:size]
        rest = header[pax.BLOCK + len(pax.padded(text)) :]
    text = edit(text)
    first = bytearray(header[: pax.BLOCK])
    first[_SIZE] = b"%011o\0" % len(text)
    return _checked(bytes(first), 0) + pax.padded(text) + rest


def _without(text: bytes, number: int) -> bytes:
    """Return the text of a header without one of its records."""
    records = []
    while text[:1].isdigit():
        length = int(text.partition(b" ")[0])
        records.append(text[:length])
        text = text[length:]
    if records:
        del records[number % len(records)]
    return b"".join(records) + text


def _checked(header: bytes, block: int) -> bytes:
    """Return headers with the right checksum in one of their blocks."""
    raw = bytearray(header)
    one = raw[block * pax.BLOCK :][: pax.BLOCK]
    one[_CHECKSUM] = b" " * 8
    one[_CHECKSUM] = b"%06o\0 " % sum(one)
    raw[block * pax.BLOCK : (block + 1) * pax.BLOCK] = one
    return bytes(raw)
