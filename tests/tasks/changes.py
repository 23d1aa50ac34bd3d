# SPDX-License-Identifier: MIT
"""What people and programs do to a tree, between runs of a task and meanwhile."""

import contextlib
import ctypes
import errno
import mmap
import os
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from beside import beside
from trees import Builder, Node, data, empty_path, punch

_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_LIBC = ctypes.CDLL(None, use_errno=True)
#: Longer paths are left as they are: these changes are made by path.
_LONGEST = 3000
#: What a change may meet, where something else is than it is for, or what may not be changed.
_REFUSED = (
    errno.EPERM, errno.EACCES, errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
    errno.EINVAL, errno.ENOTEMPTY, errno.EBUSY, errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP,
    errno.ENODATA, errno.EXDEV, errno.ENAMETOOLONG, errno.ENOSPC, errno.E2BIG, errno.EMLINK,
    errno.ENODEV, errno.ETXTBSY, errno.EFBIG, errno.EROFS, errno.ERANGE, errno.ENOTTY,
    errno.EOVERFLOW, errno.EFAULT,
)  # fmt: skip

#: Bytes on the disk, from which on nothing is appended to a file.
_MOST = 4 << 20


@dataclass(frozen=True)
class Change:
    """A change to something.

    Attributes:
        kind: of :data:`MAKE`.
        which, other: numbers of the things concerned, modulo how many there are.
        fill: what is written, or whatever number the change wants.
        node: what is made.

    """

    kind: str
    which: int = 0
    other: int = 0
    fill: int = 0
    node: Node | None = None


def apply(top: Path, change: Change) -> bool:
    """Make a change below a directory, if it can be made; return whether it was."""
    paths = list(_paths(os.fsencode(top)))
    # The directory itself stays; things can be made in it and put there.
    first = 0 if change.kind == "make" else 1
    if not paths[first:]:
        return False
    one = paths[first:][change.which % len(paths[first:])]
    other = paths[change.other % len(paths)]
    try:
        MAKE[change.kind](one, other, change)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return False
    return True


def going_on(
    top: Path, changes: list[Change], seed: int
) -> contextlib.AbstractContextManager[None]:
    """Make changes, chosen by chance, as fast as may be, until the context ends."""
    choice = random.Random(seed)

    def change() -> None:
        one = choice.choice(changes)
        places = (choice.getrandbits(16) for _ in range(3))
        apply(top, Change(one.kind, *places, one.node))

    return beside("changes", change)


