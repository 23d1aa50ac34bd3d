# SPDX-License-Identifier: MIT
"""duet(4): the device, of docs/interface.md, docs/ABI and the header."""

import re
from pathlib import Path

from . import roff
from .markdown import TOP, filled, included, sections

_TEMPLATE = Path(__file__).resolve().parent.parent / "duet.4.md"
_INTERFACE = "docs/interface.md"
_HEADER = TOP / "driver/uapi/duet.h"
_CALL = re.compile(r"^#define\s+(DUET_IOC_\w+)\s+_IO\w+\(DUET_IOC_MAGIC, \w+, (struct \w+)\)", re.M)


def page() -> str:
    """Return the page.

    Raises:
        ValueError: the template leaves out a section of the interface, or
            includes one that is not there.

    """
    wanted = {(_INTERFACE, heading) for heading in sections(TOP / _INTERFACE) if heading}
    if left_out := wanted - included(_TEMPLATE):
        raise ValueError(f"{_TEMPLATE} leaves out: {', '.join(sorted(h for _, h in left_out))}")
    text = filled(_TEMPLATE).replace("    <!-- calls -->", _calls())
    return roff.from_markdown(text, section=4, manual="Kernel Interfaces Manual")


def _calls() -> str:
    calls = _CALL.findall(_HEADER.read_text(encoding="utf-8"))
    return "\n".join(f"    int ioctl(int fd, {call}, {kind} *arg);" for call, kind in calls)
