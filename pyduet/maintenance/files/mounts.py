# SPDX-License-Identifier: MIT
"""On which mount a path is, as ``/proc/self/mountinfo`` of proc(5) tells."""

import contextlib
import re
from collections.abc import Iterator
from typing import NamedTuple


class Mount(NamedTuple):
    """A mounted file system.

    Attributes:
        place: where it is mounted.
        kind: of the file system.
        source: what was mounted: a device node, where there is one.
        root: which directory of the file system is there: ``/`` is its own root.
        device: of the file system, as ``MAJOR:MINOR``.
        number: as statx(2) tells it.

    """

    place: str
    kind: str
    source: str
    root: str
    device: str
    number: int

    @property
    def whole(self) -> bool:
        """Whether the file system's own root is there, not a directory of it."""
        return self.root == "/"


def mount_with_id(number: int) -> Mount | None:
    """Return the mount that has a number, as statx(2) tells it; None where /proc tells nothing."""
    with contextlib.suppress(OSError):
        return next((one for one in mounts() if one.number == number), None)
    return None


def mounts() -> Iterator[Mount]:
    """Yield all mounts; of those at one place the last one is on top.

    Raises:
        OSError: /proc is not mounted.

    """
    # Users may mount FUSE file systems on names of theirs. Of these the kernel escapes a space, a
    # tabulator and a newline, and nothing else that Python takes for one.
    with open(
        "/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape", newline="\n"
    ) as file:
        for line in file:
            words = line.rstrip("\n").split(" ")
            kind, source = words[words.index("-", 6) + 1 :][:2]
            yield Mount(
                plain(words[4]), kind, plain(source), plain(words[3]), words[2], int(words[0])
            )


def plain(word: str) -> str:
    """Return a word of a file of /proc without its escapes: octal, of four ASCII characters."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), word)
