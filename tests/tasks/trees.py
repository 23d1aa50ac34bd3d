# SPDX-License-Identifier: MIT
"""Trees with all in them that a file system can keep: as data, and as files.

A tree is a list of nodes, each in one of the directories before it. What a file system or a user
may not have of a node is left out when it is built: what is there then is the truth, and
:mod:`compare` looks at that.
"""

import ctypes
import errno
import fcntl
import os
import random
import stat
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from mounts import MS_BIND, mount

from pyduet.maintenance.files.tree import LONGEST

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
#: Flags of chattr(1): S, i, a, d, A, D.
SYNC, IMMUTABLE, APPEND, NODUMP, NOATIME, DIRSYNC = 0x8, 0x10, 0x20, 0x40, 0x80, 0x10000
#: All that lsattr(1) shows and chattr(1) can change; C besides.
FLAGS = 0x380FF | 0x800000
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
#: What a file system or a user cannot have.
_NOT_HERE = (
    errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSPC,
    errno.E2BIG, errno.ERANGE, errno.EFBIG, errno.EMLINK, errno.ENAMETOOLONG, errno.EEXIST,
    errno.ENODATA, errno.EOVERFLOW, errno.EXDEV, errno.ENOENT,
)  # fmt: skip
_UMOUNT_DETACH = 2
#: Bytes of a path, with room for the names of directories above.
_DEEPEST = LONGEST - 500
_LIBC = ctypes.CDLL(None, use_errno=True)

#: Of the extended attribute that is an ACL: tags, and the number that stands for none.
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NOBODY = 0xFFFFFFFF


@dataclass(frozen=True)
class Extent:
    """A part of a file.

    Attributes:
        offset, length: which.
        fill: what is written there: from a number its own data, from 0 zeros,
            and from -1 nothing: the room is reserved.

    """

    offset: int
    length: int
    fill: int


@dataclass(frozen=True, repr=False)
class Node:
    """Something with a name; see the builders below for the kinds.

    Attributes:
        kind: of :data:`MAKE`.
        name: in its directory; of a chain of directories, of each.
        parent: the number of its directory among those before it, modulo how many.
        mode: permissions.
        owner: user and group, for root.
        mtime_ns: time of its last change.
        attributes: extended, ACLs among them as the kernel has them.
        flags: of chattr(1).
        size: of a file, at least.
        extents: of a file.
        target: of a symbolic link.
        device: of a device node.
        other: which name before it a hard link or a bind mount is of, modulo how many.
        depth: of a chain of directories.

    """

    kind: str
    name: bytes
    parent: int = 0
    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)
    mtime_ns: int = 1_600_000_000_123_456_789
    attributes: tuple[tuple[bytes, bytes], ...] = ()
    flags: int = 0
    size: int = 0
    extents: tuple[Extent, ...] = ()
    target: bytes = b"."
    device: int = 0
    other: int = 0
    depth: int = 1

    def __repr__(self) -> str:
        """Show it as it would be written: without what is as always."""
        own = [
            f"{field.name}={value!r}"
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        ]
        return f"Node({', '.join(own)})"


