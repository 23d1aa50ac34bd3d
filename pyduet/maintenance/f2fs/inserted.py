# SPDX-License-Identifier: MIT
"""What this process brings into the page cache, told by the kernel's own trace.

Duet tells of files whose names it has seen. f2fs cleans by inode number, and
reads files whose names nobody has looked up.
"""

import contextlib
import mmap
import os
import re
import threading
from types import TracebackType
from typing import Self

#: The tracefs, where the kernel mounts it when it is first looked at.
_TRACEFS = "/sys/kernel/tracing"
_EVENT = "events/filemap/mm_filemap_add_to_page_cache"
#: Of include/trace/events/filemap.h: the inode number is hexadecimal, the offset in bytes.
_LINE = re.compile(r" ino (?:0x)?([0-9a-f]+) .*\bofs=(\d+)(?: order=(\d+))?")


class Inserted:
    """The pages that the calling thread puts in the cache of a file system; a context manager.

    It has a trace instance of its own, so that it is in nobody's way.

    Thread-safety: none.
    """

    def __init__(self, device: int) -> None:
        """Prepare.

        Args:
            device: of the file system, as of ``st_dev``.

        """
        self._device = device
        self._place = f"{_TRACEFS}/instances/duet-{os.getpid()}"

    def __enter__(self) -> Self:
        """Begin to trace.

        Raises:
            OSError: the kernel has no tracefs, or does not let this process use it.

        """
        os.mkdir(self._place, 0o700)
        try:
            # The kernel's own number of a device: MKDEV() of linux/kdev_t.h.
            number = os.major(self._device) << 20 | os.minor(self._device)
            self._write(f"{_EVENT}/filter", f"s_dev == {number}")
            self._write("set_event_pid", str(threading.get_native_id()))
            self._write(f"{_EVENT}/enable", "1")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the trace; see :meth:`close`."""
        self.close()

    def close(self) -> None:
        """End the trace, and remove the instance."""
        with contextlib.suppress(OSError):
            self._write(f"{_EVENT}/enable", "0")
        os.rmdir(self._place)

    def take(self) -> dict[int, set[int]]:
        """Return the pages since the last time, indexes by inode number."""
        found: dict[int, set[int]] = {}
        with open(f"{self._place}/trace", encoding="ascii", errors="replace") as file:
            for line in file:
                if match := _LINE.search(line):
                    first = int(match[2]) // mmap.PAGESIZE
                    pages = range(first, first + (1 << int(match[3] or 0)))
                    found.setdefault(int(match[1], 16), set()).update(pages)
        self._write("trace", "")
        return found

    def _write(self, name: str, text: str) -> None:
        # Truncating is what empties the trace.
        with open(f"{self._place}/{name}", "w", encoding="ascii") as file:
            file.write(text)
