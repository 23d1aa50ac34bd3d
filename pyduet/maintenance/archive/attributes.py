# SPDX-License-Identifier: MIT
"""What a file has besides its data and its status: extended attributes, ACLs and flags.

They are collected from a descriptor as records of an archive, and given to one from them.
"""

import contextlib
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterator, Mapping

from pyduet.maintenance.archive import pax
from pyduet.maintenance.files import inode_flags

#: Attributes that are ACLs, and the keywords that GNU tar and bsdtar have for them.
_ACLS = {
    b"system.posix_acl_access": b"SCHILY.acl.access",
    b"system.posix_acl_default": b"SCHILY.acl.default",
}
# struct posix_acl_xattr_header and _entry of linux/posix_acl_xattr.h.
_ACL_HEADER, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_ACL_VERSION, _ACL_NOBODY = 2, 0xFFFFFFFF
_ACL_TAGS = {
    0x01: b"user:", 0x02: b"user", 0x04: b"group:", 0x08: b"group", 0x10: b"mask:", 0x20: b"other:",
}  # fmt: skip
#: Tags of which an ACL names whom it is about.
_NAMED = {0x02, 0x08}
_FLAGS = b"SCHILY.fflags"
#: FS_*_FL of linux/fs.h that can be set, with libarchive's names; it has none for FS_NOCOMP_FL, of
#: which it takes the name for the absence of FS_COMPR_FL.
_FLAG_NAMES = {
    0x00000001: b"secdel", 0x00000002: b"undel", 0x00000004: b"compress", 0x00000008: b"sync",
    0x00000010: b"schg", 0x00000020: b"sappnd", 0x00000040: b"nodump", 0x00000080: b"noatime",
    0x00000400: b"nocompress", 0x00004000: b"journal-data", 0x00008000: b"notail",
    0x00010000: b"dirsync", 0x00020000: b"topdir", 0x00800000: b"nocow",
    0x20000000: b"projinherit",
}  # fmt: skip
#: Labels that a system gives to what is made: they stay those of the one that it is restored on.
_LABELS = (b"security.selinux", b"security.SMACK64", b"security.ima", b"security.evm")
#: Flags that keep a file from being changed: they come last.
_FIXED = inode_flags.IMMUTABLE | inode_flags.APPEND


