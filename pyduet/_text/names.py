# SPDX-License-Identifier: MIT
"""Names that others chose, for people to read: of files, and of users."""


def printable(text: str) -> str:
    """Return text that stays on one line and cannot steer the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def user_name(uid: int) -> str:
    """Return the name of a user, or the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
