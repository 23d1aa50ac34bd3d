# SPDX-License-Identifier: MIT
"""Tells of a file that the kernel does not come back from.

Who writes to a file holds its lock meanwhile, and while the page fault of what is written is waited
for. With memory that is a mapping of a FUSE file whose server does not answer, that is for ever.
Whoever asks for the file's extents or its holes waits for the lock (on XFS, whoever reads it), in a
sleep that no signal ends. The kernel has no such call that does not wait, or not for long.
"""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

#: Seconds of one uninterruptible sleep after which it is told of, and looks in that time.
_PATIENCE, _LOOKS = 60.0, 6
#: Processes that are told of at most.
_TOLD = 3


class Watchdog:
    """Watches over the thread that enters it, until it leaves; a context manager.

    Thread-safety: none.
    """

    def __init__(self, warn: Callable[[str], object]) -> None:
        """Prepare.

        Args:
            warn: is told of a file that is waited for, in a line; from a thread of its own,
                while the thread that is watched waits.

        """
        self._warn = warn
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        """Begin, and return itself."""
        self._watched = threading.get_native_id()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        sleep, since, is_told = None, 0.0, False
        while not self._end.wait(_PATIENCE / _LOOKS):
            now = self._sleep()
            if now != sleep:
                sleep, since, is_told = now, time.monotonic(), False
            elif now and not is_told and (seconds := time.monotonic() - since) >= _PATIENCE:
                is_told = True
                self._warn(_words(self._file(), seconds))

    def _sleep(self) -> str | None:
        """Return what tells one uninterruptible sleep from others; None while in no such one."""
        try:
            status = Path(f"/proc/self/task/{self._watched}/status").read_text()
        except OSError:
            return None  # without /proc nothing is told
        if not re.search(r"^State:\s+D", status, re.M):
            return None
        return "".join(re.findall(r"^\w*ctxt_switches:.*$", status, re.M))

    def _file(self) -> str | None:
        """Return the path of the file that the system call is about, if that can be told."""
        try:
            call = Path(f"/proc/self/task/{self._watched}/syscall").read_text().split()
            return os.readlink(f"/proc/self/fd/{int(call[1], 16)}")
        except (OSError, IndexError, ValueError):
            return None


def _words(path: str | None, seconds: float) -> str:
    words = (
        f"{path or 'a file'}: waited for since {seconds:.0f} s, and no signal ends that: its lock "
        "is held, or its disk does not answer"
    )
    if path and (holders := list(_holders(path))):
        more = f" and {len(holders) - _TOLD} more" if len(holders) > _TOLD else ""
        words += f". It is open in {', '.join(holders[:_TOLD])}{more}: end that, to go on"
    if waiting := list(_waiting()):
        aborts = ", ".join(f"/sys/fs/fuse/connections/{one}/abort" for one in waiting)
        words += (
            ". Who cannot be ended, either, may wait for a FUSE file system that does not answer: "
            f"write 1 to {aborts}"
        )
    return words


def _holders(path: str) -> Iterator[str]:
    """Yield the other processes that have a file open, as far as this one may know."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        # Links are read, and not followed: that might wait as well.
        with contextlib.suppress(OSError):
            if any(os.readlink(fd) == path for fd in (process / "fd").iterdir()):
                name = os.fsdecode((process / "comm").read_bytes().strip())
                yield f"process {process.name} ({name})"


def _waiting() -> Iterator[str]:
    """Yield the connections of FUSE with requests that were not answered yet."""
    for connection in Path("/sys/fs/fuse/connections").glob("*"):
        with contextlib.suppress(OSError):
            if int((connection / "waiting").read_text()):
                yield connection.name
