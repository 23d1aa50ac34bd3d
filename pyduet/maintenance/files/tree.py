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
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from pyduet.maintenance.files.mounts import mount_with_id
from pyduet.maintenance.files.statx import Identity, Status, status_at, status_of
from pyduet.maintenance.frame.work import LeftOut, Problem, ReplacedError, Trouble, problem_of

_LIBC = ctypes.CDLL(None, use_errno=True)
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
#: Bytes of a path, from which on a directory is named and not entered: nobody works that deep, and
#: the paths of all files there would take the square of it.
LONGEST = 8 * _PATH_MAX
#: Entries of a directory that are looked at together, in the order of their inodes.
_CHUNK = 4096
#: File systems of which each question may go to another host.
_REMOTE = ("9p", "afs", "ceph", "cifs", "fuse", "nfs", "nfs4", "smb3")


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

    Thread-safety: may be used from several threads, but :meth:`walk` and
    :meth:`close`.
    """

    def __init__(self, path: str) -> None:
        """Open the root.

        Args:
            path: of a directory; this path alone may lead over links and mounts.

        Raises:
            OSError: it cannot be opened, or is no directory.

        """
        self.path = os.path.abspath(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.root = status_of(self.fd)
        self._has_openat2 = True
        mount = mount_with_id(self.root.mount_id)
        kind = mount.kind.partition(".")[0] if mount else "fuse"
        self._sync = kind in _REMOTE
        # The directory that was listed last: what is in it is found from there, however deep.
        self._last: tuple[str, int] | None = None

    def __enter__(self) -> Self:
        """Return the tree itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it; see :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Let go of the root; a second call does nothing."""
        self._remember(None)
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

    def hold(self, path: str, expected: Status | Identity | None = None) -> int:
        """Return an ``O_PATH`` descriptor of anything, links and devices among them.

        fstat(2) and readlink(2) take it (``os.readlink("", dir_fd=fd)``), and for
        attributes there is ``/proc/self/fd/N``, which is the file itself.

        Args:
            path: relative to the root; as long as it likes.
            expected: what was found there.

        Raises:
            ReplacedError: it is something else.
            OSError: it cannot be reached; ``filename`` is the path.

        """
        return self._reach(path, os.O_PATH | os.O_NOFOLLOW, expected)

    def open(
        self, path: str, expected: Status | Identity | None = None, *, flags: int = os.O_RDONLY
    ) -> int:
        """Open a regular file; without changing its access time, where that is permitted.

        Args:
            path: relative to the root.
            expected: what was found there.
            flags: of open(2), as ``os.O_RDWR``.

        Raises:
            ReplacedError: it is something else, or no regular file.
            OSError: it cannot be opened; ``filename`` is the path.

        """
        held = self.hold(path, expected)
        try:
            if not stat.S_ISREG(status_of(held).st_mode):
                raise ReplacedError(path, "it is no regular file")
            return self._open_held(held, path, flags)
        finally:
            os.close(held)

    def open_directory(self, path: str, expected: Status | Identity | None = None) -> int:
        """Open a directory for reading; as :meth:`open`."""
        return self._reach(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, expected)

    @contextlib.contextmanager
    def opened(
        self, path: str, expected: Status | Identity | None = None, *, flags: int = os.O_RDONLY
    ) -> Iterator[int]:
        """Give what :meth:`open` does, and close it."""
        fd = self.open(path, expected, flags=flags)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def held(self, path: str, expected: Status | Identity | None = None) -> Iterator[int]:
        """Give what :meth:`hold` does, and close it."""
        fd = self.hold(path, expected)
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
        opened but directories.

        Args:
            trouble: told of what cannot be looked at; the walk goes on.
            left_out: told of what is not of this file system.

        Raises:
            OSError: the root cannot be listed.

        """
        yield Found("", status_of(self.fd))
        waiting: list[tuple[str, Status]] = [("", self.root)]
        while waiting:
            directory, expected = waiting.pop()
            try:
                listing = self._list(directory, expected)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it was never part of the work
            except OSError as error:
                if not directory:
                    raise
                if not isinstance(error, ReplacedError):
                    yield Found(directory, expected)
                trouble(problem_of(directory, error))
                continue
            try:
                if directory:
                    yield Found(directory, status_of(listing))
                for found in self._entries(directory, listing, trouble):
                    status = found.status
                    if self.is_outside(status):
                        kind = "mount-point" if status.is_mount else "subvolume"
                        left_out(LeftOut(found.path, kind))
                        if stat.S_ISDIR(status.st_mode):
                            yield found
                    elif not stat.S_ISDIR(status.st_mode):
                        yield found
                    elif len(os.fsencode(found.path)) > LONGEST:
                        yield found
                        trouble(Problem(found.path, Trouble.FAILED, _TOO_DEEP))
                    else:
                        waiting.append((found.path, status))
            finally:
                os.close(listing)

    def _list(self, directory: str, expected: Status) -> int:
        """Open a directory of the walk, from the last one where it is in that."""
        if self._last is not None:
            place, fd = self._last
            if directory.startswith(place + "/"):
                rest = directory[len(place) + 1 :]
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                with contextlib.suppress(OSError):
                    opened = self._reach(rest, flags, expected, start=fd, name=directory)
                    self._remember(directory, opened)
                    return opened
        opened = self.open_directory(directory, expected)
        self._remember(directory, opened)
        return opened

    def _remember(self, directory: str | None, fd: int = -1) -> None:
        if self._last is not None:
            os.close(self._last[1])
        self._last = (directory, os.dup(fd)) if directory else None

    def _entries(
        self, directory: str, fd: int, trouble: Callable[[Problem], object]
    ) -> Iterator[Found]:
        """Yield what is in a directory, some thousand at a time in the order of their inodes."""
        try:
            with os.scandir(fd) as listing:
                while some := list(itertools.islice(listing, _CHUNK)):
                    for entry in sorted(some, key=os.DirEntry.inode):
                        path = f"{directory}/{entry.name}" if directory else entry.name
                        try:
                            status = status_at(fd, entry.name, sync=self._sync)
                        except FileNotFoundError:
                            continue  # it was never part of the work
                        except OSError as error:
                            trouble(problem_of(path, error))
                            continue
                        yield Found(path, status)
        except OSError as error:
            trouble(problem_of(directory, error))

    # Lookup

    def _reach(
        self,
        path: str,
        flags: int,
        expected: Status | Identity | None,
        *,
        start: int | None = None,
        name: str | None = None,
    ) -> int:
        """Return a descriptor of what is at a path beneath a directory, if it is what is expected.

        Args:
            path: relative to the directory.
            flags: of open(2); links are not followed, whatever they say.
            expected: what was found there.
            start: the directory's descriptor; None for the root.
            name: the path from the root, for messages.

        """
        name = path if name is None else name
        try:
            fd = self._beneath(self.fd if start is None else start, os.fsencode(path), flags)
        except OSError as error:
            if error.errno == errno.EXDEV:
                raise OSError(errno.EXDEV, _MOUNTED, name) from error
            if error.errno == errno.ELOOP:
                raise ReplacedError(name, "a symbolic link is on the way to it") from error
            raise OSError(error.errno, error.strerror, name) from error
        try:
            self._compare(fd, name, expected)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _compare(self, fd: int, name: str, expected: Status | Identity | None) -> None:
        now = status_of(fd)
        if now.mount_id != self.root.mount_id:
            raise OSError(errno.EXDEV, _MOUNTED, name)
        if isinstance(expected, Status):
            expected = expected.identity
        if expected is not None and now.identity != expected:
            raise ReplacedError(name)

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
            names = path.split(b"/")
            for number, name in enumerate(names):
                if name == b"..":
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                is_last = number == len(names) - 1
                through = flags if is_last else os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                fd = os.open(name, through | os.O_NOFOLLOW, dir_fd=held)
                os.close(held)
                held = fd
                if status_of(held).mount_id != self.root.mount_id:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
            found, held = held, -1
            return found
        finally:
            if held >= 0:
                os.close(held)

    def _open_held(self, held: int, path: str, flags: int) -> int:
        flags |= os.O_CLOEXEC | os.O_NOCTTY
        # Its own descriptor leads to the file itself, whatever became of its name.
        own = f"/proc/self/fd/{held}"
        try:
            try:
                return os.open(own, flags | os.O_NOATIME)
            except PermissionError:
                return os.open(own, flags)
        except FileNotFoundError as error:
            raise OSError(errno.ENOENT, "/proc is not mounted, or it is gone", path) from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error


_MOUNTED = "something is mounted over it"
_TOO_DEEP = f"its path is longer than {LONGEST:,} bytes: what is in it was left out"


def _parts(path: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield a path in parts that the kernel takes, with whether each is the last."""
    while len(path) >= _PATH_MAX:
        cut = path.rindex(b"/", 0, _PATH_MAX - 1)
        yield path[:cut], False
        path = path[cut + 1 :]
    yield path, True
