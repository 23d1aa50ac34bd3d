# SPDX-License-Identifier: MIT
"""Restores archives of the backup task: a full one, and the incremental ones after it.

Users may rename and replace what is theirs of the target meanwhile: see :mod:`.target`. What is to
have an owner, a mode or the like gets it by a descriptor of what this process has made.
"""

import contextlib
import dataclasses
import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pyduet.maintenance.archive import attributes, pax
from pyduet.maintenance.archive.chain import Link, read_link
from pyduet.maintenance.archive.target import NEW, Target, kept, look
from pyduet.maintenance.files.reading import pieces_of
from pyduet.maintenance.files.statx import status_of
from pyduet.maintenance.frame.problems import Problems
from pyduet.maintenance.work import NAMED, Problem, Trouble, problem_of

_DOUBTFUL = (
    "it was there before, and others may have put it there: its owner, mode and attributes were "
    "left as they are; look whose it is, and set them"
)


class RestoreError(ValueError):
    """The archives are not those that are needed, or the target is not; says what to do."""


@dataclass(slots=True)
class Restored:
    """How far a restore is, and at its end what became of it.

    Attributes:
        step: what it does now, in a word or two.
        bytes: of the archives.
        bytes_done: of them that were gone through.
        members: that were restored.
        removed: names that were removed, because a later archive has them no more.
        named: how many things could not be restored as they were.
        problems: the first ten thousand of them, at the end.

    """

    step: str = "looking at the archives"
    bytes: int = 0
    bytes_done: int = 0
    members: int = 0
    removed: int = 0
    named: int = 0
    problems: list[Problem] = field(default_factory=list)


