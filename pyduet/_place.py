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
import re
import secrets
import stat
from collections.abc import Iterator
from typing import Self

#: Links that are followed at most, as by the kernel.
_LINKS = 40
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: For the owner alone.
_MODE = 0o600
#: What is open already.
_OPEN = re.compile(r"/dev/(?:(stdout|stderr)|fd/([0-9]+))", re.ASCII)
NO_FILE = "it is there, and no regular file: name another"
_NOT_OURS = "it is there, and another user's, or has another name: remove it, or name another"
_OTHERS = "others may make files in this directory, and lead elsewhere what is written beside them"
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

    def need_own_directory(self, *, sticky: bool = False) -> bool:
        """Ensure that others make no files there, for who opens more by path than can be held.

        Args:
            sticky: whether they may, where they cannot remove or rename those of others.

        Returns:
            Whether they make none.

        Raises:
            PermissionError: the directory is another user's than root's, or others
                may write in it.

        """
        status = os.fstat(self.fd)
        others = stat.S_IWOTH
        if status.st_gid != os.getegid():
            others |= stat.S_IWGRP
        is_own = status.st_uid in (0, os.geteuid())
        if is_own and not status.st_mode & others:
            return True
        if is_own and sticky and status.st_mode & stat.S_ISVTX:
            return False
        raise PermissionError(errno.EACCES, _OTHERS, os.path.dirname(self.path))

    def path_of(self, name: str) -> str:
        """Return the path of a name in the directory, to be shown."""
        return os.path.join(os.path.dirname(self.path), name)

    def status(self, name: str) -> os.stat_result:
        """Return the status of a name in the directory; a link's own."""
        return os.stat(name, dir_fd=self.fd, follow_symlinks=False)

    def is_in_the_way(self) -> bool:
        """Return whether what has the name is no regular file, which is never replaced."""
        try:
            return not stat.S_ISREG(self.status(self.name).st_mode)
        except FileNotFoundError:
            return False

    def make(self, name: str) -> int:
        """Make a file in the directory, for its owner alone; returns a descriptor of it."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with _named(self.path_of(name)):
            return os.open(name, flags, _MODE, dir_fd=self.fd)

    def open(self, name: str, flags: int = os.O_RDWR) -> int:
        """Open a file of the directory, whatever it is by now; nobody can keep this waiting.

        Args:
            name: of the file.
            flags: of open(2), whether to read or to write.

        Raises:
            OSError: it cannot be opened, or is no regular file.

        """
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with _named(self.path_of(name)):
            if not stat.S_ISREG(self.status(name).st_mode):
                raise OSError(errno.EINVAL, NO_FILE)
            fd = os.open(name, flags, dir_fd=self.fd)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise OSError(errno.EINVAL, NO_FILE)
            return fd

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

    def is_ours(self, status: os.stat_result, *, alone: bool = False) -> bool:
        """Return whether a file of the directory may be written, and removed, as one's own.

        It is of who runs the command, or of whom that makes files for here: not every
        file system keeps owner and permissions (exFAT), and some give what root makes
        to another (NFS, which squashes root). To find that out a file is made, and
        removed; only if need be, since a dry run asks, too. What has another name may
        be anything: who made the name need not own the file.

        Args:
            status: of the file.
            alone: whether it has to have the permissions, too, of what is made here.

        Raises:
            OSError: no file can be made there.

        """
        if status.st_nlink != 1:
            return False
        own = os.geteuid()
        if _owner_and_mode(status) == (own, _MODE) or (status.st_uid == own and not alone):
            return True
        fd, name = self.make_other()
        try:
            made = _owner_and_mode(os.fstat(fd))
        finally:
            os.close(fd)
            self.remove(name)
        return _owner_and_mode(status) == made if alone else status.st_uid == made[0]


def open_to_write(path: str, *, keep: bool = False) -> int:
    """Return a descriptor of a file; one that is not there is made, for its owner alone.

    What is open already can be named as well: ``/dev/stdout``, ``/dev/stderr``
    and ``/dev/fd/N``, as the shell's ``>(...)`` has it.

    Args:
        path: of the file.
        keep: whether to add to what is in it, rather than write it anew.

    Raises:
        OSError: it cannot be written, or is no regular file, or another user's, or
            has another name besides; or as of :class:`Place`.

    """
    if (open_already := _OPEN.fullmatch(path)) is not None:
        names = {"stdout": 1, "stderr": 2}
        with _named(path):
            return os.dup(names.get(open_already[1]) or int(open_already[2]))
    with Place(path) as place:
        try:
            return place.make(place.name)
        except FileExistsError:
            fd = place.open(place.name)
        try:
            _need_ours(fd, place)
            if keep:
                os.lseek(fd, 0, os.SEEK_END)
            else:
                os.ftruncate(fd, 0)
        except BaseException:
            os.close(fd)
            raise
        return fd


def _need_ours(fd: int, place: Place) -> None:
    if not place.is_ours(os.fstat(fd)):
        raise PermissionError(errno.EACCES, _NOT_OURS, place.path)


def replace(path: str, content: bytes, mode: int) -> None:
    """Replace a file at one stroke.

    Args:
        path: of the file.
        content: all of it.
        mode: its permissions.

    Raises:
        OSError: that is not possible; or as of :class:`Place`.

    """
    with Place(path) as place, _named(place.path):
        if place.is_in_the_way():
            raise OSError(errno.EINVAL, NO_FILE)
        fd, name = place.make_other()
        try:
            with open(fd, "wb") as new:
                new.write(content)
                os.fchmod(fd, mode)
            place.rename(name, place.name)
        except BaseException:
            place.remove(name)
            raise


def _owner_and_mode(status: os.stat_result) -> tuple[int, int]:
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
