# SPDX-License-Identifier: MIT
"""Looking into the driver, a part at a time: the DUMP calls."""

import ctypes
from collections.abc import Iterator
from typing import TypeVar

from pyduet._driver import abi
from pyduet._driver.descriptor import Descriptor
from pyduet.errors import Operation

_Structure = TypeVar("_Structure", bound=ctypes.Structure)

#: Structures that one call has room for, unless told otherwise.
COUNT = 64


def dump(
    descriptor: Descriptor,
    number: int,
    size: int,
    subject: str,
    *,
    tid: int = 0,
    first: int = 0,
    end: int = 0,
    count: int = COUNT,
) -> Iterator[bytes]:
    """Yield what a DUMP call returns, call by call, whole structures each time.

    Nothing is asked before the first one is taken. What changes meanwhile may
    or may not be seen.

    Args:
        descriptor: of the device, or of the task.
        number: one of ``abi.IOC_DUMP_*``.
        size: of one structure, in bytes.
        subject: what is looked into, for the message when it fails.
        tid: the task, 0 over a task's own descriptor.
        first: of DUMP_NODES, the bucket to begin with.
        end: of DUMP_NODES, the bucket to stop before, 0 for none.
        count: structures that a call has room for.

    Raises:
        DuetError: a call failed.

    """
    buffer = ctypes.create_string_buffer(size * count)
    request = abi.Dump(
        tid=tid,
        first=first,
        end=end,
        len=len(buffer),
        buf=ctypes.addressof(buffer),
        size=size,
    )
    while request.cursor != abi.CURSOR_END:
        descriptor.ioctl(number, request, Operation.LOOK, subject)
        if request.nr:
            yield buffer.raw[: request.nr * size]


def dump_structures(
    descriptor: Descriptor,
    number: int,
    kind: type[_Structure],
    subject: str,
    *,
    tid: int = 0,
    first: int = 0,
    end: int = 0,
) -> Iterator[_Structure]:
    """Yield what a DUMP call returns, structure by structure; see :func:`dump`."""
    size = ctypes.sizeof(kind)
    for data in dump(descriptor, number, size, subject, tid=tid, first=first, end=end):
        for offset in range(0, len(data), size):
            yield kind.from_buffer_copy(data, offset)
