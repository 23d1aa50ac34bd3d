# SPDX-License-Identifier: MIT
"""Owning an open descriptor that one thread may close while others use it."""

import ctypes
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from pyduet.errors import Operation, error_for


class Descriptor:
    """An open descriptor, a context manager that closes it.

    Thread-safety: everything may be called from several threads. ``close()``
    returns at once; a call that another thread is in ends as it would have,
    and the kernel's descriptor is closed after the last of them, so none of
    them can reach somebody else's file of the same number.
    """

    def __init__(self, fd: int, what: str) -> None:
        """Take over a descriptor.

        Args:
            fd: the descriptor; nobody else closes it from here on.
            what: what it is, for messages.

        """
        self._fd = fd
        self._what = what
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    def __enter__(self) -> Self:
        """Return the object itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    @property
    def closed(self) -> bool:
        """Whether ``close()`` was called."""
        return self._closed

    def close(self) -> None:
        """Close it; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            # What wakes the others is owned as well: it stays until that is done.
            self._users += 1
        self._wake()
        self._leave()

    def fileno(self) -> int:
        """Return the descriptor, for poll and the like; raises ValueError when closed."""
        if self._closed:
            raise ValueError(f"{self._what} is closed")
        return self._fd

    @contextmanager
    def _use(self) -> Iterator[int]:
        """Keep the descriptor open while it is used; raises ValueError when closed."""
        with self._lock:
            fd = self.fileno()
            self._users += 1
        try:
            yield fd
        finally:
            self._leave()

    def _leave(self) -> None:
        """Be done with using it; the last one closes the descriptor."""
        with self._lock:
            self._users -= 1
            last = self._closed and not self._users
        if last:
            self._release()

    def _wake(self) -> None:
        """Wake who waits in a call; called once, by ``close()``."""

    def _release(self) -> None:
        """Close what is owned; called once, when nobody uses it any more."""
        os.close(self._fd)

    def ioctl(
        self, number: int, request: ctypes.Structure, operation: Operation, subject: str = ""
    ) -> int:
        """Make a call of the interface and return what it returned.

        Args:
            number: one of ``abi.IOC_*``.
            request: its structure; the kernel's answer comes back in it.
            operation: what the call does, for the message when it fails.
            subject: to what.

        Raises:
            DuetError: the call failed.
            ValueError: closed.

        """
        with self._use() as fd:
            try:
                return int(fcntl.ioctl(fd, number, request))
            except OSError as error:
                raise error_for(error.errno or 0, operation, subject) from error


class Bell:
    """Wakes everybody who polls it, once rung and for ever (eventfd(2)).

    A bell that was inherited over ``fork()`` rings in both processes, so who
    is woken looks whether it was meant.
    """

    def __init__(self) -> None:
        """Make a bell; it owns a descriptor."""
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._fd

    def ring(self) -> None:
        """Make it readable."""
        os.eventfd_write(self._fd, 1)

    def silence(self) -> None:
        """Make it unreadable again: it was rung by the other side of a fork."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._fd)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)
