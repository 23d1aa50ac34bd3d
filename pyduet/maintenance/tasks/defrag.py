# SPDX-License-Identifier: MIT
"""Defrag: joins the extents of files that have too many, those in memory first."""

import contextlib
import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pyduet.maintenance.defrag import btrfs, ext4, xfs
from pyduet.maintenance.defrag.donor import can_be_made
from pyduet.maintenance.defrag.layout import Part, is_encoded, parts
from pyduet.maintenance.defrag.left import Left, LeftError
from pyduet.maintenance.files.inode_flags import (
    APPEND,
    ENCRYPTED,
    IMMUTABLE,
    JOURNALED,
    NO_DEFRAG,
    extended_of,
    flags_of,
)
from pyduet.maintenance.files.mounts import mount_with_id
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.swap import swap_files
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.work import BadFileError, LeftOut, TargetError, Trouble

#: How the parts of a file are joined, by the kind of the file system.
_JOIN: dict[str, Callable[[Reading, int, int, Sequence[Part]], None]] = {
    "btrfs": btrfs.join,
    "ext4": ext4.join,
    "xfs": xfs.join,
}
#: How it is tried whether a file system can do it, where files can be made.
_PROBE: dict[str, Callable[[int], None]] = {
    "btrfs": can_be_made,
    "ext4": ext4.probe,
    "xfs": xfs.probe,
}
#: Files that are named though nothing is wrong with them; the others are counted.
_NAMED = 1000


class Defrag(Maintenance):
    """Joins extents, by btrfs's own call or by ext4's or XFS's exchange with a fresh file.

    All read through the page cache, so what is in memory is not read again. XFS
    drops from it all of a file whose extents it exchanges: what was cached of
    it before has to be read again by who wants it.

    Whoever writes a file meanwhile loses nothing; the file may be left as it
    lies for that. What is left is counted, by why.
    """

    kind = "defrag"
    after_others = True

    def __init__(self) -> None:
        """Prepare."""
        #: Pieces of the files that were worth joining, before and after.
        self.before = self.after = 0
        #: How many files were left as they lie, by why.
        self.left: Counter[str] = Counter()
        self._named: dict[str, Left] = {}
        self._is_probed = False

    def survey(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Find out what the file system is.

        Raises:
            OSError: it is none that can do it.

        """
        del found, ledger
        self._tree = tree
        mount = mount_with_id(tree.root.mount_id)
        self._kind = mount.kind if mount else "an unknown file system"
        if self._kind not in _JOIN:
            raise OSError(
                errno.EOPNOTSUPP,
                f"no defragmentation of {self._kind}: btrfs, ext4 and XFS",
                tree.path,
            )

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Find out whether the file system can do it, by trying.

        Raises:
            OSError: it cannot.

        """
        del found, ledger
        # Only who may write in the root can try it there: else it is tried where it is wanted.
        with contextlib.suppress(PermissionError):
            self._probe(tree.fd)
        self._swap = swap_files()

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Join the extents of a file, if it has too many.

        Returns:
            How many it had, and how many it has.

        """
        del before
        size = reading.stamp.size
        found, bad = 0, []
        for part in parts(reading.fd, 0, size):
            found += part.pieces
            if not part.is_good:
                bad.append(part)
        if not bad:
            self.left[Left.GOOD] += 1
            return [found, found]
        try:
            self._ensure_possible(reading)
            with self._opened(reading) as (fd, directory):
                self._probe(directory)
                try:
                    _JOIN[self._kind](reading, fd, directory, bad)
                finally:
                    os.fsync(fd)
        except LeftError as error:
            self.left[error.why] += 1
            if len(self._named) < _NAMED:
                self._named[reading.work.path] = error.why
        except BadFileError as error:
            self.left[error.trouble] += 1
            raise
        finally:
            # Also of a file that was joined in part.
            now = sum(part.pieces for part in parts(reading.fd, 0, size))
        self.before += found
        self.after += now
        return [found, now]

    def left_out(self) -> Iterator[LeftOut]:
        """Yield files that had too many pieces and were left as they lie, with why."""
        for path, why in self._named.items():
            yield LeftOut(path, why)

    def report(self) -> Mapping[str, int]:
        """Return the pieces of files that had too many, and how many files were left, by why."""
        left = {f"left_{why.replace('-', '_')}": count for why, count in sorted(self.left.items())}
        return {"pieces_before": self.before, "pieces_after": self.after, **left}

    def _probe(self, directory: int) -> None:
        """Try once whether the file system can do it, where files can be made.

        Raises:
            TargetError: it cannot: no file can be joined.
            OSError: no file can be made there.

        """
        if self._is_probed:
            return
        try:
            _PROBE[self._kind](directory)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EROFS):
                raise
            raise TargetError(error.errno, error.strerror, self._tree.path) from error
        self._is_probed = True

    def _ensure_possible(self, reading: Reading) -> None:
        """Ensure that nothing of the file itself forbids it.

        Raises:
            LeftError: something does.

        """
        flags = flags_of(reading.fd)
        if flags & (IMMUTABLE | APPEND) or extended_of(reading.fd).flags & NO_DEFRAG:
            raise LeftError(Left.PROTECTED)
        if (reading.status.st_dev, reading.status.st_ino) in self._swap:
            raise LeftError(Left.SWAP)
        if self._kind == "ext4" and flags & (ENCRYPTED | JOURNALED):
            raise LeftError(Left.UNSUPPORTED)
        if is_encoded(reading.fd):
            raise LeftError(Left.COMPRESSED)

    @contextlib.contextmanager
    def _opened(self, reading: Reading) -> Iterator[tuple[int, int]]:
        """Give the file, open for writing where that is needed, and the directory that it is in.

        Raises:
            BadFileError: somebody has a hold on it.

        """
        path = reading.work.path
        with contextlib.ExitStack() as stack:
            directory = self._tree.open_directory(os.path.dirname(path))
            stack.callback(os.close, directory)
            if self._kind == "btrfs":
                yield reading.fd, directory
                return
            try:
                # Not blocking: else it would wait for who has a lease on it.
                fd = stack.enter_context(
                    self._tree.opened(path, reading.status, flags=os.O_RDWR | os.O_NONBLOCK)
                )
            except OSError as error:
                if error.errno == errno.ETXTBSY:
                    raise BadFileError(Trouble.IN_USE, "it is a program that runs") from error
                if error.errno == errno.EAGAIN:
                    raise BadFileError(Trouble.IN_USE, "somebody has a lease on it") from error
                raise
            yield fd, directory
