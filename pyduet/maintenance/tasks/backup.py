# SPDX-License-Identifier: MIT
"""Backup: a pax archive that tar restores, whatever the order its files were read in."""

import contextlib
import errno
import functools
import grp
import itertools
import os
import pwd
import shlex
import stat
from collections.abc import Sequence
from typing import Any

from pyduet._text.names import path_of, text_of
from pyduet.files import data_ranges
from pyduet.maintenance.archive import attributes, pax
from pyduet.maintenance.archive.chain import Link, current, link_of
from pyduet.maintenance.files.output import OtherOutputError, Output, names_of
from pyduet.maintenance.files.places import Places, joined
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.statx import Identity, Status, status_of
from pyduet.maintenance.files.temporary import Temporary
from pyduet.maintenance.files.tree import Found, Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.work import (
    Problem,
    ReplacedError,
    TargetError,
    Trouble,
    problem_of,
    stamp_of,
)

#: Directories that are kept in the ledger together.
_ROWS = 1000
#: Bytes of attributes, and of the list of a directory, that are written: what is restored takes no
#: header that is longer than both.
_MOST_BYTES = pax.LONGEST // 2 - (1 << 20)
#: Parts of a file with holes that are told apart: each takes memory, here and when it is restored.
_MOST_EXTENTS = 100_000
#: What says that a directory is none any more, or another one, or hidden by a mount.
_ELSEWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EXDEV)
#: What GNU tar wants to be told to restore all that is in an archive.
_TAR = (
    "tar", "--extract", "--same-permissions", "--numeric-owner", "--xattrs",
    "--xattrs-include=*", "--acls", "--warning=no-unknown-keyword",
)  # fmt: skip


