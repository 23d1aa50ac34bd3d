# SPDX-License-Identifier: MIT
"""The ``duet`` command: its arguments, and errors as one line each."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from pyduet.cli import streams
from pyduet.cli.exits import Exit, Terminated, exit_of
from pyduet.cli.lazy import Parser, add_common
from pyduet.errors import DuetError

__all__ = ["Exit", "main", "parser"]

#: The commands, with their modules, of which only that is imported which is used.
_COMMANDS = {
    "status": ("pyduet.cli.status", "whether Duet is on, for whom, and what it takes"),
    "start": ("pyduet.cli.start", "switch Duet on (root)"),
    "stop": ("pyduet.cli.stop", "switch Duet off, which ends every task (root)"),
    "set": ("pyduet.cli.set", "set limits (root)"),
    "setup": ("pyduet.cli.setup", "apply the administrator's configuration (root)"),
    "list": ("pyduet.cli.list", "the registered tasks; without CAP_SYS_ADMIN one's own"),
    "end": ("pyduet.cli.end", "end a task; another process's: root"),
    "watch": ("pyduet.cli.watch", "what happens to the pages below a directory, or of a file"),
    "top": ("pyduet.cli.top", "the most cached and the most changing files below a directory"),
    "cached": (
        "pyduet.cli.cached",
        "what is cached now of the files below a directory, or of a file",
    ),
    "run": ("pyduet.cli.run", "maintenance that works first on what is in memory"),
    "tui": ("pyduet.cli.tui", "the administrator's screen"),
    "doctor": ("pyduet.cli.doctor", "check whether Duet can work here, and say what mends it"),
    "metrics": ("pyduet.cli.metrics", "counters in Prometheus' text format"),
    "debug": ("pyduet.cli.debug", "a shell that looks into Duet and its tasks"),
    "completion": ("pyduet.cli.completion", "the completion script of a shell"),
    "help": ("pyduet.cli.help", "the help of a command"),
}


def parser() -> Parser:
    """Return the parser of the command, with all that it takes: the man page is made of it."""
    made = _parser()
    made.fill(deep=True)
    return made


def _parser() -> Parser:
    from pyduet import __version__

    made = Parser(
        prog="duet",
        description="Be told which pages of which files the page cache holds, and what happens to "
        "them. Data go to stdout, words to stderr.",
        epilog="exit codes: " + "; ".join(f"{code:d} {code.meaning}" for code in Exit),
    )
    made.add_argument("-V", "--version", action="version", version=f"duet {__version__}")
    add_common(made)
    made.add_commands(_COMMANDS, title="commands", metavar="COMMAND")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: without the program's name; None takes them from the command
            line, and with them the process's streams and SIGTERM.

    """
    try:
        if arguments is None:
            streams.take()
            signal.signal(signal.SIGTERM, _terminated)
        try:
            code = _run(arguments)
        except SystemExit as end:  # argparse's, after the help or an error
            code = int(end.code or 0)
        sys.stdout.flush()
    except Terminated:
        return Exit.TERMINATED
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except streams.OutputError as error:
        streams.abandon_output()
        if error.code is not Exit.BROKEN_PIPE:
            print(f"duet: {error}", file=sys.stderr)
        return error.code
    except (OSError, ValueError) as error:
        print(f"duet: {_words(error)}", file=sys.stderr)
        return exit_of(error)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser())
    options = _parser().parse_args(arguments)
    code = options.run(options)
    return Exit.OK if code is None else Exit(code)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise Terminated


def _words(error: OSError | ValueError) -> str:
    """Return an error on one line, whatever name a file has."""
    from pyduet._text.names import printable

    words = str(error)
    if isinstance(error, OSError) and not isinstance(error, DuetError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        words = f"{where}{error.strerror}"
    return printable(words)
