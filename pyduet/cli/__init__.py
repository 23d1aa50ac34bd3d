# SPDX-License-Identifier: MIT
"""The ``duet`` command: its arguments, and errors as one line each."""

import argparse
import os
import sys
from collections.abc import Sequence

import pyduet
from pyduet.cli import (
    cached,
    completion,
    control,
    debug,
    doctor,
    metrics,
    run,
    setup,
    top,
    tui,
    watch,
)
from pyduet.cli.exits import Exit, exit_of
from pyduet.errors import DuetError

__all__ = ["Exit", "main", "parser"]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command, which the man page is made of as well."""
    made = argparse.ArgumentParser(
        prog="duet",
        description="Be told which pages of which files the page cache holds, and what happens to "
        "them. Data go to stdout, words to stderr.",
        epilog="exit codes: " + "; ".join(f"{code:d} {code.meaning}" for code in Exit),
    )
    made.add_argument("--version", action="version", version=f"duet {pyduet.__version__}")
    made.add_argument(
        "--device", default=pyduet.DEFAULT_DEVICE, metavar="NODE", help="default: %(default)s"
    )
    commands = made.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for room in (control, setup, watch, top, cached, run, tui, doctor, metrics, debug, completion):
        room.add(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: without the program's name; None takes them from the command line.

    """
    made = parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(made)
    options = made.parse_args(arguments)
    try:
        code = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more at exit; give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except (OSError, ValueError) as error:
        print(f"duet: {_words(error)}", file=sys.stderr)
        return exit_of(error)
    return Exit.OK if code is None else Exit(code)


def _words(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and not isinstance(error, DuetError) and error.filename:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    return str(error)
