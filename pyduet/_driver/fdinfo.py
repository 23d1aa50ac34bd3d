# SPDX-License-Identifier: MIT
"""What the kernel says of a task's descriptor: /proc/PID/fdinfo."""

import os
import re
from dataclasses import dataclass

from pyduet.events import Mask


@dataclass(frozen=True, slots=True)
class FdInfo:
    """Whose descriptor it is.

    Attributes:
        task: identity of the task.
        mask: what it asked for.
        flags: how it was registered, ``abi.Register``.
        item_size: bytes of an item that it reads.
        name: that it was registered with.
        path: directory or file, as the registering process saw it.

    """

    task: int
    mask: Mask
    flags: int
    item_size: int
    name: str
    path: str


def read(fd: int) -> FdInfo:
    """Return what the kernel says of a task's descriptor of this process.

    Raises:
        ValueError: it is no task's descriptor, or not open.

    """
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        lines = []
    found = dict(line.split(b":\t", 1) for line in lines if line.startswith(b"duet-"))
    if not found:
        raise ValueError(f"descriptor {fd} is not of a task of Duet")
    return FdInfo(
        task=int(found[b"duet-task"]),
        mask=Mask(int(found[b"duet-mask"], 0)),
        flags=int(found[b"duet-flags"], 0),
        item_size=int(found[b"duet-item-size"]),
        name=_text(found[b"duet-name"]),
        path=_text(found[b"duet-path"]),
    )


def _text(escaped: bytes) -> str:
    """Undo the kernel's ``seq_escape()``: octal for newline and backslash."""
    raw = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), escaped)
    return os.fsdecode(raw)