def collect(
    file: int | str, failed: Callable[[str, OSError], object]
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the records of a file's attributes.

    Args:
        file: a descriptor, open for reading; or ``/proc/self/fd/N`` of one that
            only holds the file (``O_PATH``), a link or a device.
        failed: told of what cannot be read, and why; nothing is said of what
            the file system does not have.

    """
    try:
        names = [os.fsencode(name) for name in os.listxattr(file)]
    except OSError as error:
        names = []
        if error.errno != errno.ENOTSUP:
            failed("its extended attributes", error)
    for name in sorted(names):
        try:
            value = os.getxattr(file, name)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                failed(f"its extended attribute {os.fsdecode(name)}", error)
            continue
        if name in _ACLS:
            yield _ACLS[name], _acl_text(value)
        else:
            yield pax.attribute(name), value
    if isinstance(file, int):
        try:
            flags = inode_flags.flags_of(file)
        except OSError as error:
            failed("its file flags", error)
        else:
            if words := [word for flag, word in _FLAG_NAMES.items() if flags & flag]:
                yield _FLAGS, b",".join(words)


def apply(
    fd: int, mode: int, known: Mapping[bytes, bytes], failed: Callable[[str, OSError], object]
) -> None:
    """Give a file the mode and the attributes of a member, and take from it all others.

    Its owner has to be the right one by then: a change of that takes capabilities away.

    Args:
        fd: of the file; for what is neither file nor directory, one that holds it.
        mode: that it is to have, ``st_mode``.
        known: the member's records.
        failed: told of what cannot be set, and why.

    """
    kind = stat.S_IFMT(mode)
    place: int | str = fd if kind in (stat.S_IFREG, stat.S_IFDIR) else f"/proc/self/fd/{fd}"
    wanted: dict[bytes, bytes] = {}
    for keyword, value in known.items():
        if name := pax.attribute_name(keyword):
            wanted[name] = value
    try:
        there = {os.fsencode(name) for name in os.listxattr(place)}
    except OSError:
        there = set()  # setting them will say so
    for name in sorted(there - set(wanted) - set(_ACLS)):
        if not name.startswith(_LABELS):
            with _told(failed, name):
                os.removexattr(place, name)
    # Who is no root may set some of them only of what may be written.
    for name, value in sorted(wanted.items()):
        with _told(failed, name):
            os.setxattr(place, name, value)
    if kind == stat.S_IFLNK:
        return
    try:
        os.chmod(place, stat.S_IMODE(mode))
    except OSError as error:
        failed(f"its mode {stat.S_IMODE(mode):04o}", error)
    for name, keyword in _ACLS.items():
        with _told(failed, name):
            if keyword in known:
                os.setxattr(place, name, _acl_bytes(known[keyword]))
            elif name in there:
                os.removexattr(place, name)


def prepare(fd: int, known: Mapping[bytes, bytes]) -> None:
    """Give an empty file the flags of a member that it cannot get when data are in it."""
    with contextlib.suppress(OSError):  # else it is said in the end
        wanted = _wanted_flags(known) & ~_FIXED
        if wanted:
            inode_flags.set_flags(fd, inode_flags.flags_of(fd) & ~sum(_FLAG_NAMES) | wanted)


def apply_flags(
    fd: int, known: Mapping[bytes, bytes], failed: Callable[[str, OSError], object]
) -> None:
    """Give a file the flags of a member: after all else, since some forbid every change.

    Args:
        fd: of the file, open for reading.
        known: the member's records.
        failed: told of what cannot be set, and why.

    """
    wanted = _wanted_flags(known)
    try:
        flags = inode_flags.flags_of(fd)
        others = flags & ~sum(_FLAG_NAMES)
        if flags != others | wanted:
            inode_flags.set_flags(fd, others | wanted)
    except OSError as error:
        failed("its file flags", error)


def release(fd: int) -> None:
    """Take from a file what keeps it from being changed, if anything does.

    Raises:
        OSError: that is not permitted.

    """
    flags = inode_flags.flags_of(fd)
    if flags & _FIXED:
        inode_flags.set_flags(fd, flags & ~_FIXED)


@contextlib.contextmanager
def _told(failed: Callable[[str, OSError], object], name: bytes) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        failed(f"its extended attribute {os.fsdecode(name)}", error)


def _wanted_flags(known: Mapping[bytes, bytes]) -> int:
    words = known.get(_FLAGS, b"").split(b",")
    return sum(flag for flag, word in _FLAG_NAMES.items() if word in words)


def _acl_text(value: bytes) -> bytes:
    """Return an ACL as GNU tar and bsdtar have it; whom it names by number, as the disk has it."""
    entries = []
    for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :]):
        who = _ACL_TAGS[tag] + (b":%d" % number if tag in _NAMED else b"")
        letters = (
            letter if permissions & bit else b"-"
            for letter, bit in ((b"r", 4), (b"w", 2), (b"x", 1))
        )  # fmt: skip
        entries.append(who + b":" + b"".join(letters))
    return b",".join(entries)


def _acl_bytes(text: bytes) -> bytes:
    """Return an ACL as the kernel has it.

    Raises:
        ValueError: it is none.

    """
    tags = {word: tag for tag, word in _ACL_TAGS.items()}
    entries = []
    for entry in text.split(b","):
        kind, who, letters = entry.split(b":")
        tag = tags.get(kind if who else kind + b":")
        number = int(who) if who else _ACL_NOBODY
        if tag is None or not 0 <= number <= _ACL_NOBODY:
            raise ValueError(f"an ACL with an entry {entry!r}")
        bits = sum(bit for letter, bit in ((b"r", 4), (b"w", 2), (b"x", 1)) if letter in letters)
        entries.append((tag, bits, number))
    return _ACL_HEADER.pack(_ACL_VERSION) + b"".join(
        # The kernel wants them in the order of the tags, and of whom they name.
        _ACL_ENTRY.pack(*entry)
        for entry in sorted(entries, key=lambda one: (one[0], one[2]))
    )
