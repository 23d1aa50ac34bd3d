# SPDX-License-Identifier: MIT
"""What is to be the same after a restore: all that stat, getfacl, getfattr, lsattr and data say."""

import errno
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import xxhash
from trees import get_flags, held, is_mount

_PIECE = 1 << 20
_BLOCK = 4096


class Facts(NamedTuple):
    """What there is to know of something that has a name.

    Attributes:
        kind: as of stat(2).
        mode: permissions.
        owner: user and group.
        mtime_ns: when it was last changed.
        size: of a file.
        device: that a device node stands for.
        target: of a symbolic link.
        names: all that it has in the tree.
        attributes: extended, ACLs among them.
        flags: of chattr(1).
        data: a digest of what is not zero, and where; None of what cannot be read.
        allocated: bytes on the disk.
        mounted: whether something is mounted there.

    """

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime_ns: int
    size: int | None
    device: int | None
    target: bytes | None
    names: tuple[bytes, ...]
    attributes: dict[bytes, bytes]
    flags: int
    data: str | None
    allocated: int
    mounted: bool


class Difference(NamedTuple):
    """Something that is not the same; ``missing`` and ``unexpected`` are fields, too."""

    path: bytes
    field: str
    before: Any
    after: Any
    #: Of both, as of ``st_mode``; 0 where they are not of one kind.
    kind: int = 0

    def __str__(self) -> str:
        """Say it in a line."""
        path = self.path if len(self.path) < 300 else self.path[:100] + b"..." + self.path[-100:]
        return f"{path!r}: {self.field}: {self.before!r} -> {self.after!r}"


def look(top: Path) -> dict[bytes, Facts]:
    """Return all that is below a directory, and itself, by path relative to it.

    What is mounted there is looked at from outside only.
    """
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = {path: (facts, inode) for path, facts, inode in _walk(fd, b"", os.fstat(fd).st_dev)}
    finally:
        os.close(fd)
    names: dict[tuple[int, int], list[bytes]] = {}
    for path, (_, inode) in found.items():
        names.setdefault(inode, []).append(path)
    return {
        path: facts._replace(names=tuple(sorted(names[inode])))
        for path, (facts, inode) in found.items()
    }


def differences(
    before: dict[bytes, Facts], after: dict[bytes, Facts], but: Collection[bytes] = ()
) -> list[Difference]:
    """Return all that is not the same.

    Args:
        before: what there was.
        after: what there is.
        but: paths that are not compared, with all below them.

    """
    left_out = [path + b"/" for path in but]

    def counts(path: bytes) -> bool:
        return path not in but and not any(path.startswith(above) for above in left_out)

    found = []
    for path in sorted(before.keys() | after.keys()):
        if not counts(path):
            continue
        old, new = before.get(path), after.get(path)
        if old is None or new is None:
            field = "unexpected" if old is None else "missing"
            found.append(Difference(path, field, old and _words(old), new and _words(new)))
        elif old.kind != new.kind:
            found.append(Difference(path, "kind", _words(old), _words(new)))
        else:
            found += _fields(path, old, new, counts)
    return found


def _fields(path: bytes, old: Facts, new: Facts, counts: Any) -> Iterator[Difference]:
    for field in ("mode", "owner", "mtime_ns", "size", "device", "target", "flags", "data"):
        if getattr(old, field) != getattr(new, field):
            yield Difference(path, field, getattr(old, field), getattr(new, field), old.kind)
    for name in sorted(old.attributes.keys() | new.attributes.keys()):
        values = old.attributes.get(name), new.attributes.get(name)
        if values[0] != values[1]:
            yield Difference(path, f"attribute {os.fsdecode(name)}", *values, old.kind)
    names = [[name for name in one.names if counts(name)] for one in (old, new)]
    if not stat.S_ISDIR(old.kind) and names[0] != names[1]:
        yield Difference(path, "names", *names)
    # Reserved room, delayed allocation and what a kind of file system does by itself make some
    # difference; a hole that was filled makes another.
    if stat.S_ISREG(old.kind) and new.allocated > 2 * old.allocated + (256 << 10):
        yield Difference(path, "allocated", old.allocated, new.allocated)


