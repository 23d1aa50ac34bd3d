# SPDX-License-Identifier: MIT
"""How stores keep their blocks in files: a path says which block it is, or that it is none."""

import mmap
import os
import re
from typing import Protocol

#: Of dfs.blocksize and spark.sql.files.maxPartitionBytes, unless they are set.
DEFAULT_PART = 128 << 20


class Store(Protocol):
    """A store, as far as it keeps blocks in a directory of this host.

    Attributes:
        part: pages of each block in a file of several, 0 where a file is one block.

    """

    part: int

    def name(self, path: str) -> str | None:
        """Return the name of the block that a file is, by its path; None if it holds none.

        Of a file of several it is what their names begin with: ``#`` and their number follow.
        """


class Hdfs:
    """A DataNode's directory (``dfs.datanode.data.dir``): a file for each block.

    Blocks are named by their pool and number, ``BP-...:1073741825``. Where their checksums are
    (``blk_..._1001.meta``) is none. A block is in ``rbw`` while it is written, and is moved to
    ``finalized`` then: the same file.
    """

    _PATH = re.compile(r"/(BP-[^/]+)/current/(?:finalized|rbw)/(?:[^\0]*/)?blk_(-?\d+)\Z")

    part = 0

    def name(self, path: str) -> str | None:
        """Return which block a file is."""
        found = self._PATH.search(path)
        return f"{found[1]}:{found[2]}" if found else None


class MooseFs:
    """A chunkserver's directory (in ``mfshdd.cfg``): a file for each chunk, with a header.

    Chunks are named by their number, as ``mfsfileinfo`` says it: 16 hexadecimal digits. The version
    is left out: a chunk that is written to gets another one, and is the same file.
    """

    _PATH = re.compile(r"/[0-9A-F]{2}/chunk_([0-9A-F]{16})_[0-9A-F]{8}\.mfs\Z")

    part = 0

    def name(self, path: str) -> str | None:
        """Return which chunk a file is."""
        found = self._PATH.search(path)
        return found[1] if found else None


class Plain:
    """Any directory, such as one that hosts have copies of: blocks are parts of its files.

    They are named by the file's path below the directory and the number of the part, ``a/b#3``.
    """

    def __init__(self, directory: str | os.PathLike[str], part: int = DEFAULT_PART) -> None:
        """Take a directory.

        Args:
            directory: which.
            part: bytes of a block; whole pages.

        Raises:
            ValueError: these are no whole pages, or none.

        """
        if part < mmap.PAGESIZE or part % mmap.PAGESIZE:
            raise ValueError(f"blocks of {part} bytes are no whole pages of {mmap.PAGESIZE}")
        self._directory = os.fsdecode(directory).rstrip("/") + "/"
        self.part = part // mmap.PAGESIZE

    def name(self, path: str) -> str | None:
        """Return what the names of a file's blocks begin with."""
        below = path.removeprefix(self._directory)
        return below if below not in ("", path) else None
