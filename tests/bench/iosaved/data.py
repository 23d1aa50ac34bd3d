# SPDX-License-Identifier: MIT
"""In the guest: the files that are maintained, and whether something is them."""

import os
import random
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pyduet.maintenance.files.extents import extents
from pyduet.maintenance.tasks.scrub import Checksum

_PAGE = 4096
#: Files are written in turns, so many bytes at a time: that is how long an extent is.
_CHUNK = 128 << 10
_TOGETHER = 4
_SEED = 2016


class Data:
    """Files of all sizes, in many extents each, whose content is known.

    Each page has its file and number in it, so that no other can stand for it.
    """

    def __init__(self, root: Path, size: int, each: int = 0) -> None:
        """Decide which files there are; nothing is made yet.

        Args:
            root: the directory.
            size: bytes in all.
            each: bytes of a file; 0 for all sizes.

        """
        self.root = root
        dice = random.Random(_SEED)
        self._noise = dice.randbytes(1 << 20)
        self.sizes: dict[str, int] = {}
        left = size
        while left > 0:
            one = min(each or min(int(dice.lognormvariate(13.8, 0.9)), 16 << 20), left)
            left -= one
            number = len(self.sizes)
            self.sizes[f"{number // 50:02}/{number:05}"] = one
        self.bytes = size
        self.digests = {path: _digest(self._content(path)) for path in self.sizes}

    def make(self) -> None:
        """Write all files, fragmented, in place of what is there."""
        shutil.rmtree(self.root, ignore_errors=True)
        paths = list(self.sizes)
        for path in paths:
            os.makedirs(self.root / os.path.dirname(path), exist_ok=True)
        for first in range(0, len(paths), _TOGETHER):
            self._write(paths[first : first + _TOGETHER])
        os.sync()

    def delete(self, path: str) -> None:
        """Delete a file: it is none of these any more."""
        (self.root / path).unlink()
        self.bytes -= self.sizes.pop(path)
        del self.digests[path]

    def extents(self) -> int:
        """Return in how many pieces all files lie on the disk."""
        number = 0
        for path in self.sizes:
            fd = os.open(self.root / path, os.O_RDONLY)
            end = -1
            for one in extents(fd):
                number += one.physical != end
                end = one.physical + one.length
            os.close(fd)
        return number

    def check_tree(self, root: Path) -> None:
        """Compare a directory.

        Raises:
            ValueError: it is another.

        """
        there = {
            os.path.relpath(os.path.join(top, name), root)
            for top, _, names in os.walk(root)
            for name in names
        }
        if there != set(self.sizes):
            raise ValueError(f"{root}: other files: {sorted(there ^ set(self.sizes))[:5]}")
        for path in self.sizes:
            with open(root / path, "rb") as file:
                self.check(path, file)

    def check(self, path: str, file: IO[bytes]) -> None:
        """Compare the content of a file.

        Raises:
            ValueError: it is another.

        """
        if _digest(iter(lambda: file.read(1 << 20), b"")) != self.digests[path]:
            raise ValueError(f"{path}: its content is another")

    def _write(self, paths: list[str]) -> None:
        """Write some files in turns: each gets its place on the disk in turn as well."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        fds = [os.open(self.root / path, flags, 0o644) for path in paths]
        longest = max(self.sizes[path] for path in paths)
        for start in range(0, longest, _CHUNK):
            for fd, path in zip(fds, paths, strict=True):
                length = min(_CHUNK, self.sizes[path] - start)
                if length > 0:
                    os.posix_fallocate(fd, start, length)
        for fd, path in zip(fds, paths, strict=True):
            for piece in self._content(path):
                os.write(fd, piece)
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)

    def _content(self, path: str) -> Iterator[bytes]:
        number, size = int(os.path.basename(path)), self.sizes[path]
        for start in range(0, size, len(self._noise)):
            piece = bytearray(self._noise)
            for offset in range(0, len(piece), _PAGE):
                struct.pack_into("=QQ", piece, offset, number, (start + offset) // _PAGE)
            yield bytes(memoryview(piece)[: size - start])


def _digest(pieces: Iterator[bytes]) -> str:
    """Return the checksum of a content, as scrub makes it."""
    checksum, size = Checksum(), 0
    for piece in pieces:
        checksum.add(size, piece)
        size += len(piece)
    return checksum.end(size)
