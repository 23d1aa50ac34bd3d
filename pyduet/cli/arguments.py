# SPDX-License-Identifier: MIT
"""What an argument may be, and the error when it is not."""

import argparse
import os
from collections.abc import Callable

from pyduet._driver import abi
from pyduet._text.numbers import bytes_of, tasks_of
from pyduet.events import Mask


def mask(text: str) -> Mask:
    """Return the mask of comma-separated names, as ``exists,modified``."""
    found = Mask(0)
    for name in text.split(","):
        try:
            found |= Mask[name.strip().upper()]
        except KeyError:
            names = ", ".join(str(bit.name).lower() for bit in Mask)
            raise argparse.ArgumentTypeError(f"{name!r} is none of {names}") from None
    try:
        found.check()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return found


def tasks(text: str) -> int:
    """Return a number of tasks that Duet can be started for."""
    return _argument(tasks_of, text)


def count(text: str) -> int:
    """Return a number of things, at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is below 1")
    return number


def seconds(text: str) -> float:
    """Return a time to wait."""
    number = float(text)
    if not 0 <= number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 and 1000000")
    return number


def size(text: str) -> int:
    """Return a number of bytes, given with or without K, M, G or T (of 1,024)."""
    return _argument(bytes_of, text)


def _argument(made_of: Callable[[str], int], text: str) -> int:
    try:
        return made_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def task_name(text: str) -> str:
    """Return the name of a task, if it is not too long."""
    length = len(os.fsencode(text))
    if length >= abi.NAME_LEN:
        raise argparse.ArgumentTypeError(
            f"the name has {length} bytes; {abi.NAME_LEN - 1} are possible"
        )
    return text


# What argparse names in "invalid ... value".
count.__name__ = "whole number"
seconds.__name__ = "number of seconds"
