# SPDX-License-Identifier: MIT
"""The one way to a file: a directory that is held open, and what is below it, never left.

Whoever may write in the tree may rename and replace what is in it at any moment, while root works
there. So nothing below the root is reached by a path that the kernel could lead elsewhere:

- Names are looked up beneath the held root, without following a link, and without crossing a mount
  (``openat2(2)``; where a sandbox forbids that, component by component).
- What was reached is held (``O_PATH``: nothing of a device or a FIFO is opened by that), compared
  with what was found before, by device, inode number, birth time, type and mount, and only then
  opened, through its own descriptor.
- What is known of it (mode, owner, times, attributes) is asked of the descriptor.
"""

import contextlib
import ctypes
import errno
import itertools
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from pyduet.maintenance.files.mounts import mount_with_id
from pyduet.maintenance.files.settled import wait_of
from pyduet.maintenance.files.statx import (
    Identity,
    Status,
    is_mount_at,
    mount_of,
    status_at,
    status_of,
)
from pyduet.maintenance.files.temporary import Temporary, signed
from pyduet.maintenance.work import LeftOut, Problem, ReplacedError, Trouble, problem_of

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.argtypes = [
    ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t,
]  # fmt: skip
#: openat2 of asm-generic/unistd.h: the same on all architectures. struct open_how of
#: linux/openat2.h: flags, mode, resolve.
_SYS_OPENAT2 = 437
_HOW = struct.Struct("=QQQ")
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x01, 0x02, 0x04, 0x08
_RESOLVE = _NO_XDEV | _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH
#: What says that there is no openat2, or that it may not be called (a seccomp filter).
_ABSENT = (errno.ENOSYS, errno.EPERM)
#: How often a lookup that the kernel found racing with a rename is tried.
_TRIES = 128
#: Bytes of a path that the kernel takes at once: PATH_MAX, with its NUL.
_PATH_MAX = 4096
#: Bytes of a path, from which on a directory is not entered: nobody works that deep, and an archive
#: and a ledger have the whole path of each file.
LONGEST = 2 * _PATH_MAX
#: Entries of a directory that are looked at together, in the order of their inodes.
_CHUNK = 4096
#: Seconds that who has a lease on a file gets to let go of it, and until it is looked whether they
#: have: Samba does at once.
_LEASE, _LEASE_STEP = 1.0, 0.01
#: Seconds that all of them may cost together, also those that do in the end.
_LEASES = 30.0
#: File systems that know all of a file without asking anybody.
_LOCAL = ("btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs")


class Found(NamedTuple):
    """Something below the root, as it was when it was found."""

    #: Relative to the root; empty for itself.
    path: str
    status: Status


