# SPDX-License-Identifier: GPL-2.0-only
"""The one place where a call of the interface is made."""

import ctypes
import fcntl

from pyduet.errors import Operation, error_for


def call(
    fd: int,
    number: int,
    request: ctypes.Structure,
    operation: Operation,
    subject: str = "",
) -> int:
    """Make an ioctl and return what it returned.

    Args:
        fd: a descriptor of the device.
        number: one of ``abi.IOC_*``.
        request: its structure; the kernel's answer comes back in it.
        operation: what the call does, for the message when it fails.
        subject: to what.

    Raises:
        DuetError: the call failed.

    """
    try:
        return int(fcntl.ioctl(fd, number, request))
    except OSError as error:
        raise error_for(error.errno or 0, operation, subject) from error