class Restore:
    """Restores a chain of archives into a directory.

    Thread-safety: none.
    """

    def __init__(
        self,
        archives: Sequence[str],
        target: str,
        *,
        over: bool = False,
        tell: Callable[[Restored], object] = lambda _: None,
    ) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            archives: a full one, and the incremental ones after it, in their order.
            target: the directory to restore into; made if it is not there.
            over: whether it may have something in it, which the archives'
                content then replaces.
            tell: called with the progress now and then.

        """
        self._archives = list(archives)
        self._path = target
        self._target: Target
        self._over = over
        self._tell = tell
        #: Of what has further names: the one by which they are made.
        self._linked: set[str] = set()
        #: Directories that something is yet to come into, and their times.
        self._left: list[tuple[str, int]] = []
        self._problems = Problems()
        self.progress = Restored()

    def run(self) -> Restored:
        """Restore all of it; returns how it went.

        Raises:
            RestoreError: the archives are no chain, or there is something in the
                target.
            ArchiveError: one is damaged, or none of ours; nothing was changed.
            OSError: an archive or the target cannot be opened.

        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._problems.close)
            files = []
            for path in self._archives:
                file = stack.enter_context(open(path, "rb", buffering=0))
                self.progress.bytes += os.fstat(file.fileno()).st_size
                files.append((file.fileno(), path))
            _need_chain([(read_link(fd, path), path) for fd, path in files])
            # Nothing is changed for an archive that cannot be restored to its end.
            last = [self._look_through(fd, path) for fd, path in files]
            archives = [status_of(fd).identity for fd, _ in files]
            self._target = stack.enter_context(
                Target(self._path, archives, self._name, self._count)
            )
            if not self._over and not self._target.is_empty():
                raise RestoreError(
                    f"{self._path}: it is not empty; name another directory, or with --over what "
                    "is in it is replaced"
                )
            self.progress.step = "restoring"
            begin = 0
            for (fd, path), final in zip(files, last, strict=True):
                for member in pax.members(fd, path):
                    self._restore(member, fd, is_left=final.get(member.begin))
                    self.progress.bytes_done = begin + member.data
                    self.progress.members += 1
                    self._tell(self.progress)
                self._put_times_right()
                begin += os.fstat(fd).st_size
            self.progress.bytes_done = begin
            self.progress.step = "writing to the disk"
            self._tell(self.progress)
            self._target.sync()
            self.progress.problems = self._problems.first(NAMED)
        self.progress.step = "done"
        self._tell(self.progress)
        return self.progress

    def _look_through(self, fd: int, path: str) -> dict[int, bool]:
        """Go through an archive, and return where it has each directory for the last time.

        With whether something in it follows.
        """
        last: dict[str, int] = {}
        left: set[str] = set()
        for member in pax.members(fd, path):
            left.add(os.path.dirname(member.name))
            if member.type == pax.DIRECTORY:
                last[member.name] = member.begin
                left.discard(member.name)
            elif member.type == pax.LINK:
                self._linked.add(member.target[2:])
        return {begin: name in left for name, begin in last.items()}

    # A member

    def _restore(self, member: pax.Stored, fd: int, *, is_left: bool | None) -> None:
        path = member.name[2:]
        if not _is_safe(member.name) or not (path or member.type == pax.DIRECTORY):
            words = "its name leads out of the archive: it was left out"
            self._name(Problem(member.name, Trouble.REFUSED, words))
            return
        try:
            if member.type == pax.DIRECTORY:
                self._directory(path, member, is_left=is_left)
            elif member.type == pax.LINK:
                self._link(path, member)
            else:
                with self._target.above(path) as (directory, name):
                    if self._is_there(directory, name, member):
                        return
                    self._target.clear(directory, name, path)
                    if member.type == pax.FILE:
                        self._file(directory, name, path, member, fd)
                    else:
                        self._other(directory, name, path, member)
        except OSError as error:
            self._name(problem_of(path, error))
        except (ValueError, OverflowError) as error:
            # Names with NULs, and numbers that nothing has: the archive was damaged.
            self._name(
                Problem(path, Trouble.FAILED, f"the archive has no right words of it: {error}")
            )

    def _is_there(self, directory: int, name: str, member: pax.Stored) -> bool:
        """Return whether an archive is there that a later one has, and is not to be replaced."""
        there = look(directory, name)
        if there is None or there.identity not in self._target.archives:
            return False
        return (there.st_size, there.st_mtime_ns) == (member.size, member.mtime_ns)

    def _directory(self, path: str, member: pax.Stored, *, is_left: bool | None) -> None:
        listing = member.known.get(b"GNU.dumpdir")
        if path and not self._target.make_directory(path):
            if listing is not None:
                raise kept(path)
            return  # something is mounted there, as was when it was archived
        fd = self._target.open(path)
        try:
            attributes.release(fd)
            if listing is not None:
                self._target.remove_others(fd, path, pax.dumped(listing))
            status = status_of(fd)
            # Of what was another file system's the archive knows no attributes.
            if is_left is None or (path and self._target.tree.is_outside(status)):
                return
            if self._target.may_be_given(path, member.uid, status):
                self._own(fd, path, member)
                if is_left:
                    self._left.append((path, member.mtime_ns))
            else:
                self._name(Problem(path, Trouble.REFUSED, _DOUBTFUL))
        finally:
            os.close(fd)

    def _put_times_right(self) -> None:
        """Give directories back their times that something came into after they had them.

        What had vanished when its archive was finished is in it without a last word.
        """
        for path, mtime_ns in self._left:
            with contextlib.suppress(OSError):  # it has gone since
                fd = self._target.open(path)
                try:
                    os.utime(fd, ns=(os.fstat(fd).st_atime_ns, mtime_ns))
                finally:
                    os.close(fd)
        self._left.clear()

    def _file(self, directory: int, name: str, path: str, member: pax.Stored, archive: int) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o600, dir_fd=directory)
        try:
            attributes.prepare(fd, member.known)
            extents = [(0, member.size)] if member.extents is None else member.extents
            if member.extents is not None:
                # First: XFS reserves room behind the end of a file, and leaves it in a hole.
                os.ftruncate(fd, member.size)
            data = member.data
            for offset, length in extents:
                for piece in pieces_of(archive, data, length):
                    _write(fd, piece, offset)
                    offset += len(piece)
                    self._tell(self.progress)
                data += length
            os.ftruncate(fd, member.size)
            self._own(fd, path, member)
            if path in self._linked:
                self._target.remember(path, fd)
        finally:
            os.close(fd)

    def _link(self, path: str, member: pax.Stored) -> None:
        if not _is_safe(member.target):
            raise OSError(errno.EINVAL, "it links to what is not in the archive")
        with (
            self._target.remembered(member.target[2:]) as held,
            self._target.above(path) as (directory, name),
        ):
            there = look(directory, name)
            if there is None or there.identity != status_of(held).identity:
                self._target.clear(directory, name, path)
                os.link(f"/proc/self/fd/{held}", name, dst_dir_fd=directory, follow_symlinks=True)

    def _other(self, directory: int, name: str, path: str, member: pax.Stored) -> None:
        with self._target.placed(directory, name) as own:
            if member.type == pax.SYMLINK:
                os.symlink(member.target, NEW, dir_fd=own)
            elif member.type == pax.FIFO:
                os.mkfifo(NEW, 0o600, dir_fd=own)
            else:
                kind = stat.S_IFCHR if member.type == pax.CHARACTER else stat.S_IFBLK
                os.mknod(NEW, kind | 0o600, member.device, dir_fd=own)
            fd = os.open(NEW, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=own)
            try:
                self._own(fd, path, member)
                if path in self._linked:
                    self._target.remember(path, fd)
            finally:
                os.close(fd)

    def _own(self, fd: int, path: str, member: pax.Stored) -> None:
        """Give something what is its own: owner, mode, attributes, times, flags."""
        failures: list[str] = []

        def failed(what: str, error: OSError) -> None:
            failures.append(f"{what}: {error.strerror}")

        place = f"/proc/self/fd/{fd}"
        before = os.fstat(fd)
        if (before.st_uid, before.st_gid) != (member.uid, member.gid):
            try:
                os.chown(place, member.uid, member.gid)
            except OSError as error:
                failed(f"its owner {member.uid}:{member.gid}", error)
                member = _without_rights(member)
        attributes.apply(fd, stat.S_IFMT(before.st_mode) | member.mode, member.known, failed)
        try:
            os.utime(place, ns=(before.st_atime_ns, member.mtime_ns))
            if os.fstat(fd).st_mtime_ns != member.mtime_ns:
                raise OSError(errno.ERANGE, "the file system cannot keep it")  # noqa: TRY301
        except OSError as error:
            failed("its time", error)
        if stat.S_ISREG(before.st_mode) or stat.S_ISDIR(before.st_mode):
            attributes.apply_flags(fd, member.known, failed)
        if failures:
            self._name(Problem(path, Trouble.FAILED, f"restored without {'; '.join(failures)}"))

    def _name(self, problem: Problem) -> None:
        # Each archive of the chain may say the same of what it has.
        self._problems.name(problem)
        self.progress.named = len(self._problems)

    def _count(self) -> None:
        self.progress.removed += 1


def _need_chain(links: Sequence[tuple[Link, str]]) -> None:
    """Ensure that archives are a full one and those after it, none left out."""
    before: Link | None = None
    for link, path in links:
        if link.parent is None and before is not None:
            raise RestoreError(f"{path}: it is a full archive; it has to be the first, or alone")
        if link.parent is not None and (before is None or before.id != link.parent):
            raise RestoreError(
                f"{path}: it is incremental, and comes after {link.before}: name that before it"
            )
        before = link


def _is_safe(name: str) -> bool:
    """Return whether a name of a member leads to what is in the archive."""
    if name == ".":
        return True
    first, *parts = name.split("/")
    return first == "." and bool(parts) and not {"", ".", ".."} & set(parts)


def _without_rights(member: pax.Stored) -> pax.Stored:
    """Return a member that gives the rights of its owner to nobody else."""
    return dataclasses.replace(member, mode=member.mode & ~(stat.S_ISUID | stat.S_ISGID))


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view = view[written:]
        offset += written