class Backup(Maintenance):
    """Writes an archive in pax format.

    In it are, in this order:

    - the root, with what the archive says of itself (:mod:`..archive.chain`);
    - files as they come, each after the directories that lead to it;
    - links, FIFOs and devices, and the further names of files;
    - the directories, the deepest first, with all that is theirs: what is
      extracted into a directory changes its time, and tar puts it right once.

    A file that changes while it is read is taken back and written again; where
    an archive has a file twice, the later one counts. An incremental archive
    has what changed since the chain's last one, and of each directory the list
    of what is in it (``GNU.dumpdir``), by which ``tar --extract --incremental``
    and :mod:`..archive.restore` remove what is gone. A full one has that of
    those directories of which something was removed while it was written.
    """

    kind = "backup"
    by_name = True

    def __init__(self, archive: str, *, incremental: bool = False) -> None:
        """Prepare; nothing is written yet.

        Args:
            archive: the file to write; it is ``ARCHIVE.partial`` until it is
                whole.
            incremental: leave out what has not changed since the last archive
                of the ledger.

        """
        self.outputs = names_of(archive)
        self.archive = self.outputs[0]
        self._incremental = incremental
        self._out: Output
        #: What the run wrote that is gone on with, as the ledger has it.
        self._before: Any = None
        self._held = contextlib.ExitStack()
        self._chain: list[Link] = []
        self._shrunk: _Shrunk
        #: How many of those the ledger has.
        self._kept = 0
        self._ready: _Directories
        self._purged: _Purged
        #: What was found last, once nothing else is looked for.
        self._last: Inventory | None = None
        #: The directory of the last link that tar makes in the end.
        self._near = ""

    # What the frame asks for

    def worth(self, found: Found, before: Record | None) -> bool:
        """Return whether a file has to be in this archive."""
        return (
            not self._incremental
            or before is None
            or not before.holds(stamp_of(found.status))
            or before.path != found.path
            or before.note is not None
        )

    def survey(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Find out whether an archive is gone on with, and what it comes after.

        Raises:
            TargetError: it cannot be written, or has nothing to come after.

        """
        del found
        self._tree, self._ledger = tree, ledger
        self._shrunk = self._held.enter_context(contextlib.closing(_Shrunk()))
        self._ready = self._held.enter_context(contextlib.closing(_Directories()))
        self._purged = self._held.enter_context(contextlib.closing(_Purged()))
        self._chain = [Link.of(link) for link in ledger.fact("chain", [])]
        before = ledger.note("archive")
        if before is not None:
            if self._goes_on(before):
                self._before = before
            else:
                ledger.begin_anew()
        parent = self._parent() if self._incremental else None
        if self._before is None:
            with self._output(read_only=True):
                pass  # else it cannot be written
            self._link = Link.new(self.archive, tree.path, parent)
        else:
            self._link = Link.of(self._before["link"])
            # A run of an earlier version has none of these: what is gone is found in the end, too.
            while self._kept < self._before.get("shrunk_count", 0):
                some = ledger.note(f"shrunk.{self._kept}")
                for path in some:
                    self._shrunk.add(path_of(path))
                self._kept += len(some)

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Open the archive; a new one begins with the root.

        Raises:
            TargetError: it cannot be written.

        """
        del ledger, found
        self._out = self._held.enter_context(self._output(self._before))
        if self._before is None:
            self._write_directory(Found("", tree.root), [self._link.record])
            self.secure()

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Write a file; what was written of one that changed meanwhile is taken back."""
        path, status = reading.work.path, reading.status
        if before is not None and before.passed == self._ledger.number and before.path != path:
            self._is_gone(before.path)
        self._make_way(path)
        lacking: list[str] = []
        start = self._out.offset
        try:
            extents = _extents(reading.fd, status.st_size)
            records = self._attributes(reading.fd, lacking)
            member = _member(path, status, records, size=status.st_size, extents=extents)
            self._out.write(pax.header(member))
            for offset, length in [(0, status.st_size)] if extents is None else extents:
                for piece in reading.part(offset, length):
                    self._out.write(piece)
            reading.check()  # also whether all of it was read
            self._out.pad(pax.BLOCK)
        except BaseException:
            self._out.cut(start)
            raise
        return lacking or None

    def vanished(self, before: Record) -> None:
        """Take in that what is in the archive is there no more."""
        self._is_gone(before.path)

    def secure(self) -> None:
        """Have the archive on the disk, as far as the ledger is about to say."""
        self._out.sync()
        while self._kept < len(self._shrunk):
            some = self._shrunk.after(self._kept, _ROWS)
            self._ledger.remark(f"shrunk.{self._kept}", list(map(text_of, some)))
            self._kept += len(some)
        self._ledger.remark(
            "archive",
            {
                "written": self._out.written,
                "link": self._link.kept,
                "incremental": self._incremental,
                "shrunk_count": self._kept,
            },
        )

    def finish(self, found: Inventory) -> None:
        """Write what is no file, look whether all is in it, and put it in its place.

        Raises:
            TargetError: it cannot be written.

        """
        if not self._incremental:
            self._look_through()
        self._last = found
        self._name_purged(found)
        # What is not in the archive by the first of its names: others of it are no links to that.
        failed: set[Identity] = set()
        for one in found:
            path, status = one
            if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
                continue
            first = found.first(status) if status.st_nlink > 1 else path
            if first != path and status.identity not in failed:
                self._write_link(first, one)
            elif not self._write_other(one) and status.st_nlink > 1:
                failed.add(status.identity)
        for first, one in found.links():
            known = self._ledger.get(one.status)
            if known is not None and known.path == first and first not in self._purged:
                self._write_link(first, one)
            else:
                words = f"it is {first} by another name, which is not in the archive as it is now"
                self.name(Problem(one.path, Trouble.FAILED, words))
        for one in found.directories(deepest_first=True):
            try:
                self._make_way(one.path, is_directory=True)
                self._write_directory(one, [], is_last=True)
            except FileNotFoundError:
                pass  # it was removed since it was found
            except OSError as error:
                self.name(problem_of(one.path, error))
        for record in self._ledger.files():
            if record.passed == self._ledger.number:
                self._name_lacking(record.path, record.note)
        self._out.write(pax.ending(self._out.offset))
        self._out.finish()
        self._say_so(found)

    def close(self) -> None:
        """Let go of the archive."""
        self._held.close()

    @property
    def chain(self) -> Sequence[Link]:
        """The archives that are needed to restore: the full one, and those after it."""
        return current(self._chain)

    def commands(self, target: str = "TARGET") -> list[str]:
        """Return the commands that restore, in their order: those of tar, and that of duet."""
        chain = self.chain
        tar = []
        for link in chain:
            more = ["--incremental"] if len(chain) > 1 or self._shrunk else []
            tar.append(shlex.join([*_TAR, *more, "--file", link.archive, "--directory", target]))
        ours = ["duet", "run", "restore", *(link.archive for link in chain), target]
        return [*tar, shlex.join(ours)]

    # Beginning

    def _parent(self) -> Link:
        """Return the archive that this one comes after."""
        chain = current(self._chain)
        if not chain:
            raise TargetError(
                0,
                "there is no full archive that it could come after: this ledger knows of none; "
                "make one, without --incremental",
                self.archive,
            )
        if self.archive in (link.archive for link in chain):
            raise TargetError(
                0, "the archives that are to come need it: name another for this one", self.archive
            )
        missing: list[str] = []
        for link in chain:
            try:
                is_other = is_replaced(link)
            except OSError as error:
                # It may be on another disk.
                missing.append(f"{link.archive} ({error.strerror})")
                continue
            if is_other:
                raise TargetError(
                    0,
                    "what comes after this archive cannot be restored, since it is another one by "
                    "now: make a full one, without --incremental",
                    link.archive,
                )
        if missing:
            self.warn(
                "to restore this archive, bring back what is not there and comes before it, or "
                f"make a full one: {', '.join(missing)}"
            )
        return chain[-1]

    def _goes_on(self, before: Any) -> bool:
        """Go on with the archive of the run that was broken off, if that is possible."""
        is_other = path_of(before["written"]["path"]) != self.archive
        if before["incremental"] != self._incremental and not is_other:
            was, way = ("a full", "without") if self._incremental else ("an incremental", "with")
            raise TargetError(
                0,
                f"the run that was broken off was writing {was} archive: go on {way} "
                "--incremental, or begin anew with --anew",
                self.archive,
            )
        try:
            with self._output(before, read_only=True) as output:
                goes_on = self._incremental or self._can_be_gone_on_with(output)
        except OtherOutputError as error:
            self.warn(f"begun anew, and not gone on with: {error.filename}: {error.strerror}")
            return False
        if not goes_on:
            self.warn(
                "begun anew, and not gone on with: what was a directory in the archive that was "
                "broken off is none any more, which no archive can say"
            )
        return goes_on

    def _output(self, before: Any = None, *, read_only: bool = False) -> contextlib.closing[Output]:
        written = None if before is None else before["written"]
        return contextlib.closing(Output(self.archive, pax.BEGINNING, written, read_only=read_only))

    def _can_be_gone_on_with(self, output: Output) -> bool:
        """Return whether all directories of the archive so far are still directories, or gone."""
        for member in pax.members(output.fileno(), output.partial, output.offset):
            if member.type == pax.DIRECTORY and self._kind(member) not in (None, stat.S_IFDIR):
                return False
        return True

    def _kind(self, member: pax.Member) -> int | None:
        """Return what kind of thing has a member's name by now; None if there is none."""
        try:
            with self._tree.held(_path(member.name)) as fd:
                return stat.S_IFMT(os.fstat(fd).st_mode)
        except OSError:
            return None

    # Writing

    def _make_way(self, path: str, *, is_directory: bool = False) -> None:
        """Write the directories above something, and have none be in its place, or nothing else.

        tar puts no file where a directory is, and lists no file as a directory. It
        removes either by the list of the directory above, when it comes to that.

        Raises:
            ReplacedError: it has become something else again.

        """
        self._write_leading_to(path)
        if not path or self._ready.has(path) == is_directory:
            return
        if is_directory and not self._incremental and path not in self._shrunk:
            return  # without a list it takes the place of anything
        if not self._incremental:
            self._is_gone(path)
        is_listed = self._write_again(os.path.dirname(path), is_listed=True)
        if is_listed and self._ready.has(path) != is_directory:
            raise ReplacedError(path)

    def _write_leading_to(self, path: str) -> None:
        """Write the directories above something, but those that are there."""
        missing = []
        while path:
            path = os.path.dirname(path)
            if path in self._ready:
                break
            missing.append(path)
        for directory in reversed(missing):
            if directory:
                self._make_way(directory, is_directory=True)
            self._write_again(directory)

    def _write_again(self, path: str, *, is_listed: bool = False) -> bool:
        """Write a directory that is to be written in the end; as :meth:`_write_directory`."""
        with self._tree.held(path) as fd:
            found = Found(path, status_of(fd))
        return self._write_directory(found, [], is_listed=is_listed)

    def _write_directory(
        self,
        one: Found,
        records: list[tuple[bytes, bytes]],
        *,
        is_listed: bool = False,
        is_last: bool = False,
    ) -> bool:
        """Write a directory; with all that is its own, if it is for the last time.

        What is mounted on one in the tree is not looked at; the tree itself may be mounted.

        Args:
            one: the directory.
            records: what is to be said of it besides.
            is_listed: whether with a list of what is in it, in a full archive, too.
            is_last: whether it is written for the last time.

        Returns:
            Whether it was written with such a list.

        """
        path, status = one
        is_listed |= self._incremental or (is_last and path in self._shrunk)
        records = list(records)
        lacking: list[str] = []
        names: dict[bytes, bool] | None = None
        if not (path and self._tree.is_outside(status)):
            try:
                with contextlib.closing(_Directory(self._tree, one)) as directory:
                    status = directory.status
                    if is_last:
                        records += self._attributes(directory.file, lacking)
                    if is_listed:
                        names = directory.listing(self.outputs)
            except OSError as error:
                if error.errno in _ELSEWHERE:
                    raise
                self.name(problem_of(path, error))
        if names is not None:
            # What is away for a moment only, or something else, is not written again, and a list
            # that says so removes it.
            if self._last is None:
                names = dict.fromkeys(self._ready.names(path), True) | names
            else:
                names |= _names(self._last, path)
            listing = pax.dumpdir(names.items())
            if len(listing[1]) <= _MOST_BYTES:
                records.append(listing)
            else:
                names = None
                if is_last:
                    lacking.append("the list of what is in it: it is too long")
        if not is_last:
            self._ready.put(path, names)
        self._name_lacking(path, lacking)
        # Files are yet to come into it, which GNU tar has a user write as such.
        mode = status.st_mode if is_last else status.st_mode | stat.S_IRWXU
        self._out.write(pax.header(_member(path, status, records, mode=mode)))
        return names is not None

    def _write_other(self, one: Found) -> bool:
        """Write what has no data; returns whether that was possible."""
        path = one.path
        if pax.type_of(one.status.st_mode) is None:
            return False  # a socket, which who listens at it makes
        lacking: list[str] = []
        try:
            with self._tree.held(path, one.status) as fd:
                target = os.readlink("", dir_fd=fd) if stat.S_ISLNK(one.status.st_mode) else ""
                records = self._attributes(f"/proc/self/fd/{fd}", lacking)
                status = status_of(fd)
            self._make_way(path)
            if _leads_out(target):
                self._write_near(os.path.dirname(path))
        except OSError as error:
            self.name(problem_of(path, error))
            return False
        self._name_lacking(path, lacking)
        self._out.write(pax.header(_member(path, status, records, target=target)))
        return True

    def _write_near(self, path: str) -> None:
        """Write a directory right before links in it that tar makes when all else is extracted.

        tar gives a directory its time after that only if it has come to it last.
        """
        if path and path != self._near:
            self._write_again(path)
            self._near = path

    def _write_link(self, first: str, other: Found) -> None:
        """Write a further name of something that is in the archive, or in one before it."""
        try:
            self._make_way(other.path)
            # A list of what is in its directory, written since it was found, would remove it first.
            if self._incremental and self._tree.is_gone(first, other.status):
                raise ReplacedError(other.path, f"{first}, of which it is another name, is gone")
        except OSError as error:
            self.name(problem_of(other.path, error))
            return
        member = _member(other.path, other.status, [], type=pax.LINK, target=_name(first))
        self._out.write(pax.header(member))

    def _attributes(self, file: int | str, lacking: list[str]) -> list[tuple[bytes, bytes]]:
        def failed(what: str, error: OSError) -> None:
            lacking.append(f"{what}: {error.strerror}")

        records, size = [], 0
        for keyword, value in attributes.collect(file, failed):
            size += len(keyword) + len(value)
            if size > _MOST_BYTES:
                failed("further attributes", OSError(errno.E2BIG, os.strerror(errno.E2BIG)))
                break
            records.append((keyword, value))
        return records

    def _name_lacking(self, path: str, lacking: list[str] | None) -> None:
        """Name what is in the archive without something of its own."""
        if lacking:
            words = f"it is in the archive without {'; '.join(lacking)}"
            self.name(Problem(path, Trouble.FAILED, words))

    # Ending

    def _is_gone(self, path: str) -> None:
        """Take in that a name of the archive is another's, or nobody's."""
        if path:
            self._shrunk.add(os.path.dirname(path))

    def _name_purged(self, found: Inventory) -> None:
        """Name files that a list in the archive removes when it is restored, and forget them.

        They were away when the list was written, or a directory above them was something else,
        and are back and unchanged: what was written of them before that list is lost by it.
        """
        if not (self._incremental or self._shrunk):
            return
        for member in pax.members(self._out.fileno(), self._out.partial, self._out.offset):
            path = _path(member.name)
            if member.type != pax.DIRECTORY:
                self._purged.discard(path)
            elif (listing := member.known.get(b"GNU.dumpdir")) is not None:
                listed = pax.dumped(listing)
                for name, mode in found.names(path):
                    if listed.get(os.fsencode(name)) is not stat.S_ISDIR(mode):
                        self._purged.add(os.path.join(path, name))
        if not self._purged:
            return
        words = (
            "it, or a directory above it, was away for a moment, and who restores this archive "
            "removes it by that: the next one has it"
        )
        for path, status in found.regular():
            record = self._ledger.get(status) if path in self._purged else None
            if record is not None:
                self._ledger.forget(record, status.st_birthtime_ns)
                self.name(Problem(path, Trouble.UNSTABLE, words))

    def _look_through(self) -> None:
        """Read all headers back, and find what is there no more or is something else."""
        # Directories that are none now, of which tar has not been told yet.
        former: set[str] = set()
        for member in pax.members(self._out.fileno(), self._out.partial, self._out.offset):
            path = _path(member.name)
            if path in former and member.type != pax.DIRECTORY:
                # As of a run that was gone on with.
                words = (
                    "it was a directory when it was written to the archive, and is none now: tar "
                    "cannot restore it, duet run restore does"
                )
                self.name(Problem(path, Trouble.UNSTABLE, words))
            kind = self._kind(member)
            if kind is None or (member.type == pax.DIRECTORY and kind != stat.S_IFDIR):
                self._is_gone(path)
            if member.type != pax.DIRECTORY:
                continue
            if kind not in (None, stat.S_IFDIR):
                former.add(path)
            if former and (listing := member.known.get(b"GNU.dumpdir")) is not None:
                names = pax.dumped(listing)
                former -= {
                    one
                    for one in former
                    if os.path.dirname(one) == path
                    and not names.get(os.fsencode(os.path.basename(one)))
                }
        for path in former:
            with contextlib.suppress(OSError):
                self._write_leading_to(path)
                self._write_again(os.path.dirname(path), is_listed=True)

    def _say_so(self, found: Inventory) -> None:
        """Have the ledger know of the archive, and of nothing that is in none of its chain.

        A directory's list has what was found in it: of a file that an archive before this one has
        under a name that it had no more, nothing is left then. It may come back to that name as
        it was.
        """
        for path, status in found.regular():
            record = self._ledger.get(status)
            if record is not None and (
                record.path != path
                or not (self._incremental or record.passed == self._ledger.number)
            ):
                self._ledger.forget(record, status.st_birthtime_ns)
        for born, record in found.missing(self._ledger):
            self._ledger.forget(record, born)
        self._chain.append(self._link)
        self._ledger.keep("chain", [link.kept for link in self._chain])
        if self._link.before:
            self.note(f"it comes after {self._link.before}")


def is_replaced(link: Link) -> bool:
    """Return whether there is something else where an archive was written.

    Raises:
        OSError: it is not there, or cannot be read.

    """
    try:
        return link_of(link.archive).id != link.id
    except pax.ArchiveError:
        return True


class _Shrunk:
    """Directories that need a list of what is in them, since something of them is gone.

    With one are those that lead to it. They are on the disk, by the names that they
    have in the archive.
    """

    def __init__(self) -> None:
        self._data = Temporary()
        self._places = Places(self._data)

    def close(self) -> None:
        self._data.close()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, path: str) -> bool:
        return self._places.known(os.fsencode(_name(path))) is not None

    def add(self, path: str) -> None:
        self._places.number(os.fsencode(_name(path)))

    def after(self, number: int, most: int) -> list[str]:
        """Return those that came after the first so many, in their order, as many as are asked."""
        last = min(number + most, len(self))
        names = map(self._places.path, range(number + 1, last + 1))
        return [_path(os.fsdecode(name)) for name in names]


