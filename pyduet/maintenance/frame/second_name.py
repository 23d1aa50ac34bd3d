# SPDX-License-Identifier: MIT
"""A ledger's file in a directory where others make files, too, as ``/tmp``.

SQLite looks for a journal by path, beside the file: takes back what is in it, and removes what that
names. So there the file has a second name, in a directory of its own beside it, and SQLite opens
it by that. Its first name is as good as anywhere: in a sticky directory nobody else may exchange
it.
"""

import contextlib
import errno
import fcntl
import os
import stat

from pyduet._place import Place

_SUFFIX = ".private"
_NAME = "ledger"
#: What SQLite makes beside it, and removes; after a crash it is what has to be taken back.
_BESIDE = tuple(_NAME + suffix for suffix in ("-journal", "-wal", "-shm"))
_IN_THE_WAY = "it is in the way, and not a directory of yours alone: remove it"
_NOT_OURS = "it is another user's, or no regular file: remove it"


class SecondName:
    """The second name of a file, for as long as that is open.

    Attributes:
        path: the second name.

    Thread-safety: none.
    """

    def __init__(self, place: Place) -> None:
        """Give a file that is there its second name.

        Args:
            place: its first name, in a sticky directory; stays the caller's.

        Raises:
            OSError: that is not possible, or the file is another user's.

        """
        self._first, self._beside = place.name, place.name + _SUFFIX
        self._above = os.dup(place.fd)
        self._fd = -1
        try:
            self._fd = self._held(place.path_of(self._beside))
            self._link(place.path)
        except BaseException:
            self.close()
            raise
        self.path = os.path.join(place.path_of(self._beside), _NAME)

    def close(self) -> None:
        """Take the second name away, unless a journal is left or another process uses it."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.listdir(self._fd) in ([], [_NAME]):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(_NAME, dir_fd=self._fd)
                    os.rmdir(self._beside, dir_fd=self._above)
            os.close(self._fd)
            self._fd = -1
        if self._above >= 0:
            os.close(self._above)
            self._above = -1

    def _held(self, path: str) -> int:
        """Return a descriptor of the directory, which is made if it is not there."""
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._beside, 0o700, dir_fd=self._above)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                fd = os.open(self._beside, flags, dir_fd=self._above)
            except FileNotFoundError:
                continue  # another process has just ended
            except OSError as error:
                raise PermissionError(errno.EACCES, _IN_THE_WAY, path) from error
            status = os.fstat(fd)
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                os.close(fd)
                raise PermissionError(errno.EACCES, _IN_THE_WAY, path)
            fcntl.flock(fd, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(status, os.stat(self._beside, dir_fd=self._above)):
                    return fd
            os.close(fd)

    def _link(self, path: str) -> None:
        first = os.stat(self._first, dir_fd=self._above, follow_symlinks=False)
        if not stat.S_ISREG(first.st_mode) or first.st_uid != os.geteuid():
            raise PermissionError(errno.EACCES, _NOT_OURS, path)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(first, os.stat(_NAME, dir_fd=self._fd, follow_symlinks=False)):
                return
            # Its owner has put another file in the place of the first name since.
            for name in (_NAME, *_BESIDE):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._fd)
        os.link(
            self._first, _NAME, src_dir_fd=self._above, dst_dir_fd=self._fd, follow_symlinks=False
        )


def paths(first: str) -> tuple[str, ...]:
    """Return the paths of what is there while a file has a second name, by its first one."""
    directory = first + _SUFFIX
    return (directory, *(os.path.join(directory, name) for name in (_NAME, *_BESIDE)))
