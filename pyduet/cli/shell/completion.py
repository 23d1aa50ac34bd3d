# SPDX-License-Identifier: MIT
"""What the last word of an unfinished line may become."""

import os
from collections.abc import Iterable, Iterator

from pyduet import Mask
from pyduet.cli.shell.grammar import COMMANDS, Word
from pyduet.cli.shell.lines import UsageError, escape, last_word, split
from pyduet.cli.shell.session import Session


def complete(session: Session, line: str) -> tuple[int, list[str]]:
    """Return where the last word of a line begins, and what can be typed in its place.

    What cannot be found out, as without the device, is no candidate.

    Args:
        session: whose device knows the tasks.
        line: up to the cursor.

    """
    start, word = last_word(line)
    try:
        before = split(line[:start])
        found = sorted(_candidates(session, before, word))
    except (OSError, UsageError):
        found = []
    return start, [escape(text) + end for text, end in found]


def _candidates(session: Session, before: list[str], word: str) -> Iterator[tuple[str, str]]:
    """Yield words that begin so, and what is to follow them."""
    if not before:
        kind = Word.COMMAND
    elif command := COMMANDS.get(before[0]):
        place = sum(not text.startswith("-") for text in before[1:])
        kind = command.words[min(place, len(command.words) - 1)]
        if word.startswith("-"):
            yield from _starting(word, command.options)
            return
    else:
        return
    if kind is Word.COMMAND:
        yield from _starting(word, (name for name in COMMANDS if name != "EOF"))
    elif kind is Word.TASK:
        yield from _starting(word, (str(task.id) for task in session.device.tasks()))
    elif kind is Word.MASK:
        yield from _masks(word)
    elif kind is Word.PATH:
        yield from _paths(word)


def _starting(word: str, texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((text, " ") for text in texts if text.startswith(word))


def _masks(word: str) -> Iterator[tuple[str, str]]:
    head, comma, tail = word.rpartition(",")
    for name in (bit.names[0] for bit in Mask):
        if name.startswith(tail) and name not in head.split(","):
            yield head + comma + name, ""


def _paths(word: str) -> Iterator[tuple[str, str]]:
    directory, start = os.path.split(word)
    with os.scandir(directory or ".") as entries:
        for entry in entries:
            hidden = entry.name.startswith(".") and not start
            if entry.name.startswith(start) and entry.name.isprintable() and not hidden:
                path = word[: len(word) - len(start)] + entry.name
                yield path + "/" * entry.is_dir(), "" if entry.is_dir() else " "