class _Directories:
    """The directories that are in the archive, and what tar has as directories in them by that.

    They are on the disk, by the names that they have in the archive.
    """

    def __init__(self) -> None:
        self._data = Temporary()
        self._places = Places(self._data)
        self._data.execute("create index below on place (above)")
        # What tar has as a directory, and whether it was written, or is only in a list.
        self._data.execute("create table there (place integer primary key, is_written integer)")

    def close(self) -> None:
        self._data.close()

    def __contains__(self, path: str) -> bool:
        return bool(self._written(path))

    def has(self, path: str) -> bool:
        """Return whether tar has a directory there."""
        return self._written(path) is not None

    def names(self, path: str) -> list[bytes]:
        """Return the names of the directories that are in one."""
        rows = self._data.execute(
            "select name from place join there on id = place where above = ?", (self._known(path),)
        )
        return [name for (name,) in rows]

    def put(self, path: str, listed: dict[bytes, bool] | None) -> None:
        """Take in that a directory was written, with a list of what is in it or without."""
        own = os.fsencode(_name(path))
        self._data.execute(
            "insert or replace into there values (?, 1)", (self._places.number(own),)
        )
        if listed is None:
            return
        for name in self.names(path):
            if not listed.get(name):
                # With all that was in it.
                self._data.execute(
                    "with recursive gone(id) as (values (?) union all "
                    "select place.id from place join gone on above = gone.id) "
                    "delete from there where place in gone",
                    (self._places.known(joined(own, name)),),
                )
        for name, is_directory in listed.items():
            if is_directory:
                number = self._places.number(joined(own, name))
                self._data.execute("insert or ignore into there values (?, 0)", (number,))

    def _written(self, path: str) -> int | None:
        """Return whether a directory was written; None if tar has none there."""
        row = self._data.execute(
            "select is_written from there where place = ?", (self._known(path),)
        ).fetchone()
        return None if row is None else int(row[0])

    def _known(self, path: str) -> int | None:
        return self._places.known(os.fsencode(_name(path)))