class Tree:
    """A directory and all below it on its file system; a context manager that lets go of it.

    Attributes:
        path: of the root, as it was given: for messages.
        fd: the root's descriptor.
        root: the root's status when it was opened.

    Thread-safety: may be used from several threads, but :meth:`close`.
    """

    def __init__(self, path: str) -> None:
        """Open the root.

        Args:
            path: of a directory; this path alone may lead over links and mounts.

        Raises:
            OSError: it cannot be opened, or is no directory, or /proc is not mounted.

        """
        self.path = os.path.abspath(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.root = status_of(self.fd)
            _require_proc(self.fd)
            mount = mount_with_id(self.root.mount_id)
        except BaseException:
            self.close()
            raise
        self._is_local = mount is not None and mount.kind in _LOCAL
        self._has_openat2 = True
        self._patience = _LEASES

    def __enter__(self) -> Self:
        """Return the tree itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it; see :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Let go of the root; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def device(self) -> int:
        """The root's device number, as ``st_dev``."""
        return self.root.st_dev

    def is_outside(self, status: Status) -> bool:
        """Return whether something that the walk found is not of this file system.

        A mount point is, and a nested subvolume of btrfs, which is no mount and
        has a device number of its own. (On overlayfs files may have one, too.)
        """
        other = stat.S_ISDIR(status.st_mode) and status.st_dev != self.root.st_dev
        return status.is_mount or other

    # Opening

    def hold(
        self,
        path: str,
        expected: Status | Identity | None = None,
        *,
        start: int | None = None,
    ) -> int:
        """Return an ``O_PATH`` descriptor of anything, links and devices among them.

        fstat(2) and readlink(2) take it (``os.readlink("", dir_fd=fd)``), and for
        attributes there is ``/proc/self/fd/N``, which is the file itself.

        Args:
            path: relative to the root; as long as it likes.
            expected: what was found there.
            start: a directory below the root that the path is relative to instead.

        Raises:
            ReplacedError: it is something else.
            OSError: it cannot be reached; ``filename`` is the path.

        """
        return self._reach(path, os.O_PATH | os.O_NOFOLLOW, expected, start=start)[0]

    def open(
        self,
        path: str,
        expected: Status | Identity | None = None,
        *,
        flags: int = os.O_RDONLY,
        start: int | None = None,
    ) -> int:
        """Open a regular file; without changing its access time, where that is permitted.

        Nobody can keep this waiting: who has a lease on the file (fcntl(2)) is told to let go
        of it, and the file cannot be opened while they do not.

        Args:
            path: relative to the root.
            expected: what was found there.
            flags: of open(2), as ``os.O_RDWR``.
            start: a directory below the root that the path is relative to instead.

        Raises:
            ReplacedError: it is something else, or no regular file.
            OSError: it cannot be opened; ``filename`` is the path.

        """
        held, status = self._reach(path, os.O_PATH | os.O_NOFOLLOW, expected, start=start)
        try:
            if not stat.S_ISREG(status.st_mode):
                raise ReplacedError(path, "it is no regular file")
            return self._open_held(held, path, flags)
        finally:
            os.close(held)

    def open_directory(self, path: str, expected: Status | Identity | None = None) -> int:
        """Open a directory for reading; as :meth:`open`."""
        return self._list(path, expected)[0]

    @contextlib.contextmanager
    def opened(
        self,
        path: str,
        expected: Status | Identity | None = None,
        *,
        flags: int = os.O_RDONLY,
        start: int | None = None,
    ) -> Iterator[int]:
        """Give what :meth:`open` does, and close it."""
        fd = self.open(path, expected, flags=flags, start=start)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def held(
        self,
        path: str,
        expected: Status | Identity | None = None,
        *,
        start: int | None = None,
    ) -> Iterator[int]:
        """Give what :meth:`hold` does, and close it."""
        fd = self.hold(path, expected, start=start)
        try:
            yield fd
        finally:
            os.close(fd)

    def is_gone(self, path: str, expected: Status | Identity) -> bool:
        """Return whether something is not at its path any more; False where that cannot be seen."""
        try:
            os.close(self.hold(path, expected))
        except (FileNotFoundError, NotADirectoryError, ReplacedError):
            return True
        except OSError:
            return False
        return False

    # Walking

    def walk(
        self, trouble: Callable[[Problem], object], left_out: Callable[[LeftOut], object]
    ) -> Iterator[Found]:
        """Yield the root and all below it on its file system, as ``find -xdev`` does.

        A directory comes before what is in it. A directory on which something is
        mounted, and a nested subvolume, comes without what is in it. Nothing is
        opened but directories, and each is listed once: what somebody moves to where
        the walk has not been yet does not come again.

        Args:
            trouble: told of what cannot be looked at; the walk goes on.
            left_out: told of what is not of this file system.

        Raises:
            OSError: the root cannot be listed.
            TargetError: there is no room to remember what was listed.

        """
        waiting = _Waiting()
        listed = _Listed()
        place, identity = "", self.root.identity
        # The directory that was listed last: what is in it is found from there, however deep.
        near: tuple[str, int] | None = None
        try:
            while True:
                try:
                    fd, status = self._list(place, identity, near)
                except OSError as error:
                    if not place:
                        raise
                    yield from self._unlisted(place, identity, error, trouble)
                else:
                    if near is not None:
                        os.close(near[1])
                    near = place, fd
                    if listed.add(status):
                        yield Found(place, status)
                        yield from self._in(place, fd, status, waiting, trouble, left_out)
                following = waiting.take()
                if following is None:
                    return
                place = following[0]
                identity = self.root.identity._replace(ino=following[1], born_ns=following[2])
        finally:
            listed.close()
            if near is not None:
                os.close(near[1])

    def _in(
        self,
        place: str,
        fd: int,
        above: Status,
        waiting: "_Waiting",
        trouble: Callable[[Problem], object],
        left_out: Callable[[LeftOut], object],
    ) -> Iterator[Found]:
        """Yield what is in a directory, but the directories that are to be listed: these wait."""
        is_too_deep = False
        for found in self._entries(place, fd, above, trouble):
            path, status = found
            is_directory = stat.S_ISDIR(status.st_mode)
            if self.is_outside(status):
                left_out(LeftOut(path, "mount-point" if status.is_mount else "subvolume"))
                if is_directory:
                    yield found
            elif not is_directory:
                yield found
            elif len(os.fsencode(path)) <= LONGEST:
                waiting.add(found)
            else:
                yield found
                is_too_deep = True
        if is_too_deep:
            # Once, and not for each of those: anybody can make thousands.
            trouble(Problem(place, Trouble.FAILED, _TOO_DEEP))

    def _unlisted(
        self,
        path: str,
        identity: Identity,
        error: OSError,
        trouble: Callable[[Problem], object],
    ) -> Iterator[Found]:
        """Yield a directory that cannot be listed, and name it, unless it is gone."""
        if isinstance(error, FileNotFoundError):
            return  # it was never part of the work
        if isinstance(error, NotADirectoryError):
            error = ReplacedError(path)
        with contextlib.suppress(OSError):
            fd, status = self._reach(path, os.O_PATH | os.O_NOFOLLOW, identity)
            os.close(fd)
            yield Found(path, status)
        trouble(problem_of(path, error))

    def _list(
        self,
        path: str,
        expected: Status | Identity | None,
        near: tuple[str, int] | None = None,
    ) -> tuple[int, Status]:
        """Open a directory for reading, from another one where it is in that."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        start, rest = self.fd, path
        if near is not None and path.startswith(near[0] + "/"):
            start, rest = near[1], path[len(near[0]) + 1 :]
        try:
            return self._reach(rest, flags | os.O_NOATIME, expected, start=start, name=path)
        except PermissionError:
            return self._reach(path, flags, expected)
        except OSError:
            if start == self.fd:
                raise
            return self._list(path, expected)

    def _entries(
        self, directory: str, fd: int, above: Status, trouble: Callable[[Problem], object]
    ) -> Iterator[Found]:
        """Yield what is in a directory, some thousand at a time in the order of their inodes."""
        is_old = not wait_of(above, time.time_ns())

        def is_as_before() -> bool:
            return is_old and status_of(fd, force=True).st_ctime_ns == above.st_ctime_ns

        try:
            with os.scandir(fd) as listing:
                while some := list(itertools.islice(listing, _CHUNK)):
                    for entry in sorted(some, key=os.DirEntry.inode):
                        path = f"{directory}/{entry.name}" if directory else entry.name
                        try:
                            status = self._look(fd, entry, above)
                        except FileNotFoundError:
                            # Else it was never part of the work.
                            if is_as_before():
                                trouble(Problem(path, Trouble.DAMAGED, _GHOST))
                        except OSError as error:
                            trouble(problem_of(path, error))
                        else:
                            yield Found(path, status)
        except OSError as error:
            trouble(problem_of(directory, error))

    def _look(self, fd: int, entry: os.DirEntry[str], above: Status) -> Status:
        """Return the status of a directory's entry; who has mounted something there is not asked.

        The server of a mount may be gone, or a user's program that never answers.
        """
        try:
            status = status_at(fd, entry.name, sync=False)
            if self._is_local or status.is_mount:
                return status
            return status_at(fd, entry.name)
        except FileNotFoundError:
            raise
        except OSError:
            # A user's FUSE file system tells nobody else, not even root, more than this.
            if not is_mount_at(fd, entry.name):
                raise
        is_directory = entry.is_dir(follow_symlinks=False)
        return above._replace(
            st_mode=stat.S_IFDIR | 0o700 if is_directory else stat.S_IFREG | 0o600,
            st_ino=entry.inode(),
            st_birthtime_ns=0,
            is_mount=True,
        )

    # Lookup

    def _reach(
        self,
        path: str,
        flags: int,
        expected: Status | Identity | None,
        *,
        start: int | None = None,
        name: str | None = None,
    ) -> tuple[int, Status]:
        """Return a descriptor of what is at a path beneath a directory, and what statx tells of it.

        Args:
            path: relative to the directory.
            flags: of open(2); links are not followed, whatever they say.
            expected: what was found there.
            start: the directory's descriptor; None for the root.
            name: the path from the root, for messages.

        Raises:
            ReplacedError: it is not what is expected.
            OSError: it cannot be reached.

        """
        name = (path if name is None else name) or self.path
        try:
            fd = self._beneath(self.fd if start is None else start, os.fsencode(path), flags)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise OSError(errno.EXDEV, _MOUNTED, name) from error
            if error.errno == errno.ELOOP:
                raise OSError(errno.ENOTDIR, _LINK, name) from error
            raise OSError(error.errno, error.strerror, name) from error
        try:
            return fd, self._compared(fd, name, expected)
        except BaseException:
            os.close(fd)
            raise

    def _compared(self, fd: int, name: str, expected: Status | Identity | None) -> Status:
        now = status_of(fd)
        if now.mount_id != self.root.mount_id:
            raise OSError(errno.EXDEV, _MOUNTED, name)
        if isinstance(expected, Status):
            expected = expected.identity
        if expected is not None and now.identity != expected:
            raise ReplacedError(name)
        return now

    def _beneath(self, start: int, path: bytes, flags: int) -> int:
        flags |= os.O_CLOEXEC
        if not path:
            return self._openat2(start, b".", flags)
        held: int | None = None
        try:
            for part, is_last in _parts(path):
                through = flags if is_last else os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                fd = self._openat2(start if held is None else held, part, through)
                if held is not None:
                    os.close(held)
                held = fd
            assert held is not None  # noqa: S101 - a path has a part
            found, held = held, None
            return found
        finally:
            if held is not None:
                os.close(held)

    def _openat2(self, start: int, path: bytes, flags: int) -> int:
        how = _HOW.pack(flags, 0, _RESOLVE)
        for _ in range(_TRIES):
            if not self._has_openat2:
                return self._step_by_step(start, path, flags)
            fd = int(_LIBC.syscall(_SYS_OPENAT2, start, path, how, _HOW.size))
            if fd >= 0:
                return fd
            number = ctypes.get_errno()
            if number in _ABSENT and not self._works():
                self._has_openat2 = False
            elif number not in (errno.EAGAIN, errno.EINTR):
                raise OSError(number, os.strerror(number))
        raise OSError(errno.EAGAIN, "somebody kept renaming the directories that lead to it")

    def _works(self) -> bool:
        """Return whether openat2 can be called: EPERM may also be said of a file."""
        how = _HOW.pack(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE)
        fd = int(_LIBC.syscall(_SYS_OPENAT2, self.fd, b".", how, _HOW.size))
        if fd < 0:
            return False
        os.close(fd)
        return True

    def _step_by_step(self, start: int, path: bytes, flags: int) -> int:
        """Look a path up as openat2 would: no link, no mount, nothing above."""
        held = os.dup(start)
        try:
            for name in path.split(b"/"):
                if name == b"..":
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                # Nothing is opened, nor is anybody asked, before it is known to be no mount: its
                # server may be a user's program that never answers.
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
                os.close(held)
                held = fd
                if mount_of(held) != self.root.mount_id:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            if not flags & os.O_PATH:
                return os.open(f"/proc/self/fd/{held}", flags & ~os.O_NOFOLLOW)
            found, held = held, -1
            return found
        finally:
            if held >= 0:
                os.close(held)

    def _open_held(self, held: int, path: str, flags: int) -> int:
        flags |= os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        # Its own descriptor leads to the file itself, whatever became of its name.
        own = f"/proc/self/fd/{held}"
        waited = 0.0
        while True:
            try:
                try:
                    return os.open(own, flags | os.O_NOATIME)
                except PermissionError:
                    return os.open(own, flags)
            except BlockingIOError as error:
                if waited >= _LEASE or self._patience <= 0:
                    raise OSError(errno.EAGAIN, _LEASED, path) from error
                time.sleep(_LEASE_STEP)
                waited += _LEASE_STEP
                self._patience -= _LEASE_STEP
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from error


class _Waiting:
    """Directories that are to be listed, the last one first; in some 30 bytes for each.

    What waits is in a directory that leads to the one that was taken last, or in that one itself:
    so names are enough.
    """

    def __init__(self) -> None:
        self._last = b""
        #: For each such directory the length of its path, and what waits in it.
        self._levels: list[tuple[int, bytearray]] = []
        self._is_new = True

    def add(self, found: Found) -> None:
        """Add a directory that is in the one that was taken last."""
        if self._is_new:
            self._levels.append((len(self._last), bytearray()))
            self._is_new = False
        name = os.fsencode(found.path)[len(self._last) :]
        status = found.status
        born = divmod(status.st_birthtime_ns, 10**9)
        self._levels[-1][1].extend(name + _INODE.pack(status.st_ino, *born, len(name)))

    def take(self) -> tuple[str, int, int] | None:
        """Take out the last one: its path, inode number and time of birth; None when all are."""
        while self._levels and not self._levels[-1][1]:
            self._levels.pop()
        if not self._levels:
            return None
        length, waiting = self._levels[-1]
        ino, born, born_ns, size = _INODE.unpack_from(waiting, len(waiting) - _INODE.size)
        end = len(waiting) - _INODE.size
        self._last = self._last[:length] + waiting[end - size : end]
        del waiting[end - size :]
        path = os.fsdecode(self._last)
        self._last += b"/"
        self._is_new = True
        return path, ino, born * 10**9 + born_ns


class _Listed:
    """Directories that were listed, on the disk; each is known by its inode."""

    def __init__(self) -> None:
        self._data = Temporary()
        self._data.execute(
            "create table listed (ino integer, born integer, born_ns integer, "
            "primary key (ino, born, born_ns)) without rowid"
        )

    def close(self) -> None:
        self._data.close()

    def add(self, status: Status) -> bool:
        """Add a directory; return whether it is new."""
        added = self._data.execute(
            "insert or ignore into listed values (?, ?, ?)",
            (signed(status.st_ino), *divmod(status.st_birthtime_ns, 10**9)),
        )
        return added.rowcount == 1


def _require_proc(fd: int) -> None:
    """Ensure that a descriptor can be opened anew through /proc.

    Raises:
        OSError: it is not mounted.

    """
    try:
        os.stat(f"/proc/self/fd/{fd}")
    except OSError as error:
        raise OSError(error.errno, _NO_PROC, "/proc") from error


#: Inode number, time of birth, and the length of the name before it.
_INODE = struct.Struct("=QqIH")
_MOUNTED = "something is mounted over it"
_LINK = "a symbolic link is there, or on the way to it"
_LEASED = "a process has a lease on it, and does not let go when another opens it"
_GHOST = "it is listed, and not there: its directory may be damaged; check the file system"
_NO_PROC = "it is not mounted, and files are opened through it: mount it"
_TOO_DEEP = f"paths of directories in it are longer than {LONGEST:,} bytes: these were not entered"


def _parts(path: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield a path in parts that the kernel takes, with whether each is the last."""
    while len(path) >= _PATH_MAX:
        cut = path.rfind(b"/", 0, _PATH_MAX - 1)
        if cut < 0:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        yield path[:cut], False
        path = path[cut + 1 :]
    yield path, True