class Builder:
    """Makes nodes below a directory, by descriptors: paths may be of any length."""

    def __init__(self, top: Path) -> None:
        """Open the directory."""
        self.directories = [os.open(top, os.O_RDONLY | os.O_DIRECTORY)]
        #: What a hard link or a bind mount can be of: directory, name.
        self.names: list[tuple[int, bytes]] = []
        self._later: list[tuple[int, Node]] = []

    def build(self, nodes: Sequence[Node]) -> None:
        """Make them, and close."""
        try:
            for node in nodes:
                self.make(node)
            # What comes into a directory changes its times, and a closed one takes nothing.
            for fd, node in reversed(self._later):
                adorn(fd, node)
        finally:
            for fd in self.directories:
                os.close(fd)

    def make(self, node: Node) -> None:
        """Make one, if it can be."""
        parent = self.directories[node.parent % len(self.directories)]
        allowed(lambda: MAKE[node.kind](self, parent, node))

    def file(self, parent: int, node: Node) -> None:
        """Make a regular file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        fd = os.open(node.name, flags, 0o600, dir_fd=parent)
        try:
            for extent in node.extents:
                allowed(lambda extent=extent: write(fd, extent))  # type: ignore[misc]
            if os.fstat(fd).st_size < node.size:
                allowed(lambda: os.ftruncate(fd, node.size))
            adorn(fd, node)
        finally:
            os.close(fd)
        self.names.append((parent, node.name))

    def directory(self, parent: int, node: Node) -> None:
        """Make a directory; the nodes that follow can be in it."""
        os.mkdir(node.name, 0o700, dir_fd=parent)
        fd = os.open(node.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
        self.directories.append(fd)
        self._later.append((fd, node))

    def chain(self, parent: int, node: Node) -> None:
        """Make directories in one another: paths longer than 4,096 bytes."""
        for _ in range(node.depth):
            self.directory(parent, node)
            parent = self.directories[-1]

    def symlink(self, parent: int, node: Node) -> None:
        """Make a symbolic link."""
        os.symlink(node.target, node.name, dir_fd=parent)
        self._special(parent, node)

    def fifo(self, parent: int, node: Node) -> None:
        """Make a FIFO."""
        os.mkfifo(node.name, dir_fd=parent)
        self._special(parent, node)

    def socket(self, parent: int, node: Node) -> None:
        """Make a socket."""
        os.mknod(node.name, stat.S_IFSOCK | 0o600, dir_fd=parent)
        self._special(parent, node)

    def character(self, parent: int, node: Node) -> None:
        """Make a character device."""
        os.mknod(node.name, stat.S_IFCHR | 0o600, node.device, dir_fd=parent)
        self._special(parent, node)

    def block(self, parent: int, node: Node) -> None:
        """Make a block device."""
        os.mknod(node.name, stat.S_IFBLK | 0o600, node.device, dir_fd=parent)
        self._special(parent, node)

    def link(self, parent: int, node: Node) -> None:
        """Give something that is no directory a further name."""
        if self.names:
            directory, name = self.names[node.other % len(self.names)]
            os.link(name, node.name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)

    def tmpfs(self, parent: int, node: Node) -> None:
        """Make a directory with another file system mounted on it, and a file in that."""
        os.mkdir(node.name, 0o700, dir_fd=parent)
        with held(parent, node.name) as fd:
            adorn(fd, node)
            mount("none", Path(f"/proc/self/fd/{fd}"), "tmpfs", data="size=64k")
        with held(parent, node.name) as fd:
            Path(f"/proc/self/fd/{fd}/mounted").write_bytes(b"of another file system")

    def bound_directory(self, parent: int, node: Node) -> None:
        """Make a directory on which one of the tree is mounted."""
        source = self.directories[node.other % len(self.directories)]
        os.mkdir(node.name, 0o700, dir_fd=parent)
        with held(parent, node.name) as fd:
            adorn(fd, node)
            # Not recursive: a tree that is in itself ends.
            mount(f"/proc/self/fd/{source}", Path(f"/proc/self/fd/{fd}"), flags=MS_BIND)

    def bound_file(self, parent: int, node: Node) -> None:
        """Make a file on which one of the tree is mounted."""
        self.file(parent, node)
        directory, name = self.names[node.other % len(self.names)]
        with held(directory, name) as source, held(parent, node.name) as fd:
            if stat.S_ISREG(os.fstat(source).st_mode):
                mount(f"/proc/self/fd/{source}", Path(f"/proc/self/fd/{fd}"), flags=MS_BIND)

    def subvolume(self, parent: int, node: Node) -> None:
        """Make a subvolume of btrfs, and a file in it."""
        os.mkdir(node.name, 0o700, dir_fd=parent)
        # The command takes no name that is no text; the directory stands for it elsewhere.
        made = subprocess.run(
            ["btrfs", "-q", "subvolume", "create", f"/proc/self/fd/{parent}/.subvolume"],
            pass_fds=[parent], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if made.returncode == 0:
            os.rename(b".subvolume", node.name, src_dir_fd=parent, dst_dir_fd=parent)
            with held(parent, node.name) as fd:
                Path(f"/proc/self/fd/{fd}/inside").write_bytes(b"of another subvolume")

    def _special(self, parent: int, node: Node) -> None:
        with held(parent, node.name) as fd:
            adorn(fd, node)
        self.names.append((parent, node.name))


MAKE: dict[str, Callable[[Builder, int, Node], None]] = {
    "file": Builder.file,
    "directory": Builder.directory,
    "chain": Builder.chain,
    "symlink": Builder.symlink,
    "fifo": Builder.fifo,
    "socket": Builder.socket,
    "character": Builder.character,
    "block": Builder.block,
    "link": Builder.link,
    "tmpfs": Builder.tmpfs,
    "bound_directory": Builder.bound_directory,
    "bound_file": Builder.bound_file,
    "subvolume": Builder.subvolume,
}
MOUNTS = "tmpfs", "bound_directory", "bound_file", "subvolume"


class held:  # noqa: N801 -- reads as a function
    """A descriptor of anything, for a while."""

    def __init__(self, parent: int, name: bytes) -> None:
        """Open it, and do nothing else with it."""
        self._fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent)

    def __enter__(self) -> int:
        """Return the descriptor."""
        return self._fd

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._fd)


def allowed(action: Callable[[], object]) -> bool:
    """Do what a file system, a user or a limit may refuse; return whether it was done."""
    try:
        action()
    except OSError as error:
        if error.errno not in _NOT_HERE:
            raise
        return False
    return True


def adorn(fd: int, node: Node) -> None:
    """Give something its owner, mode, attributes, time and flags, in the order that keeps them.

    Args:
        fd: of it; with O_PATH too.
        node: what it is to be like.

    """
    here = f"/proc/self/fd/{fd}"
    is_link = stat.S_ISLNK(os.fstat(fd).st_mode)
    if not os.geteuid():
        # Of a symbolic link too: the descriptor's own name leads to the link, not to its target.
        allowed(lambda: os.chown(here, *node.owner))
    if not is_link:
        allowed(lambda: os.chmod(here, node.mode))
    for name, value in node.attributes:
        allowed(lambda name=name, value=value: os.setxattr(here, name, value))  # type: ignore[misc]
    allowed(lambda: os.utime(here, ns=(node.mtime_ns, node.mtime_ns)))
    if node.flags:
        allowed(lambda: set_flags(fd, node.flags))


def write(fd: int, extent: Extent) -> None:
    """Make a part of a file."""
    if extent.fill < 0:
        _fallocate(fd, FALLOC_FL_KEEP_SIZE, extent.offset, extent.length)
    else:
        os.pwrite(fd, data(extent.fill, extent.length), extent.offset)


def data(fill: int, length: int) -> bytes:
    """Return what a number stands for: 0 for zeros."""
    if not fill:
        return bytes(length)
    piece = random.Random(fill).randbytes(1009)
    return (piece * (length // len(piece) + 1))[:length]


def punch(fd: int, offset: int, length: int) -> None:
    """Make a hole."""
    _fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, length)


def get_flags(fd: int) -> int:
    """Return the flags that chattr(1) can change; none where there are none."""
    try:
        answer = fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8))
    except OSError:
        return 0
    return int(struct.unpack("q", answer)[0]) & FLAGS


def set_flags(fd: int, flags: int) -> None:
    """Set flags besides those that are there."""
    before = struct.unpack("q", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))[0]
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("q", before | flags))


def clear_flags(fd: int) -> None:
    """Take away what keeps something from being changed."""
    before = struct.unpack("q", fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)))[0]
    if before & (IMMUTABLE | APPEND):
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("q", before & ~(IMMUTABLE | APPEND)))


def acl(mode: int, users: Sequence[tuple[int, int]], groups: Sequence[tuple[int, int]]) -> bytes:
    """Return an ACL as the kernel has it in an extended attribute.

    Args:
        mode: of the owner, the group and all others.
        users, groups: number and permissions of each that has some of its own.

    """
    entries = [(_USER_OBJ, mode >> 6 & 7, _NOBODY)]
    entries += [(_USER, mode, number) for number, mode in sorted(dict(users).items())]
    entries += [(_GROUP_OBJ, mode >> 3 & 7, _NOBODY)]
    entries += [(_GROUP, mode, number) for number, mode in sorted(dict(groups).items())]
    entries += [(_MASK, 7, _NOBODY), (_OTHER, mode & 7, _NOBODY)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def capability(permitted: int) -> bytes:
    """Return capabilities of a program as the kernel has them in ``security.capability``."""
    return struct.pack("<IIIII", 0x02000001, permitted, 0, 0, 0)


def empty(directory: int) -> None:
    """Remove all that is in a directory: at any depth, immutable, mounted on or closed.

    Args:
        directory: descriptor of it.

    """
    for entry in os.scandir(directory):
        name = os.fsencode(entry.name)
        while is_mount(directory, name):
            with held(directory, name) as fd:
                if _LIBC.umount2(f"/proc/self/fd/{fd}".encode(), _UMOUNT_DETACH):
                    raise OSError(ctypes.get_errno(), "umount2", name)
        if entry.is_dir(follow_symlinks=False):
            with held(directory, name) as fd:
                if os.geteuid():
                    os.chmod(f"/proc/self/fd/{fd}", 0o700)
            _remove_directory(directory, name)
            continue
        if entry.is_file(follow_symlinks=False) and not os.geteuid():
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
            try:
                allowed(lambda fd=fd: clear_flags(fd))  # type: ignore[misc]
            finally:
                os.close(fd)
        os.unlink(name, dir_fd=directory)


def _remove_directory(directory: int, name: bytes) -> None:
    """Remove a directory that is in another one, with all that is in it."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=directory)
    try:
        allowed(lambda: clear_flags(fd))
        empty(fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=directory)


