# SPDX-License-Identifier: MIT
"""Numbers of bytes as people write them."""

import re

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
        raise ValueError(
            f"{text!r} is no size: a number of bytes, or as 64M; 0 is the driver's default"
        )
    unit = 1 << _UNITS[match[2]]
    digits = match[1].partition(".")[0]
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"{text} is more than there can be")
    # Whole numbers as such: a float has them up to 2^53.
    number = int(digits) * unit if digits == match[1] else int(float(match[1]) * unit)
    if number >= 1 << 63:
        raise ValueError(f"{text} is more than there can be")
    return number
