# SPDX-License-Identifier: MIT
"""Owning an open descriptor that one thread may close while others use it."""

import ctypes
import fcntl
import os
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Self

from pyduet.errors import Operation, error_for


class Descriptor:
    """An open descriptor, a context manager that closes it.

    Who forgets to close it is warned (:class:`ResourceWarning`) when it is
    collected, and it is closed then.

    Thread-safety: everything may be called from several threads. ``close()``
    returns at once; a call that another thread is in ends as it would have,
    and the kernel's descriptor is closed after the last of them, so none of
    them can reach somebody else's file of the same number.

    After ``fork()`` the child has one of its own, whatever other threads were
    doing with it: of them there is none in the child.
    """

    #: So that one whose making failed has nothing to close.
    _closed = True

    def __init__(self, fd: int, what: str, filename: str | None = None) -> None:
        """Take over a descriptor.

        Args:
            fd: the descriptor; nobody else closes it from here on.
            what: what it is, for messages.
            filename: path of what it is open on, for errors.

        """
        self._fd = fd
        self._what = what
        self._filename = filename
        self._lock = threading.Lock()
        #: How often each thread is using it.
        self._users: dict[int, int] = {}
        self._released = False
        self._closed = False
        _ALL.add(self)

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

    def __repr__(self) -> str:
        """Return what it is, for people."""
        return f"<{type(self).__name__} of {self._what}{', closed' if self.closed else ''}>"

    def __del__(self) -> None:
        """Warn who forgot to close it, and close it."""
        if not self._closed:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)
            finally:
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
            self._enter()
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
            self._enter()
        try:
            yield fd
        finally:
            self._leave()

    def _enter(self) -> None:
        """Begin to use it, under the lock."""
        thread = threading.get_ident()
        self._users[thread] = self._users.get(thread, 0) + 1

    def _leave(self) -> None:
        """Be done with using it; the last one closes the descriptor."""
        thread = threading.get_ident()
        with self._lock:
            self._users[thread] -= 1
            if not self._users[thread]:
                del self._users[thread]
        self._release_if_last()

    def _release_if_last(self) -> None:
        """Close what is owned if nobody uses it any more, once."""
        if not self._closed or self._users:  # looked at again below: this is the way of each call
            return
        with _CLOSING:
            with self._lock:
                last = not self._users and not self._released
                self._released |= last
            if last:
                self._release()

    def _begin_in_child(self) -> None:
        """Forget what other threads were doing: after a fork there are none."""
        thread = threading.get_ident()
        self._lock = threading.Lock()
        self._users = {thread: self._users[thread]} if thread in self._users else {}
        # The thread that was to close it, or that is told so by the last user, is not here.
        self._release_if_last()

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
                raise error_for(error.errno or 0, operation, subject, self._filename) from error


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


#: Those of this process.
_ALL: "weakref.WeakSet[Descriptor]" = weakref.WeakSet()
#: Held while a descriptor is closed, and over a fork: nobody could tell in the child whether one
#: that was being closed was closed already, or is somebody else's by now.
_CLOSING = threading.RLock()


def _begin_in_child() -> None:
    for descriptor in list(_ALL):
        with suppress(OSError):  # of a close(2), after which it is closed nevertheless
            descriptor._begin_in_child()
    _CLOSING.release()


os.register_at_fork(
    before=_CLOSING.acquire,
    after_in_parent=_CLOSING.release,
    after_in_child=_begin_in_child,
)
