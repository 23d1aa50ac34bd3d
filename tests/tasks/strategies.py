# SPDX-License-Identifier: MIT
"""Trees and changes for Hypothesis to choose from."""

import os

from changes import MAKE, Change
from hypothesis import strategies as st
from trees import (
    APPEND,
    DIRSYNC,
    IMMUTABLE,
    MOUNTS,
    NOATIME,
    NODUMP,
    SYNC,
    Extent,
    Node,
    acl,
    capability,
)

_PLAIN = st.sampled_from([b"a", b"b", b"c", b"file", b"d.tar", b"e"])
_ODD = st.sampled_from([
    b"-", b"--delete", b"-rf", b"\n", b"line\nline", b"\xff\xfe", b"caf\xe9", "café".encode(),
    "café".encode(), "😀".encode(), b" ", b"...", b"..a", b"~", b"$HOME", b"a b", b"%s",
    b"back\\slash", b"\\012", b"star*", b"[x]", b"?", b"'\"", b"@LongLink", b"\x01\x7f\x1b[31m",
    b"host:file", b"GNUSparseFile.0", b"PaxHeaders", b"x" * 100, b"x" * 101, b"y" * 255,
    b"\xff" * 255, "ü".encode() * 127, b"trailing/"[:-1] + b".", b"tab\t", b"a=b", b"#", b"+",
])  # fmt: skip
NAMES = st.one_of(
    _PLAIN,
    _ODD,
    st.binary(min_size=1, max_size=20).filter(
        lambda name: not set(name) & {0, 0x2F} and name not in (b".", b"..")
    ),
)
_SIZES = st.sampled_from([
    0, 1, 511, 512, 513, 4095, 4096, 4097, 10239, 10240, 10241, 65535, 65536, 65537, 1 << 20,
])  # fmt: skip
_PLACES = st.sampled_from([
    0, 1, 511, 4096, 5000, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 32, (1 << 33) - 4096, 1 << 33,
    1 << 40,
])  # fmt: skip
_EXTENTS = st.lists(
    st.builds(Extent, offset=_PLACES, length=_SIZES.filter(bool), fill=st.integers(-1, 3)),
    max_size=3,
).map(tuple)
_MODES = st.one_of(st.sampled_from([0o644, 0o755, 0, 0o7777, 0o4711]), st.integers(0, 0o7777))
_SECONDS = st.sampled_from([
    -(2**31), -2, -1, 0, 1, 2**31 - 1, 2**31, 2**32, 2**33, 9_223_372_036, 9_223_372_037,
    10_000_000_000, 15_032_385_535, 16_299_260_425, 1_600_000_000,
])  # fmt: skip
TIMES = st.builds(
    lambda seconds, part: seconds * 10**9 + part,
    _SECONDS,
    st.sampled_from([0, 1, 250_000_000, 500_000_000, 999_999_999]),
)
_NUMBERS = st.sampled_from([0, 1, 1000, 65534, 65536, 2**31 - 1, 2**31, 3_000_000_000, 2**32 - 2])
_PERMISSIONS = st.lists(st.tuples(_NUMBERS, st.integers(0, 7)), max_size=2)
# Nobody shuts himself out: that is another test.
_ACLS = st.builds(acl, st.integers(0o700, 0o777), _PERMISSIONS, _PERMISSIONS)
_ATTRIBUTE_NAMES = st.one_of(
    st.sampled_from([b"note", b"a=b", b"100%25", b"%", b"=", b"\xff\xfe", b"new\nline", b"x" * 99]),
    st.binary(min_size=1, max_size=10).filter(lambda name: 0 not in name),
)
_VALUES = st.one_of(
    st.sampled_from([b"", b"v", b"\0", b"\n", b"a\0b\n=\xff", b"0" * 3000]), st.binary(max_size=20)
)


def _attributes(is_root: bool, is_directory: bool) -> st.SearchStrategy[tuple[bytes, bytes]]:
    spaces = [b"user.", b"trusted.", b"security."] if is_root else [b"user."]
    kinds = [
        st.tuples(st.builds(bytes.__add__, st.sampled_from(spaces), _ATTRIBUTE_NAMES), _VALUES),
        st.tuples(st.just(b"system.posix_acl_access"), _ACLS),
    ]
    if is_directory:
        kinds.append(st.tuples(st.just(b"system.posix_acl_default"), _ACLS))
    elif is_root:
        kinds.append(st.tuples(st.just(b"security.capability"), st.builds(capability, st.just(9))))
    return st.one_of(kinds)


def nodes(*, is_root: bool, mounts: bool = False) -> st.SearchStrategy[Node]:
    """Return a strategy for one thing in a tree.

    Args:
        is_root: whether it may be what only root can make.
        mounts: whether it may be a mount point or a subvolume.

    """
    common = {
        "name": NAMES,
        "parent": st.integers(0, 5),
        "mode": _MODES if is_root else _MODES.map(lambda mode: mode | 0o700),
        "owner": st.tuples(_NUMBERS, _NUMBERS),
        "mtime_ns": TIMES,
    }
    flags = [NODUMP, NOATIME, SYNC, *([IMMUTABLE, APPEND] if is_root else [])]

    def kind(name: str, /, **more: st.SearchStrategy[object]) -> st.SearchStrategy[Node]:
        return st.builds(Node, st.just(name), **{**common, **more})  # type: ignore[arg-type]

    def attributes(*, of_directory: bool = False) -> st.SearchStrategy[object]:
        one = _attributes(is_root, of_directory)
        return st.lists(one, max_size=3).map(tuple)

    file = kind(
        "file",
        attributes=attributes(),
        flags=st.one_of(st.just(0), st.sampled_from(flags)),
        size=st.one_of(st.just(0), _SIZES, _PLACES),
        extents=_EXTENTS,
    )
    directory = kind(
        "directory",
        attributes=attributes(of_directory=True),
        flags=st.one_of(st.just(0), st.sampled_from([*flags, DIRSYNC])),
    )
    link = kind("link", other=st.integers(0, 7))
    target = st.one_of(NAMES, st.sampled_from([b"/etc/passwd", b"..", b"nowhere", b"z" * 3000]))
    kinds = [
        file, file, file, directory, directory, link,
        kind("symlink", target=target),
        kind("fifo"), kind("socket"),
        kind("chain", depth=st.sampled_from([1, 3, 16, 18]), name=st.just(b"chain" * 50)),
    ]  # fmt: skip
    if is_root:
        device = st.builds(os.makedev, st.integers(0, 4095), st.integers(0, 2**20 - 1))
        kinds += [kind("character", device=device), kind("block", device=device)]
    if mounts:
        kinds.append(st.one_of([kind(name, other=st.integers(0, 7)) for name in MOUNTS]))
    return st.one_of(kinds)


def trees(*, is_root: bool, mounts: bool = False) -> st.SearchStrategy[tuple[Node, ...]]:
    """Return a strategy for whole trees; see :func:`nodes`."""
    return st.lists(nodes(is_root=is_root, mounts=mounts), max_size=12).map(tuple)


def changes(*, is_root: bool) -> st.SearchStrategy[list[Change]]:
    """Return a strategy for changes of whatever is in a tree."""
    number = st.integers(0, 63)
    one = st.builds(
        Change,
        st.sampled_from(sorted(MAKE)),
        which=number,
        other=number,
        fill=st.integers(0, 0o7777),
        node=nodes(is_root=is_root),
    )
    return st.lists(one, min_size=1, max_size=6)
