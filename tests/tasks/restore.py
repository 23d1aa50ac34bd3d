# SPDX-License-Identifier: MIT
"""Restores by each program that can, and what each is known to lose."""

import os
import stat
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from command import Ran, run_duet
from compare import Difference

from pyduet.maintenance.archive import pax

#: Longer paths, with the name of the directory, GNU tar may not take.
LONGEST = 4096 - 256
#: Nanoseconds: what has been changed since was changed by a restore.
_RECENT = 600 * 10**9
#: 2^31 - 1 as an ACL has it.
_INT_MAX = b"\xff\xff\xff\x7f"


def gnu_tar(archives: Sequence[Path], target: Path) -> Ran:
    """Extract a chain of archives with GNU tar, and return how that went.

    What it cannot extract of one, as too long a path, keeps it from none of the others.
    """
    runs = []
    for archive in archives:
        ran = _run(
            "tar", "--extract", "--file", archive, "--directory", target, "--xattrs",
            "--xattrs-include=*", "--acls", "--numeric-owner", "--same-permissions",
            # A full archive wants that, too, of which something was removed while it was written.
            "--incremental",
        )  # fmt: skip
        runs.append(ran)
    return Ran(max(ran.status for ran in runs), b"", b"".join(ran.stderr for ran in runs))


def bsdtar(archives: Sequence[Path], target: Path) -> Ran:
    """Extract one full archive with bsdtar, which knows no others."""
    (archive,) = archives
    return _run(
        "bsdtar", "--extract", "--file", archive, "--directory", target, "--xattrs", "--acls",
        "--fflags", "--numeric-owner", "--preserve-permissions",
    )  # fmt: skip


def duet(archives: Sequence[Path], target: Path) -> Ran:
    """Restore a chain of archives with our own."""
    return run_duet("run", "restore", *archives, target)


def lost_by_gnu_tar(one: Difference) -> bool:
    """Return whether GNU tar is known not to restore something."""
    # It believes that a directory which it makes has the mode that it asked for.
    inherited = one.field == "mode" and one.after == one.before | stat.S_ISGID
    return inherited or one.field == "flags" or len(one.path) > LONGEST


def lost_at_times_by_gnu_tar(one: Difference) -> bool:
    """Return whether GNU tar is known to lose something of some trees, as of those by chance."""
    # A directory has the time of the restore where something comes into it, or is moved from it,
    # when it has had its own: what was renamed meanwhile, or is too deep, or a link made last.
    is_directory = stat.S_ISDIR(one.kind)
    is_late = is_directory and one.field == "mtime_ns" and time.time_ns() - one.after < _RECENT
    # XFS reserves room behind the end of what it writes, which is then in a hole.
    return is_late or one.field == "allocated" or lost_by_gnu_tar(one)


def has_long_paths(archives: Sequence[Path]) -> bool:
    """Return whether there is something in archives that GNU tar cannot restore."""
    for archive in archives:
        with archive.open("rb") as file:
            members = pax.members(file.fileno(), str(archive))
            if any(len(os.fsencode(member.name)) > LONGEST for member in members):
                return True
    return False


def lost_by_bsdtar(one: Difference) -> bool:
    """Return whether bsdtar is known not to restore something."""
    if one.field == "mtime_ns" and one.before < 0 and one.before % 10**9:
        return True
    # It knows no number above that.
    if one.field.startswith("attribute system.posix_acl") and one.after:
        return _INT_MAX in one.after
    # It takes GNU tar's %3D for part of the name.
    escaped = one.field.startswith("attribute ") and any(c in one.field for c in "=%")
    return escaped or len(one.path) > LONGEST


def lost_at_times_by_bsdtar(one: Difference) -> bool:
    """Return whether bsdtar is known to lose something of some trees, as of those by chance."""
    # Of a directory that comes twice, and has its mode when it comes again.
    is_acl = one.field == "attribute system.posix_acl_default" and one.after is None
    return is_acl or lost_by_bsdtar(one)


def is_socket(one: Difference) -> bool:
    """Return whether a difference is that of a socket: no archive has any."""
    return one.field == "missing" and str(one.before).startswith("s")


def _run(*args: str | Path) -> Ran:
    done = subprocess.run(
        args, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    return Ran(done.returncode, done.stdout, done.stderr)
