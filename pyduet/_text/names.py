# SPDX-License-Identifier: MIT
"""Names that others chose: of files, for people to read and to be kept, and of users."""

import os


def printable(text: str) -> str:
    """Return text that stays on one line and cannot steer the terminal."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def text_of(path: str) -> str:
    """Return a path as text that is the same in each locale, to be kept beyond this process.

    A path is bytes. As text it is what the locale makes of them, so in another one that is another
    path. Here it is their UTF-8; what is none stays, as lone surrogates, which JSON escapes.
    """
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def path_of(text: str) -> str:
    """Return the path that :func:`text_of` was given, as text in this locale.

    Raises:
        ValueError: it is no such text.

    """
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def user_name(uid: int) -> str:
    """Return the name of a user, or the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
