# SPDX-License-Identifier: MIT
"""Whether a target lies in the directory that is copied to it, by whatever names."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence

from pyduet.maintenance.files.mounts import Mount, mounts


def within(root: str, target: str) -> Iterator[str]:
    """Yield as what, relative to the root, the target is found below it.

    Mounts are followed, as rsync follows them: what is mounted below the root is
    below it, and so is all that another mount of the same file system shows.

    Args:
        root: a directory.
        target: a path, which need not exist.

    """
    root, target = os.path.realpath(root), os.path.realpath(target)
    there = list(mounts())
    place = _inner(there, target)
    below = [_inner(there, root)]
    below += [(one.device, one.root, one.place) for one in there if _has(root, one.place)]
    for device, inner, outer in below:
        if device == place[0] and (inner == place[1] or _has(inner, place[1])):
            rest = os.path.relpath(place[1], inner)
            yield os.path.normpath(os.path.join(os.path.relpath(outer, root), rest))


def is_left_out(path: str, filters: Sequence[str]) -> bool:
    """Return whether rsync would copy nothing of a directory of the source, with some filters.

    rsync itself is asked, of a tree that has nothing else.

    Args:
        path: relative to the source.
        filters: rsync's options, which say what is left out.

    """
    with tempfile.TemporaryDirectory(prefix="duet-") as place:
        source, target = (os.path.join(place, name) for name in ("source", "target"))
        os.makedirs(os.path.join(source, path, "directory"))
        with open(os.path.join(source, path, "file"), "wb"):
            pass
        os.mkdir(target)
        done = subprocess.run(
            ["rsync", "-a", *filters, "--", f"{source}/", target],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
        copied = os.path.join(target, path)
        return done.returncode == 0 and not (os.path.isdir(copied) and os.listdir(copied))


def pattern(path: str) -> str:
    """Return the pattern of rsync that matches a path, from the top of what is copied, alone."""
    # Where nothing is wild, a backslash is one.
    return re.sub(r"([*?[\\])", r"\\\1", path) if re.search(r"[*?[]", path) else path


def _inner(there: Sequence[Mount], path: str) -> tuple[str, str, str]:
    """Return a path's device, its path from that file system's own root, and itself."""
    best = there[0]
    for one in there:
        # Of those at one place the last one is on top.
        if (path == one.place or _has(one.place, path)) and len(one.place) >= len(best.place):
            best = one
    rest = os.path.relpath(path, best.place)
    return best.device, os.path.normpath(os.path.join(best.root, rest)), path


def _has(directory: str, path: str) -> bool:
    return path != directory and path.startswith(directory.rstrip("/") + "/")