class _Purged:
    """What lists in the archive remove that was written before them; on the disk."""

    def __init__(self) -> None:
        self._data = Temporary()
        self._places = Places(self._data)
        self._data.execute("create index below on place (above)")
        # By the latest that there is of it: whether it was removed, or written again.
        self._data.execute("create table last (place integer primary key, is_gone integer)")
        self._is_empty = True

    def close(self) -> None:
        self._data.close()

    def __bool__(self) -> bool:
        """Return whether something was removed, that may have been written again."""
        return not self._is_empty

    def __contains__(self, path: str) -> bool:
        """Return whether something was removed, by itself or with a directory above it."""
        # As a rule there is nothing, and every member of an archive is asked for.
        while path and not self._is_empty:
            row = self._data.execute(
                "select is_gone from last where place = ?", (self._known(path),)
            ).fetchone()
            if row is not None:
                return bool(row[0])
            path = os.path.dirname(path)
        return False

    def add(self, path: str) -> None:
        """Take in that something is removed, with all that is in it."""
        self._is_empty = False
        place = self._places.number(os.fsencode(_name(path)))
        self._data.execute(
            "with recursive below(id) as (values (?) union all "
            "select place.id from place join below on above = below.id) "
            "delete from last where place in below",
            (place,),
        )
        self._data.execute("insert into last values (?, 1)", (place,))

    def discard(self, path: str) -> None:
        """Take in that something is written, after what may have removed it."""
        if path in self:
            place = self._places.number(os.fsencode(_name(path)))
            self._data.execute("insert or replace into last values (?, 0)", (place,))

    def _known(self, path: str) -> int | None:
        return self._places.known(os.fsencode(_name(path)))


