# SPDX-License-Identifier: MIT
"""Being told at once that something changed: uevents of the device, and poll(2) on sysfs."""

import asyncio
import contextlib
import os
import select
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyduet._driver import sysfs

if TYPE_CHECKING:
    import pyudev

#: The files that poll(2) tells of, see docs/ABI/testing/sysfs-class-misc-duet.
_FILES = ("enabled", "tasks")


class Uevents:
    """The uevents of the device and of the module, while it is open.

    They are those of the kernel, not of udevd, which not every machine has.

    Thread-safety: none; it belongs to an event loop.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Begin to listen.

        Args:
            tell: called with each, in words.

        Raises:
            ImportError: pyudev, or libudev, is not installed.
            OSError: the kernel does not tell.

        """
        import pyudev

        self._tell = tell
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
        self._monitor.filter_by("misc")
        self._monitor.filter_by("module")
        self._monitor.start()
        asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._read)

    def close(self) -> None:
        """Listen no more."""
        asyncio.get_running_loop().remove_reader(self._monitor.fileno())

    def _read(self) -> None:
        while (event := self._monitor.poll(timeout=0)) is not None:
            if event.sys_name == "duet":
                self._tell(_words(event))


def _words(event: "pyudev.Device") -> str:
    # The numbers that every uevent has say nothing here.
    told = [
        f"{name}={value}"
        for name, value in sorted(event.properties.items())
        if name.startswith("DUET_")
    ]
    return " ".join([f"uevent {event.action} {event.device_path}", *told])


class Attributes:
    """poll(2) on files in sysfs, while they are there.

    An event loop waits for what can be read, which these files always can:
    the descriptor that it waits for is that of an epoll, which waits for
    POLLPRI.

    Thread-safety: none; it belongs to an event loop.
    """

    def __init__(self, tell: Callable[[], None]) -> None:
        """Begin with no file; :meth:`attach` opens them.

        Args:
            tell: called when something changed.

        """
        self._tell = tell
        self._epoll = select.epoll()
        self._files: list[int] = []
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._read)

    def attach(self) -> None:
        """Open the files, if that was not done since the module was loaded."""
        if self._files:
            return
        for name in _FILES:
            with contextlib.suppress(OSError):
                fd = os.open(os.path.join(sysfs.DIRECTORY, name), os.O_RDONLY | os.O_CLOEXEC)
                self._files.append(fd)
                os.read(fd, 64)
                self._epoll.register(fd, select.EPOLLPRI)

    def detach(self) -> None:
        """Close them: the module has gone."""
        for fd in self._files:
            os.close(fd)  # which takes it out of the epoll, too
        self._files.clear()

    def close(self) -> None:
        """Wait no more."""
        asyncio.get_running_loop().remove_reader(self._epoll.fileno())
        self.detach()
        self._epoll.close()

    def _read(self) -> None:
        for fd, _ in self._epoll.poll(0):
            try:
                os.pread(fd, 64, 0)  # told until it is read
            except OSError:
                self.detach()
                break
        self._tell()