def empty_path(path: Path) -> None:
    """Remove all that is in a directory; see :func:`empty`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        empty(fd)
    finally:
        os.close(fd)


def build(top: Path, nodes: Sequence[Node]) -> None:
    """Make a tree in an empty directory."""
    Builder(top).build(nodes)
    cut(top)


def cut(top: Path) -> None:
    """Remove the directories below one that are so deep that a backup names them.

    Chains in chains become that, and chains that are moved.
    """
    longest = len(os.fsencode(top)) + _DEEPEST
    for where, names, _, fd in os.fwalk(top):
        for name in list(names):
            path = os.fsencode(os.path.join(where, name))
            if len(path) <= longest or is_mount(fd, os.fsencode(name)):
                continue
            names.remove(name)
            allowed(lambda fd=fd: clear_flags(fd))  # type: ignore[misc]
            _remove_directory(fd, os.fsencode(name))


class _Statx(ctypes.Structure):
    _fields_ = (
        ("mask", ctypes.c_uint32), ("blksize", ctypes.c_uint32),
        ("attributes", ctypes.c_uint64), ("rest", ctypes.c_uint8 * 240),
    )  # fmt: skip


def is_mount(directory: int, name: bytes) -> bool:
    """Return whether something is mounted there."""
    status = _Statx()
    no_follow, mount_root = 0x100, 0x2000
    if _LIBC.statx(directory, name, no_follow, 0, ctypes.byref(status)):
        raise OSError(ctypes.get_errno(), "statx", name)
    return bool(status.attributes & mount_root)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _LIBC.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