class _Directory:
    """A directory that is held: open where that is permitted."""

    def __init__(self, tree: Tree, found: Found) -> None:
        try:
            self._fd = tree.open_directory(found.path, found.status)
            self.file: int | str = self._fd
        except PermissionError:
            self._fd = tree.hold(found.path, found.status)
            self.file = f"/proc/self/fd/{self._fd}"
        self.status = status_of(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def listing(self, outputs: Sequence[str]) -> dict[bytes, bool] | None:
        """Return the names in it, and whether each is a directory; None if it cannot be listed.

        Args:
            outputs: what the archive is called, and what until it is whole. Where it
                is in the directory it is to be kept, too.

        """
        if isinstance(self.file, str):
            return None
        names: dict[bytes, bool] = {}
        archive, partial = (os.path.basename(path) for path in outputs)
        with os.scandir(self._fd) as entries:
            for entry in entries:
                if not _is_socket(entry):
                    names[os.fsencode(entry.name)] = entry.is_dir(follow_symlinks=False)
        if os.fsencode(partial) in names and _is_in(self._fd, outputs[1]):
            names.setdefault(os.fsencode(archive), False)
        return names


def _is_socket(entry: "os.DirEntry[str]") -> bool:
    """Return whether something is a socket, which is in no archive, nor what it was before."""
    if entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
        return False  # as the directory says, without a look
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
    return False


def _leads_out(target: str) -> bool:
    """Return whether a link could lead out of where it is, as tar sees it: it makes that last."""
    return target.startswith("/") or ".." in target.split("/")


def _names(found: Inventory, directory: str) -> dict[bytes, bool]:
    """Return the names of what was found in a directory, and whether it is one."""
    return {
        os.fsencode(name): stat.S_ISDIR(mode)
        for name, mode in found.names(directory)
        if not stat.S_ISSOCK(mode)
    }


def _is_in(directory: int, path: str) -> bool:
    """Return whether a path leads to something in a directory, whose name is there, too."""
    return os.path.samestat(
        os.stat(os.path.basename(path), dir_fd=directory, follow_symlinks=False), os.stat(path)
    )


def _member(
    path: str,
    status: Status,
    records: Sequence[tuple[bytes, bytes]],
    *,
    type: bytes | None = None,  # noqa: A002 - as the member calls it
    mode: int | None = None,
    size: int = 0,
    target: str = "",
    extents: Sequence[tuple[int, int]] | None = None,
) -> pax.Member:
    kind = type or pax.type_of(status.st_mode)
    assert kind is not None  # noqa: S101 - sockets do not come here
    return pax.Member(
        name=_name(path),
        type=kind,
        mode=stat.S_IMODE(status.st_mode if mode is None else mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        user=_user(status.st_uid),
        group=_group(status.st_gid),
        size=size,
        target=target,
        device=status.st_rdev,
        extents=extents,
        records=records,
    )


def _extents(fd: int, size: int) -> list[tuple[int, int]] | None:
    """Return what of a file is no hole, in whole blocks as tar has it; None if there is no hole.

    Of a file with very many holes the smaller ones are taken for zeros that were written.
    """
    extents: list[tuple[int, int]] = []
    for data in data_ranges(fd, 0, size):
        begin = data.start // pax.BLOCK * pax.BLOCK
        end = min(size, -(-data.stop // pax.BLOCK) * pax.BLOCK)
        if extents and begin <= sum(extents[-1]):
            begin = extents.pop()[0]
        extents.append((begin, end - begin))
        if len(extents) > _MOST_EXTENTS:
            extents = _joined(extents)
    return None if extents == [(0, size)] or not size else extents


def _joined(extents: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return extents without half of the holes between them: the smaller ones."""
    holes = sorted(
        (after[0] - sum(before), number)
        for number, (before, after) in enumerate(itertools.pairwise(extents), 1)
    )
    filled = {number for _, number in holes[: len(holes) // 2]}
    joined: list[tuple[int, int]] = []
    for number, (offset, length) in enumerate(extents):
        if number in filled:
            begin = joined.pop()[0]
            joined.append((begin, offset + length - begin))
        else:
            joined.append((offset, length))
    return joined


def _name(path: str) -> str:
    """Return the name in the archive: as tar gives them for the directory ``.``."""
    return f"./{path}" if path else "."


def _path(name: str) -> str:
    """Return the path of a name in the archive."""
    return name[2:]


@functools.lru_cache(maxsize=1000)
def _user(number: int) -> str:
    try:
        return _short(pwd.getpwuid(number).pw_name)
    except (KeyError, OverflowError):
        return ""


@functools.lru_cache(maxsize=1000)
def _group(number: int) -> str:
    try:
        return _short(grp.getgrgid(number).gr_name)
    except (KeyError, OverflowError):
        return ""


def _short(name: str) -> str:
    """Return a name that fits into a header; the number does without."""
    return name if name.isascii() and len(name) < 32 else ""
