# SPDX-License-Identifier: MIT
"""Trees that are always tried."""

import os
from dataclasses import replace

from trees import (
    APPEND,
    IMMUTABLE,
    NOATIME,
    NODUMP,
    SYNC,
    Extent,
    Node,
    acl,
    capability,
)

_ACL = acl(0o750, [(1000, 5), (4_000_000_000, 7)], [(7, 4)])

#: Of each kind, and with each kind of thing that can be kept of it.
ALL = (
    Node(
        "directory", b"d", mode=0o1777, owner=(3_000_000_000, 2**32 - 2), mtime_ns=-1_500_000_000,
        attributes=(
            (b"user.x=y%25", b"v\0\n\xff="),
            (b"system.posix_acl_access", _ACL),
            (b"system.posix_acl_default", _ACL),
        ),
    ),
    Node(
        "file", b"-dash\n\xff", parent=1, mode=0o6755, size=5, mtime_ns=-250_000_000,
        attributes=(
            (b"user.n\xff\n", b"x"),
            (b"security.capability", capability(1 << 13)),
            (b"trusted.t", b"\0\1"),
        ),
        extents=(Extent(0, 100, 3),),
    ),
    Node(
        "file", b"sparse", mode=0, size=1 << 40, mtime_ns=10_000_000_000_123_456_789,
        extents=(Extent(4096, 10, 1), Extent(1 << 33, 4097, 2), Extent(1 << 20, 8192, -1)),
    ),
    Node("file", b"hole-first", size=1 << 20, extents=(Extent(65536, 1, 5),)),
    Node("file", b"hole-last", size=1 << 20, extents=(Extent(0, 1, 5),)),
    Node("file", b"all-hole", size=1 << 20),
    Node("file", b"zeros", extents=(Extent(0, 1 << 20, 0),)),
    Node("file", b"reserved", extents=(Extent(0, 10, 5), Extent(1 << 20, 1 << 20, -1))),
    Node("file", b"n" * 255, parent=1, mode=0o400, extents=(Extent(0, 10240, 9),)),
    Node("chain", b"c" * 250, depth=18, mode=0o700),
    Node("file", b"deep", parent=-1, extents=(Extent(0, 3, 4),)),
    Node("symlink", b"l", target=b"x" * 1000, attributes=((b"trusted.l", b"1"),), mtime_ns=-1),
    Node("symlink", b"loop", target=b"loop"),
    Node("symlink", b"out", target=b"/etc/passwd"),
    Node("fifo", b"fifo", mode=0o4640),
    Node("socket", b"sock"),
    Node("character", b"null", device=os.makedev(1, 3)),
    Node("block", b"block", device=os.makedev(259, 70000)),
    Node("link", b"hard", parent=1, other=2),
    Node("link", b"hard link of a link", parent=2, other=9),
    Node("file", b"immutable", flags=IMMUTABLE | NOATIME, size=3),
    Node("file", b"append", flags=APPEND | NODUMP | SYNC, extents=(Extent(0, 3, 4),)),
    Node("directory", b"immutable directory", flags=IMMUTABLE),
)  # fmt: skip
#: What is mounted in it.
MOUNTED = (
    *ALL,
    Node("tmpfs", b"m"),
    Node("bound_directory", b"bound", other=1),
    Node("bound_file", b"bound file", other=0),
    Node("subvolume", b"subvolume"),
)

#: The same for a user, who has to be able to read what is to be archived.
READABLE = tuple(replace(node, mode=node.mode | 0o700) for node in ALL)
