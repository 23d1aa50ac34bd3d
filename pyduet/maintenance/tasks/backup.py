# SPDX-License-Identifier: MIT
"""Backup: a pax archive that tar restores, whatever the order its files were read in."""

import os
import stat
import tarfile
from typing import Any

from pyduet.maintenance.files.output import Output
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.statx import Status
from pyduet.maintenance.files.tree import Found, Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.frame.work import stamp_of


class Backup(Maintenance):
    """Writes an archive in pax format: what is no file first, then files as they come.

    Directories come first, for their permissions, and last, for their times.

    A file that changes while it is read is written again; where an archive has
    a file twice, the later one counts. An incremental archive has what changed
    since the ledger's last one, and of each directory the list of what was in
    it (``GNU.dumpdir``), by which ``tar --extract --incremental`` removes what
    is gone.
    """

    kind = "backup"

    def __init__(self, archive: str, *, incremental: bool = False) -> None:
        """Prepare; nothing is written yet.

        Args:
            archive: the file to write; a run that goes on after another was
                broken off finds what that has written there.
            incremental: leave out what has not changed since the last archive.

        """
        self.outputs = (os.path.abspath(archive),)
        self._incremental = incremental

    def worth(self, found: Found, before: Record | None) -> bool:
        """Return whether a file has to be in this archive."""
        if not self._incremental or before is None or before.path != found.path:
            return True
        return not before.holds(stamp_of(found.status))

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Open the archive; a new one begins with directories, links and the like.

        Raises:
            TargetError: the archive cannot be written, or is not what the
                ledger knows of it.

        """
        self._root = tree.path
        self._ledger = ledger
        written = ledger.note("written")
        self._out = Output(self.outputs[0], written)
        # For what it makes of a file's status; it writes nothing.
        self._tar = tarfile.TarFile(os.devnull, "w", format=tarfile.PAX_FORMAT)
        if written is None:
            names = _names(found) if self._incremental else {}
            for one in found:
                self._write_other(one, names)
            self.secure()

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Write a file; what was written of one that changed meanwhile is taken back."""
        del before
        start = self._out.offset
        try:
            member = self._member(reading.work.path, reading.status, reading.fd)
            self._write_header(member)
            for piece in reading.pieces():
                self._out.write(piece)
            reading.check()
            self._out.pad(tarfile.BLOCKSIZE)
        except BaseException:
            self._out.cut(start)
            raise

    def secure(self) -> None:
        """Have the archive on the disk, as far as the ledger is about to say."""
        self._out.sync()
        self._ledger.remark("written", self._out.offset)

    def finish(self, found: Inventory) -> None:
        """Write the other names of files, the directories once more, and the end.

        What is extracted into a directory changes its time, and tar puts it
        right only once: so the last word on each is here, the deepest first.
        """
        first: dict[int, str] = {}
        for path, status in found:
            if not stat.S_ISREG(status.st_mode) or status.st_nlink == 1:
                continue
            if first.setdefault(status.st_ino, path) != path:
                member = self._member(path, status)
                member.type, member.size = tarfile.LNKTYPE, 0
                member.linkname = _name(first[status.st_ino])
                self._write_header(member)
        for one in found.directories(deepest_first=True):
            self._write_other(one, {})
        self._out.write(bytes(2 * tarfile.BLOCKSIZE))
        self._out.pad(tarfile.RECORDSIZE)
        self._out.close()

    def _write_other(self, one: Found, names: dict[str, list[bytes]]) -> None:
        """Write what has no data, with the names in it where it is a directory."""
        mode = one.status.st_mode
        # A socket is made by who listens at it.
        if stat.S_ISREG(mode) or stat.S_ISSOCK(mode):
            return
        member = self._member(one.path, one.status)
        if one.path in names:
            listing = b"".join(name + b"\0" for name in names[one.path]) + b"\0"
            member.pax_headers = {
                **member.pax_headers,
                "GNU.dumpdir": listing.decode("utf-8", "surrogateescape"),
            }
        self._write_header(member)

    def _member(self, path: str, status: Status, fd: int | None = None) -> tarfile.TarInfo:
        """Return the archive's header of something, as it is now."""
        full = os.path.join(self._root, path)
        member = self._tar.gettarinfo(full, _name(path))
        if stat.S_ISREG(status.st_mode):
            # Another name of it may be in the archive, with other content.
            member.type, member.linkname, member.size = tarfile.REGTYPE, "", status.st_size
        seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
        member.mtime = seconds
        member.pax_headers = {"mtime": f"{seconds}.{nanoseconds:09}"} | {
            f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
            for name, value in _attributes(full if fd is None else fd).items()
        }
        return member

    def _write_header(self, member: tarfile.TarInfo) -> None:
        self._out.write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))


def _name(path: str) -> str:
    """Return the name in the archive: as tar gives them for the directory ``.``."""
    return f"./{path}" if path else "."


def _names(found: Inventory) -> dict[str, list[bytes]]:
    """Return of each directory the names in it, as a ``GNU.dumpdir`` has them."""
    names: dict[str, list[bytes]] = {}
    for path, status in found:
        if stat.S_ISDIR(status.st_mode):
            names[path] = []
        if path:
            directory, name = os.path.split(path)
            letter = b"D" if stat.S_ISDIR(status.st_mode) else b"Y"
            names[directory].append(letter + os.fsencode(name))
    # tar searches in it by halves.
    return {path: sorted(found, key=lambda name: name[1:]) for path, found in names.items()}


def _attributes(file: str | int) -> dict[str, bytes]:
    """Return the extended attributes, ACLs among them; none where there can be none."""
    follow = {} if isinstance(file, int) else {"follow_symlinks": False}
    try:
        return {name: os.getxattr(file, name, **follow) for name in os.listxattr(file, **follow)}
    except OSError:
        return {}
