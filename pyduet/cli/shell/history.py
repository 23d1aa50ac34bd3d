# SPDX-License-Identifier: MIT
"""The lines of earlier shells, in ``$XDG_STATE_HOME/duet/history``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyduet._place import Place, open_to_write
from pyduet.cli.places import state_directory
from pyduet.cli.text import warn

#: Lines that are kept.
_LENGTH = 1000


@contextmanager
def kept() -> Iterator[None]:
    """Bring back the history, and add the new lines to it at the end.

    Without readline there is none; a file that cannot be used is said on
    stderr and does no harm.
    """
    try:
        import readline
    except ImportError:
        yield
        return
    try:
        path = os.path.join(state_directory(), "history")
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with Place(path) as place:
            place.need_own_directory()  # readline opens it by path
        os.close(open_to_write(path, keep=True))
        readline.read_history_file(path)
    except (OSError, ValueError) as error:
        why = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
        warn(f"{why}; this history is not kept")
        yield
        return
    readline.set_history_length(_LENGTH)
    before = readline.get_current_history_length()
    try:
        yield
    finally:
        # Added, not written anew: another shell may have done so meanwhile.
        with suppress(OSError):
            readline.append_history_file(readline.get_current_history_length() - before, path)
