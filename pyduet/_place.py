# SPDX-License-Identifier: MIT
"""Where a file is to be written: a name in a directory that is held open.

Who runs a command may name a file where others make names, too: below /tmp, or in their homes. So
it is not the kernel that looks the path up, which would go wherever their links lead:

- A link is followed if it is root's, or of who runs the command. It does not count where it lies.
- The directory is held, and the file is made, renamed and removed in it, whatever its path leads to
  by then.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from typing import Self

#: Links that are followed at most, as by the kernel.
_LINKS = 40
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: For the owner alone.
_MODE = 0o600
_ANOTHERS = "this link is another user's, and may lead anywhere: name what it leads to"


class Place:
    """A name in a directory; a context manager that lets go of the directory.

    Attributes:
        path: of the file, without links: to be shown, and to be known again.
        name: of the file, in the directory.
        fd: the directory's descriptor, for ``dir_fd``; an ``O_PATH`` one.

    Thread-safety: may be used from several threads, but :meth:`close`.
    """

    def __init__(self, path: str) -> None:
        """Find the directory, and hold it.

        Args:
            path: of the file, which need not be there.

        Raises:
            PermissionError: a link of another user leads there.
            OSError: there is no such directory, or the path is one of a directory.

        """
        self.fd, self.path = _found(path)
        self.name = os.path.basename(self.path)

    def __enter__(self) -> Self:
        """Return the place itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of the directory; see :meth:`close`."""
        self.close()

    def close(self) -> None:
        """Let go of the directory; a second call does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def status(self, name: str) -> os.stat_result:
        """Return the status of a name in the directory; a link's own."""
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def make(self, name: str) -> int:
        """Make a file in the directory, for its owner alone; returns a descriptor of it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, _MODE, dir_fd=self.fd)

    def make_other(self) -> tuple[int, str]:
        """Make a file of a name that nobody has; as :meth:`make`, with the name."""
        name = f".duet-{secrets.token_hex(8)}"
        return self.make(name), name

    def rename(self, name: str, to: str) -> None:
        """Rename a file in the directory, over another one if there is one."""
        os.rename(name, to, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def remove(self, name: str) -> None:
        """Remove a file from the directory."""
        os.unlink(name, dir_fd=self.fd)

    def sync(self) -> None:
        """Have the directory's names on the disk."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def made_like(self, status: os.stat_result) -> tuple[int, int]:
        """Return the owner and the permissions of what is made here.

        Not every file system keeps them (exFAT), and some give what root makes to
        another (NFS): so a file is made, and removed, unless one is there that has
        those that are asked for.

        Args:
            status: of a file that is there.

        """
        if owner_and_mode(status) == (os.geteuid(), _MODE):
            return owner_and_mode(status)
        fd, name = self.make_other()
        try:
            return owner_and_mode(os.fstat(fd))
        finally:
            os.close(fd)
            self.remove(name)


def owner_and_mode(status: os.stat_result) -> tuple[int, int]:
    """Return the owner and the permissions of a file."""
    return status.st_uid, stat.S_IMODE(status.st_mode)


def _found(path: str) -> tuple[int, str]:
    """Return a descriptor of the directory that a path's last name is in, and the path to that."""
    left = os.path.join(os.getcwd(), path).split("/")[::-1]
    above: list[str] = []
    links = 0
    held = os.open("/", _DIRECTORY)
    try:
        while left:
            name = left.pop()
            if name in ("", "."):
                continue
            at = "/" + "/".join([*above, name])
            target = _target(held, name, at)
            if target is not None:
                links += 1
                if links > _LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                left += target.split("/")[::-1]
                if not target.startswith("/"):
                    continue
                name = "/"
            elif not left and name != "..":
                found, held = held, -1
                return found, at
            with _named(at):
                fd = os.open(name, _DIRECTORY, dir_fd=held)
            os.close(held)
            held = fd
            above = [] if name == "/" else above[:-1] if name == ".." else [*above, name]
    finally:
        if held >= 0:
            os.close(held)
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)


def _target(directory: int, name: str, path: str) -> str | None:
    """Return where a link leads; None if there is none.

    It is opened itself, and then asked whose it is and where it leads: nobody can exchange it
    between.
    """
    try:
        with _named(path):
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISLNK(status.st_mode):
            return None
        if status.st_uid not in (0, os.geteuid()):
            raise PermissionError(errno.EACCES, _ANOTHERS, path)
        return os.readlink("", dir_fd=fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Have errors name a path."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
