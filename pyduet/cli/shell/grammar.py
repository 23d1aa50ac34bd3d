# SPDX-License-Identifier: MIT
"""The commands of the shell: how each is called, and what help says of it."""

import argparse
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from pyduet import Mask
from pyduet.cli import arguments
from pyduet.cli.shell import commands
from pyduet.cli.shell.lines import UsageError
from pyduet.cli.shell.session import Session
from pyduet.cli.shell.show import Answer


class Leave(Exception):  # noqa: N818 -- it is no error
    """The shell is to be left."""


class Word(enum.Enum):
    """What a word of a command is, for completion."""

    NOTHING = enum.auto()
    COMMAND = enum.auto()
    TASK = enum.auto()
    MASK = enum.auto()
    PATH = enum.auto()


class _Parser(argparse.ArgumentParser):
    """Takes the words of one command; what is wrong is raised, and nothing is printed."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see: help {self.prog}")


_Run = Callable[[Session, argparse.Namespace], Answer]


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        parser: takes its words and explains them.
        run: does it.
        words: what they are; the last stands for all that follow.
        options: those that it takes.

    """

    parser: argparse.ArgumentParser
    run: _Run
    words: tuple[Word, ...]
    options: tuple[str, ...]


#: The commands by name, in the order of the help.
COMMANDS: dict[str, Command] = {}


def answer(session: Session, words: Sequence[str]) -> Answer:
    """Do what the words of a line say.

    Args:
        session: what the shell holds.
        words: at least one.

    Raises:
        Leave: they say to leave the shell.
        UsageError: there is no such command, or it does not take these words.
        DuetError, ValueError: it could not be done.

    """
    name, *rest = words
    if rest in (["-h"], ["--help"]):
        name, rest = "help", [name]
    command = _find(name)
    return command.run(session, command.parser.parse_args(rest))


def _find(name: str) -> Command:
    try:
        return COMMANDS[name]
    except KeyError:
        raise UsageError(f"there is no command {name!r}; help lists those there are") from None


def _help(_session: Session, options: argparse.Namespace) -> Answer:
    if options.command is None:
        lines = [f"{name:10}  {command.parser.description}" for name, command in COMMANDS.items()]
        return Answer.lines({"help": "\n".join(lines)}, lines, "help COMMAND tells more")
    text = _find(options.command).parser.format_help().rstrip()
    return Answer.lines({"help": text}, text.splitlines())


def _leave(_session: Session, _options: argparse.Namespace) -> Answer:
    raise Leave


def _bucket(text: str) -> int:
    if not 0 <= (number := int(text)) <= _LAST_BUCKET:
        raise argparse.ArgumentTypeError(f"{number} is not within 0 and {_LAST_BUCKET}")
    return number


def _end(text: str) -> int:
    if not (number := _bucket(text)):  # which would mean "no end" to the driver
        raise argparse.ArgumentTypeError("before bucket 0 there is none")
    return number


def _mask(text: str) -> Mask:
    if not text.lower().startswith("0x"):
        return arguments.mask(text)
    number = int(text, 16)
    if number & ~sum(Mask):
        raise argparse.ArgumentTypeError(f"{text} has bits that mean nothing, see: mask")
    return Mask(number)


#: Far more than a table can have.
_LAST_BUCKET = 2**44 - 1

# What argparse names in "invalid ... value".
_bucket.__name__ = _end.__name__ = "whole number"
_mask.__name__ = "mask"

_FILES = (
    "A FILE is a path, or INO:GEN: inode number and generation, as read, items and bitmap tell "
    "them. Two numbers alone are one file as well; a file called 7 is ./7."
)


def _add(
    name: str,
    run: _Run,
    description: str,
    *words: Word,
    options: tuple[str, ...] = (),
    more: str = "",
) -> Callable[..., argparse.Action]:
    parser = _Parser(
        prog=name, description=description, epilog=more, add_help=False, allow_abbrev=False
    )
    COMMANDS[name] = Command(parser, run, words or (Word.NOTHING,), options)
    return parser.add_argument


def _add_all() -> None:
    nothing, task, path = Word.NOTHING, Word.TASK, Word.PATH

    def add_id(add: Callable[..., argparse.Action]) -> Callable[..., argparse.Action]:
        add("id", metavar="ID", type=arguments.count, help="the task's number, see list")
        return add

    _add("status", commands.status, "is Duet on, and how many tasks are registered")
    add = _add("start", commands.start, "switch Duet on (root)")
    add(
        "max_tasks",
        metavar="MAX",
        nargs="?",
        type=arguments.tasks,
        default=0,
        help="tasks at a time",
    )
    _add("stop", commands.stop, "switch Duet off, which ends every task (root)")
    _add("list", commands.list_tasks, "the tasks; own ones are those of this shell")

    add = _add(
        "register",
        commands.register,
        "register a task, which ends with the shell; prints its number",
        *(path, Word.MASK, nothing),
        options=("--ranges", "--no-scan", "--snapshot"),
    )
    add("path", metavar="PATH", help="the directory or file to watch")
    add(
        "mask",
        metavar="MASK",
        nargs="?",
        type=_mask,
        default=Mask.EXISTS | Mask.MODIFIED,
        help="names with commas, or a number as 0x30; see mask (default: exists,modified)",
    )
    add(
        "name",
        metavar="NAME",
        nargs="?",
        type=arguments.task_name,
        default="duet debug",
        help="default: %(default)s",
    )
    add("--ranges", action="store_true", help="have the driver tell runs of pages")
    add("--no-scan", action="store_true", help="what is cached already is no news")
    add("--snapshot", action="store_true", help="tell only what is cached now")
    add_id(_add("deregister", commands.deregister, "end a task, of any process", task, nothing))

    add = add_id(_add("read", commands.read, "read a task of this shell", task, nothing))
    add(
        "max",
        metavar="MAX",
        nargs="?",
        type=arguments.count,
        default=4096,
        help=f"how many of the driver's items at most (default: %(default)s, up to "
        f"{commands.MOST_ITEMS})",
    )
    add_id(
        _add("items", commands.pending, "what is pending of a task, not consumed", task, nothing)
    )
    add_id(_add("rescan", commands.rescan, "tell a task anew what is cached", task, nothing))
    add_id(_add("bitmap", commands.bitmap, "the files that a task marked done", task, nothing))

    for name, run, description in (
        ("set", commands.set_marks, "mark files done: the task is told no more of them"),
        ("reset", commands.reset_marks, "take done marks away"),
        ("check", commands.check, "are files done, or of no interest to the task"),
    ):
        add = add_id(_add(name, run, description, task, path, more=_FILES))
        add("files", metavar="FILE", nargs="+", help="see below")
    add = add_id(
        _add(
            "getpath", commands.getpath, "the path of a file, as it is now", task, path, more=_FILES
        )
    )
    add("file", metavar="FILE", nargs="+", help="see below")

    add = _add("table", commands.table, "the table of nodes: its shape, or what is in it (root)")
    add("first", metavar="FIRST", nargs="?", type=_bucket, help="the nodes from this bucket on")
    add("end", metavar="END", nargs="?", type=_end, default=0, help="and before this one")
    _add("info", commands.info, "how Duet is set, and its counters (those: root)")
    _add("hooks", commands.hooks, "which hooks are attached and work")
    _add("mask", commands.masks, "what the names in a mask mean")
    add = _add("help", _help, "what there is, and how it is called", Word.COMMAND, nothing)
    add("command", metavar="COMMAND", nargs="?", help="what to explain")
    for name in ("quit", "exit", "EOF"):
        _add(name, _leave, "leave the shell, which ends its tasks")


_add_all()
