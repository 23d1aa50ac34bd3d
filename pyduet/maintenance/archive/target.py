# SPDX-License-Identifier: MIT
"""Where a restore writes: a directory, in parts of which users may rename and replace meanwhile.

A part of the tree is a user's as soon as it has been given back to them. So nothing is believed to
be what its name says:

- What is made anew and gets an owner is made in a directory of the restore's own, which nobody
  else can write in, gets all that is its own there, and is renamed to its place when it has it.
- Which directory was made or found at a path is remembered, and it has to be that one whenever
  something is to be done in it, or with it. So is a file that gets a further name.
- What is removed is looked up in the directory that is held, and nothing that is mounted is asked.
"""

import contextlib
import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Self

from pyduet.maintenance.archive import attributes
from pyduet.maintenance.files.statx import Identity, Status, is_mount_at, status_at, status_of
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.work import Problem, ReplacedError, problem_of

_LIBC = ctypes.CDLL(None, use_errno=True)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_HELD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: Bits of a mode by which others than the owner may write in a directory.
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
#: What is made in a directory of the restore's own is called so until it is renamed.
NEW = "new"


class Target:
    """The directory to restore into; a context manager that lets go of it.

    Attributes:
        archives: files that are never removed, since they are restored from.

    Thread-safety: none.
    """

    def __init__(
        self,
        path: str,
        archives: Collection[Identity],
        named: Callable[[Problem], object],
        removed: Callable[[], object],
    ) -> None:
        """Open it; it is made if it is not there.

        Args:
            path: of the directory.
            archives: files that are never removed, since they are restored from.
            named: told of what could not be removed.
            removed: called for each name that was.

        Raises:
            OSError: it cannot be made or opened, or was replaced when it had been made.

        """
        is_new = True
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            is_new = False
        self.tree = Tree(path)
        if is_new and not _is_own(self.tree.fd):
            self.close()
            raise ReplacedError(path)
        self.archives = frozenset(archives)
        self._named = named
        self._removed = removed
        #: What was made or found at a path: of directories, and of files that get further names.
        self._known = {"": self.tree.root.identity}
        self._ours = {self.tree.root.identity}
        #: Directories that were found, and that others may have put there: who alone it can have
        #: been; None where it may be anybody.
        self._doubtful: dict[str, int | None] = {}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self.close()

    def close(self) -> None:
        """Let go of it; a second call does nothing."""
        self.tree.close()

    def is_empty(self) -> bool:
        """Return whether nothing is in it."""
        with os.scandir(self.tree.fd) as entries:
            return next(entries, None) is None

    def sync(self) -> None:
        """Have all of it on the disk: of its file system alone, as others may be a user's program.

        Raises:
            OSError: something could not be written.

        """
        if _LIBC.syncfs(self.tree.fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), self.tree.path)

    # Directories

    def open(self, path: str) -> int:
        """Open a directory that was made or found, and make it one's own to write in.

        Raises:
            ReplacedError: it is another one by now.
            OSError: it cannot be opened, or was not restored.

        """
        known = self._known.get(path)
        if known is None:
            raise OSError(errno.ENOENT, "its directory was not restored", path)
        with self.tree.held(path, known) as held:
            return _opened(held)

    @contextlib.contextmanager
    def above(self, path: str) -> Iterator[tuple[int, str]]:
        """Give the directory that something is to be in, and its name there; as :meth:`open`."""
        place, _, name = path.rpartition("/")
        fd = self.open(place)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def make_directory(self, path: str) -> bool:
        """Make a directory, or find the one that is there; another thing there is removed.

        Returns:
            False where something is mounted.

        Raises:
            ReplacedError: it is another directory than before.
            OSError: it cannot be made.

        """
        with self.above(path) as (directory, name):
            there = look(directory, name)
            if there is not None and there.is_mount:
                return False
            if there is not None and stat.S_ISDIR(there.st_mode):
                self._find(directory, path, there)
                return True
            self.clear(directory, name, path)
            with self.placed(directory, name) as own:
                os.mkdir(NEW, stat.S_IRWXU, dir_fd=own)
                made = status_at(own, NEW).identity
            self._know(path, made)
        return True

    def _find(self, directory: int, path: str, there: Status) -> None:
        """Remember a directory that is there, and who may have put it there."""
        known = self._known.get(path)
        if known == there.identity:
            return
        if known is not None or there.identity in self._ours:
            raise ReplacedError(path)
        self._know(path, there.identity)
        above = status_of(directory)
        who: int | None = above.st_uid
        if above.st_mode & _OTHERS_WRITE:
            # With the sticky bit each moves what is theirs.
            who = there.st_uid if above.st_mode & stat.S_ISVTX else None
        if who not in (0, os.geteuid()):
            self._doubtful[path] = who
        elif path.rpartition("/")[0] in self._doubtful:
            self._doubtful[path] = None

    def may_be_given(self, path: str, owner: int, status: Status) -> bool:
        """Return whether a directory may get an owner, and all else that the archive has for it.

        A user may have put there before what is another's, to be given it. What was
        theirs before, where they alone put it, they may have as they like.

        Args:
            path: of the directory.
            owner: who is to have it.
            status: of the directory.

        """
        return path not in self._doubtful or self._doubtful[path] == status.st_uid == owner

    # Files

    def remember(self, path: str, fd: int) -> None:
        """Remember a file that was restored, since it gets further names."""
        self._know(path, status_of(fd).identity)

    @contextlib.contextmanager
    def remembered(self, path: str) -> Iterator[int]:
        """Hold a file that was remembered.

        Raises:
            ReplacedError: it is another one by now.
            OSError: it was not restored, or cannot be reached.

        """
        known = self._known.get(path)
        if known is None:
            raise OSError(errno.ENOENT, f"{path}, of which it is another name, was not restored")
        with self.tree.held(path, known) as held:
            yield held

    @contextlib.contextmanager
    def placed(self, directory: int, name: str) -> Iterator[int]:
        """Give a directory of one's own, and rename what is made in it, as ``new``, to its place.

        It is in the same directory as that place: so it is on the same file system, of the same
        project and with the same encryption, without which nothing can be renamed.

        Args:
            directory: a descriptor.
            name: in it.

        Raises:
            ReplacedError: somebody replaced the directory when it had been made.
            OSError: it cannot be made, or what is in it cannot be renamed.

        """
        place = f".duet-restore.{secrets.token_hex(8)}"
        os.mkdir(place, 0o700, dir_fd=directory)
        try:
            with self.tree.held(place, start=directory) as own:
                if not _is_own(own):
                    raise ReplacedError(place)
                try:
                    yield own
                    os.rename(NEW, name, src_dir_fd=own, dst_dir_fd=directory)
                except BaseException:
                    _remove_new(own)
                    raise
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(place, dir_fd=directory)

    # Making room

    def clear(self, directory: int, name: str, path: str) -> None:
        """Remove what has a name in a directory, if anything does, with all that is in it.

        Never what is mounted, or a subvolume, or an archive that is restored from, or
        what has one of these in it: that is named, and all else that is in a directory
        is removed.

        Args:
            directory: a descriptor.
            name: in it.
            path: of the name, from the root.

        Raises:
            ReplacedError: it is not what was made or found there, or was moved meanwhile.
            OSError: it cannot be removed.

        """
        # However deep it goes, one directory is held. The way back is "..", which has to be the
        # directory that it was.
        here, place = os.dup(directory), path[: -len(name)]
        todo: list[tuple[str, Identity | None]] = [(name, None)]
        try:
            while todo:
                name, above = todo.pop()
                if above is not None:
                    back = _back(here, above, place)
                    os.close(here)
                    here, place = back, place[: -len(name) - 1]
                try:
                    if above is not None:
                        os.rmdir(name, dir_fd=here)
                    elif (entered := self._remove(here, name, place + name)) is not None:
                        todo.append((name, status_of(here).identity))
                        os.close(here)
                        here, names = entered
                        place += name + "/"
                        todo += [(one, None) for one in names]
                        continue
                except OSError as error:
                    if not todo:
                        raise
                    self._named(problem_of(place + name, error))
                else:
                    self._forget(place + name)
                    if todo:
                        self._removed()
        finally:
            os.close(here)

    def remove_others(self, fd: int, path: str, names: Mapping[bytes, bool]) -> None:
        """Remove what is in a directory and not among names, or another kind of thing than there.

        What is mounted there stays, if it is among them. So do sockets, which no
        archive has: somebody may listen.

        Args:
            fd: of the directory.
            path: of it, from the root.
            names: and whether each is a directory.

        """
        for name in os.listdir(fd):
            one = f"{path}/{name}" if path else name
            try:
                there = look(fd, name)
                if there is None or stat.S_ISSOCK(there.st_mode):
                    continue
                is_directory = names.get(os.fsencode(name))
                if is_directory is not None and (
                    there.is_mount or is_directory == stat.S_ISDIR(there.st_mode)
                ):
                    continue
                self.clear(fd, name, one)
                self._removed()
            except OSError as error:
                self._named(problem_of(one, error))

    def _remove(self, directory: int, name: str, path: str) -> tuple[int, list[str]] | None:
        """Remove a name; a directory is opened instead, and returned with what is in it."""
        there = look(directory, name)
        if there is None:
            return None
        if self.tree.is_outside(there):
            raise kept(path)
        if there.identity in self.archives:
            words = "it was not removed: it is an archive that is restored from; move it elsewhere"
            raise OSError(errno.EBUSY, words, path)
        if not stat.S_ISDIR(there.st_mode):
            try:
                os.unlink(name, dir_fd=directory)
            except PermissionError:
                if not stat.S_ISREG(there.st_mode):
                    raise
                with self.tree.opened(name, there, start=directory) as fd:
                    attributes.release(fd)
                os.unlink(name, dir_fd=directory)
            return None
        known = self._known.get(path)
        if known != there.identity and (known is not None or there.identity in self._ours):
            raise ReplacedError(path)
        with self.tree.held(name, there, start=directory) as held:
            fd = _opened(held)
        try:
            attributes.release(fd)
            return fd, os.listdir(fd)
        except BaseException:
            os.close(fd)
            raise

    def _know(self, path: str, identity: Identity) -> None:
        self._forget(path)
        self._known[path] = identity
        self._ours.add(identity)

    def _forget(self, path: str) -> None:
        known = self._known.pop(path, None)
        if known is not None:
            self._ours.discard(known)
        self._doubtful.pop(path, None)