def _paths(top: bytes) -> Iterator[bytes]:
    """Yield the directory and what is below it, in an order that does not depend on the disk."""
    yield top
    try:
        entries = sorted(os.scandir(top), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if len(entry.path) > _LONGEST:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _paths(entry.path)
        else:
            yield entry.path


def _make(one: bytes, _: bytes, change: Change) -> None:
    assert change.node
    Builder(Path(os.fsdecode(_directory_of(one)))).build([change.node])


def _become(one: bytes, other: bytes, change: Change) -> None:
    """Be something of another kind under the same name."""
    assert change.node
    _remove(one, other, change)
    node = Node(**{**change.node.__dict__, "name": os.path.basename(one), "depth": 1})
    Builder(Path(os.fsdecode(os.path.dirname(one)))).build([node])


@contextlib.contextmanager
def _opened(path: bytes) -> Iterator[int]:
    # A device of whatever number is not opened: what that does nobody knows.
    held = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            raise OSError(errno.EINVAL, "no file", path)
        fd = os.open(f"/proc/self/fd/{held}", os.O_RDWR)
    finally:
        os.close(held)
    try:
        yield fd
    finally:
        os.close(fd)


def _rewrite(one: bytes, _: bytes, change: Change) -> None:
    with _opened(one) as fd:
        os.pwrite(fd, data(change.fill | 1, min(os.fstat(fd).st_size, 1 << 17)), 0)


def _rewrite_quietly(one: bytes, _: bytes, change: Change) -> None:
    """Write, and put the time back."""
    with _opened(one) as fd:
        status = os.fstat(fd)
        os.pwrite(fd, data(change.fill | 1, min(status.st_size, 1 << 17)), 0)
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _append(one: bytes, _: bytes, change: Change) -> None:
    with _opened(one) as fd:
        status = os.fstat(fd)
        if status.st_blocks * 512 > _MOST:
            raise OSError(errno.EFBIG, "it would fill the disk before the run ends", one)
        os.pwrite(fd, data(change.fill | 1, 1 + change.fill % 5000), status.st_size)


def _truncate(one: bytes, _: bytes, change: Change) -> None:
    with _opened(one) as fd:
        os.ftruncate(fd, os.fstat(fd).st_size * (change.fill % 4) // 2)


def _punch(one: bytes, _: bytes, change: Change) -> None:
    with _opened(one) as fd:
        punch(fd, change.fill % 3 * 4096, 8192)


def _map(one: bytes, _: bytes, change: Change) -> None:
    """Write through a shared mapping, which changes the times only now and then."""
    with _opened(one) as fd:
        size = os.fstat(fd).st_size
        if not 8 <= size <= 1 << 21:
            return
        out, into = os.pipe()
        try:
            os.write(into, change.fill.to_bytes(8, "little"))
            # Where the disk is full, the kernel is told so with an error, and a program by SIGBUS.
            with mmap.mmap(fd, size) as memory, memoryview(memory) as view, view[:8] as first:
                os.readv(out, [first])
        finally:
            os.close(out)
            os.close(into)


def _directory_of(path: bytes) -> bytes:
    """Return a directory, or that of what is none: no link leads out of the tree."""
    return path if os.path.isdir(path) and not os.path.islink(path) else os.path.dirname(path)


def _rename(one: bytes, other: bytes, change: Change) -> None:
    directory = _directory_of(other)
    os.rename(one, os.path.join(directory, b"moved%d" % (change.fill % 5)))


def _rename_over(one: bytes, other: bytes, _: Change) -> None:
    os.rename(one, other)


def _exchange(one: bytes, other: bytes, _: Change) -> None:
    if _LIBC.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2", one)


def _link(one: bytes, other: bytes, change: Change) -> None:
    directory = _directory_of(other)
    os.link(one, os.path.join(directory, b"link%d" % (change.fill % 5)), follow_symlinks=False)


def _remove(one: bytes, _: bytes, change: Change) -> None:
    del change
    if os.path.isdir(one) and not os.path.islink(one):
        empty_path(Path(os.fsdecode(one)))
        os.rmdir(one)
    else:
        os.unlink(one)


def _replace(one: bytes, _: bytes, change: Change) -> None:
    """Be replaced, as editors do it."""
    beside = os.path.join(os.path.dirname(one), b".new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(beside)
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        os.write(fd, data(change.fill | 1, change.fill % 9000))
    finally:
        os.close(fd)
    os.rename(beside, one)


def _mode(one: bytes, _: bytes, change: Change) -> None:
    if not os.path.islink(one):
        keep = 0 if not os.geteuid() else 0o700
        os.chmod(one, change.fill & 0o7777 | keep)


def _time(one: bytes, _: bytes, change: Change) -> None:
    moment = change.fill * 1_234_567_891
    os.utime(one, ns=(moment, moment), follow_symlinks=False)


def _attribute(one: bytes, _: bytes, change: Change) -> None:
    if change.fill % 3:
        value = b"%d" % change.fill
        os.setxattr(one, b"user.changed=%d" % (change.fill % 2), value, follow_symlinks=False)
    for name in os.listxattr(one, follow_symlinks=False)[: change.fill % 2]:
        os.removexattr(one, name, follow_symlinks=False)


MAKE: dict[str, Callable[[bytes, bytes, Change], None]] = {
    "make": _make,
    "become": _become,
    "rewrite": _rewrite,
    "rewrite quietly": _rewrite_quietly,
    "append": _append,
    "truncate": _truncate,
    "punch": _punch,
    "map": _map,
    "rename": _rename,
    "rename over": _rename_over,
    "exchange": _exchange,
    "link": _link,
    "remove": _remove,
    "replace": _replace,
    "mode": _mode,
    "time": _time,
    "attribute": _attribute,
}
