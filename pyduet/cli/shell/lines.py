# SPDX-License-Identifier: MIT
"""Lines and their words: how the shell takes them apart, and puts a word back in."""

import io
import re
import shlex

_LAST_WORD = re.compile(r"(?:\\.|[^\s\\])*\Z")


class UsageError(ValueError):
    """A line that no command understands."""


def split(line: str) -> list[str]:
    r"""Return the words of a line, by the rules of a POSIX shell for quotes and ``\``.

    A word that begins with ``#`` begins a comment.

    Raises:
        UsageError: a quote that is not closed, or nothing behind a ``\``.

    """
    stream = io.StringIO(line)
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split = True
    # shlex itself would see a comment within a word as well.
    lexer.commenters = ""
    words = []
    try:
        while not line[stream.tell() :].lstrip().startswith("#"):
            word = lexer.get_token()
            if word is None:
                break
            words.append(word)
    except ValueError as error:
        raise UsageError(f"{str(error).lower()}: close the quote, or put \\ before it") from None
    return words


def escape(word: str) -> str:
    """Return a word as it has to be typed for :func:`split` to return it."""
    return re.sub(r"([\s\\'\"#])", r"\\\1", word)


def last_word(line: str) -> tuple[int, str]:
    r"""Return where the last word of a line begins, and the word without its ``\``.

    The word is empty when the line ends between two of them.
    """
    found = _LAST_WORD.search(line)
    start = found.start() if found else len(line)
    return start, re.sub(r"\\(.)", r"\1", line[start:])
