# SPDX-License-Identifier: MIT
"""The lab's own terminal: raw while the guest has it, and its size."""

import contextlib
import os
import sys
import termios
import tty
from collections.abc import Iterator


def size() -> tuple[int, int]:
    """Rows and columns of the terminal on stdout."""
    try:
        got = os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return 24, 80
    return got.lines or 24, got.columns or 80


@contextlib.contextmanager
def raw_keyboard() -> Iterator[int | None]:
    """Hand every key through unread; gives the descriptor to read, or None without keyboard."""
    if not sys.stdin.isatty():
        yield None
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        # Not the default, which throws away what was typed ahead.
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
