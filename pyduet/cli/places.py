# SPDX-License-Identifier: MIT
"""Where the command keeps what it remembers, for a user."""

import os


def state_directory() -> str:
    """Return the directory below which a user's state is, by the XDG Base Directory Specification.

    Raises:
        ValueError: there is none: neither ``$HOME`` nor a passwd entry has a
            directory. Nothing is made below the working directory instead.

    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # which is to be ignored
        state = os.path.join(_home(), ".local/state")
    return os.path.join(state, "duet")


def _home() -> str:
    home = os.environ.get("HOME")
    if not home:  # an empty one is none, and not the root directory
        import pwd

        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            raise ValueError(
                f"there is no home directory: $HOME is not set, and user {os.getuid()} has no "
                "passwd entry"
            ) from None
    if not os.path.isabs(home):
        raise ValueError(
            f"there is no home directory: {home or 'an empty one'} is no absolute path"
        )
    return home