def look(directory: int, name: str) -> Status | None:
    """Return the status of a name in an open directory; None if nothing has it.

    Who has mounted something there is not asked: a user's program may never answer.

    Raises:
        OSError: as of statx(2).

    """
    try:
        return status_at(directory, name, sync=False)
    except FileNotFoundError:
        return None
    except OSError:
        # A user's FUSE file system tells nobody else, not even root, more than this.
        if not is_mount_at(directory, name):
            raise
        return status_of(directory)._replace(is_mount=True)


def kept(path: str) -> OSError:
    """Return what says that something was not removed, since that is never removed."""
    words = "it was not removed: a file system is mounted there, or it is a subvolume"
    return OSError(errno.EXDEV, words, path)


def _opened(held: int) -> int:
    """Open a directory that is held, and make it one's own to write in."""
    own = f"/proc/self/fd/{held}"
    try:
        fd = os.open(own, _DIRECTORY)
    except PermissionError:
        os.chmod(own, stat.S_IRWXU)
        fd = os.open(own, _DIRECTORY)
    mode = os.fstat(fd).st_mode
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        # Who is not its owner is root, or is told when it is written in.
        with contextlib.suppress(PermissionError):
            os.fchmod(fd, stat.S_IMODE(mode) | stat.S_IRWXU)
    return fd


def _back(fd: int, above: Identity, path: str) -> int:
    """Hold the directory above one, which has to be what it was."""
    held = os.open("..", _HELD, dir_fd=fd)
    if status_of(held).identity != above:
        os.close(held)
        raise ReplacedError(path[:-1], "it was moved while what is in it was removed")
    return held


def _is_own(directory: int) -> bool:
    """Return whether a directory that is held can be the one that was just made, for its owner.

    Others who have put theirs in its place can be told by its owner, or by its mode.
    """
    there = status_of(directory)
    if there.st_uid == os.geteuid() and not there.st_mode & _OTHERS_WRITE:
        return True
    # Some file systems give all to one owner, or have one mode for all: so they do with this.
    fd = os.open(NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        os.unlink(NEW, dir_fd=directory)
        like = status_of(fd)
    finally:
        os.close(fd)
    shared = there.st_mode & _OTHERS_WRITE
    return there.st_uid == like.st_uid and (not shared or bool(like.st_mode & _OTHERS_WRITE))


def _remove_new(directory: int) -> None:
    for remove in (os.unlink, os.rmdir):
        with contextlib.suppress(OSError):
            remove(NEW, dir_fd=directory)
