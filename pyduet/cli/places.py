# SPDX-License-Identifier: MIT
"""Where the command keeps what it remembers, for a user."""

import os


def state_directory() -> str:
    """Return the directory below which a user's state is, by the XDG Base Directory Specification.

    Raises:
        ValueError: there is none: neither ``$HOME`` nor a passwd entry has a
            directory. Nothing is made below the working directory instead.

    """
    home = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(home):  # which is to be ignored
        home = os.path.expanduser("~/.local/state")
    if not os.path.isabs(home):
        raise ValueError(
            f"there is no home directory: $HOME is not set, and user {os.geteuid()} has no passwd "
            "entry"
        )
    return os.path.join(home, "duet")