def _words(facts: Facts) -> str:
    return f"{stat.filemode(facts.kind | facts.mode)} {facts.size}"


def _walk(
    directory: int, path: bytes, device: int
) -> Iterator[tuple[bytes, Facts, tuple[int, int]]]:
    yield path, *_facts_of(directory, path, mounted=False)
    try:
        names = sorted(os.fsencode(name) for name in os.listdir(directory))
    except OSError as error:
        if error.errno != errno.EACCES:
            raise
        return
    for name in names:
        inner = os.path.join(path, name)
        with _anything(directory, name) as fd:
            if fd is None:
                continue
            status = os.fstat(fd)
            mounted = status.st_dev != device or is_mount(directory, name)
            if not stat.S_ISDIR(status.st_mode) or mounted:
                yield inner, *_facts_of(fd, inner, mounted=mounted)
                continue
            try:
                below = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_DIRECTORY)
            except PermissionError:
                yield inner, *_facts_of(fd, inner, mounted=False)
                continue
        try:
            yield from _walk(below, inner, device)
        finally:
            os.close(below)


class _anything:  # noqa: N801 -- reads as a function
    """A descriptor of what has a name; None where it cannot be had."""

    def __init__(self, directory: int, name: bytes) -> None:
        self._held: held | None = None
        try:
            self._held = held(directory, name)
        except PermissionError:
            # A directory that lists its names and nothing else.
            self._held = None

    def __enter__(self) -> int | None:
        return self._held and self._held.__enter__()

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._held.__exit__()


def _facts_of(fd: int, path: bytes, *, mounted: bool) -> tuple[Facts, tuple[int, int]]:
    status = os.fstat(fd)
    kind = stat.S_IFMT(status.st_mode)
    here = f"/proc/self/fd/{fd}"
    data, flags = None, 0
    if kind in (stat.S_IFREG, stat.S_IFDIR) and not mounted:
        try:
            opened = os.open(here, os.O_RDONLY | os.O_NONBLOCK)
        except PermissionError:
            pass
        else:
            flags = get_flags(opened)
            if kind == stat.S_IFREG:
                data = _digest(opened, status.st_size)
            os.close(opened)
    facts = Facts(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind == stat.S_IFREG else None,
        device=status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else None,
        target=os.fsencode(os.readlink(b"", dir_fd=fd)) if kind == stat.S_IFLNK else None,
        names=(path,),
        attributes=_attributes(here),
        flags=flags,
        data=data,
        allocated=status.st_blocks * 512,
        mounted=mounted,
    )
    return facts, (status.st_dev, status.st_ino)


def _attributes(here: str) -> dict[bytes, bytes]:
    found = {}
    for name in os.listxattr(here):
        if name.startswith("trusted.SGI_ACL_"):  # as XFS keeps what is an ACL by its other name
            continue
        try:
            found[os.fsencode(name)] = os.getxattr(here, name)
        except PermissionError:  # user.* of what may not be read
            continue
    return found


def _digest(fd: int, size: int) -> str:
    """Return a digest of all blocks that are not zero: the same for a hole as for zeros."""
    digest, offset = xxhash.xxh3_128(), 0
    zeros = bytes(_BLOCK)
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        offset -= offset % _BLOCK
        piece = os.pread(fd, _PIECE, offset)
        if not piece:
            break
        for start in range(0, len(piece), _BLOCK):
            block = piece[start : start + _BLOCK]
            if block != zeros[: len(block)]:
                digest.update(b"%d:" % (offset + start))
                digest.update(block.rstrip(b"\0"))
        offset += len(piece)
    return digest.hexdigest()
