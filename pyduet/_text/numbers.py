# SPDX-License-Identifier: MIT
"""Numbers as people write and read them: of bytes, seconds, tasks, and things."""

import re

from pyduet._driver import abi

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}

#: Of 2^63. What is longer may be more than a float, or an int, is made of.
_MOST_DIGITS = 19


def bytes_of(text: str) -> int:
    """Return a number of bytes, given with or without K, M, G or T (of 1,024).

    Args:
        text: as ``4096``, ``64M`` or ``1.5 GiB``.

    Raises:
        ValueError: it is no size, or 2^63 bytes or more; says what is possible.

    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    if not match:
        raise ValueError(f"{text!r} is no size: give a number of bytes, or as 64M (K, M, G or T)")
    unit = 1 << _UNITS[match[2]]
    digits = match[1].partition(".")[0]
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"{text} is more than there can be")
    # Whole numbers as such: a float has them up to 2^53.
    number = int(digits) * unit if digits == match[1] else int(float(match[1]) * unit)
    if number >= 1 << 63:
        raise ValueError(f"{text} is more than there can be")
    return number


def tasks_of(text: str) -> int:
    """Return a number of tasks that Duet can be started for; also the number of one of them.

    Raises:
        ValueError: it is no number, or out of range; says what is possible.

    """
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None
    if not 1 <= number <= abi.MAX_TASKS:
        raise ValueError(f"{number} is not within 1 to {abi.MAX_TASKS}")
    return number


def size(number: int) -> str:
    """Return a number of bytes in the unit that keeps it short, as ``1.5 MiB``."""
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def age(seconds: float) -> str:
    """Return a time as people say it, as ``3m12s``."""
    whole = int(seconds)
    for unit, length, below in (("d", 86400, "h"), ("h", 3600, "m"), ("m", 60, "s")):
        if whole >= length:
            part = length // {"d": 24, "h": 60, "m": 60}[unit]
            return f"{whole // length}{unit}{whole % length // part}{below}"
    return f"{whole}s"


def plural(number: int, one: str) -> str:
    """Return a number and what it counts, as ``1 task`` or ``2 tasks``."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"
