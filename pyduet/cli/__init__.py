# SPDX-License-Identifier: GPL-2.0-only
"""The ``duet`` command: arguments, exit codes, and errors as one line each."""

import argparse
import enum
import os
import signal
import sys
from collections.abc import Sequence

import pyduet
from pyduet.cli import commands
from pyduet.errors import DuetError, NotLoadedError, OffError, PermissionDeniedError
from pyduet.events import Mask


class Exit(enum.IntEnum):
    """The exit codes, all of them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_LOADED = 3
    NOT_PERMITTED = 4
    OFF = 5
    INTERRUPTED = 128 + signal.SIGINT
    BROKEN_PIPE = 128 + signal.SIGPIPE


_HELP_OF = {
    Exit.OK: "done",
    Exit.FAILED: "failed, see the message",
    Exit.USAGE: "wrong arguments",
    Exit.NOT_LOADED: "the kernel module is not loaded",
    Exit.NOT_PERMITTED: "not permitted",
    Exit.OFF: "Duet is off",
    Exit.INTERRUPTED: "ended by Ctrl-C",
    Exit.BROKEN_PIPE: "the reader of the output went away",
}

_EXIT_OF: list[tuple[type[DuetError], Exit]] = [
    (NotLoadedError, Exit.NOT_LOADED),
    (PermissionDeniedError, Exit.NOT_PERMITTED),
    (OffError, Exit.OFF),
]


def parse_mask(text: str) -> Mask:
    """Return the mask of comma-separated names, as ``exists,modified``."""
    mask = Mask(0)
    for name in text.split(","):
        try:
            mask |= Mask[name.strip().upper()]
        except KeyError:
            names = ", ".join(str(bit.name).lower() for bit in Mask)
            raise argparse.ArgumentTypeError(f"{name!r} is none of {names}") from None
    if mask & Mask.EXISTS and mask & (Mask.ADDED | Mask.REMOVED):
        raise argparse.ArgumentTypeError("exists excludes added and removed")
    if mask & Mask.MODIFIED and mask & (Mask.DIRTY | Mask.FLUSHED):
        raise argparse.ArgumentTypeError("modified excludes dirty and flushed")
    return mask


def _tasks(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 255:
        raise argparse.ArgumentTypeError(f"{count} is not within 1 to 255")
    return count


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is below 1")
    return count


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 and 1000000")
    return seconds


# What argparse names in "invalid ... value".
_tasks.__name__ = _count.__name__ = "whole number"
_seconds.__name__ = "number of seconds"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="duet",
        description="Be told which pages of which files the page cache holds.",
        epilog="exit codes: " + ", ".join(f"{code:d} {text}" for code, text in _HELP_OF.items()),
    )
    parser.add_argument("--version", action="version", version=f"duet {pyduet.__version__}")
    parser.add_argument(
        "--device", default=pyduet.DEFAULT_DEVICE, metavar="PATH", help="default: %(default)s"
    )
    sub = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    status = sub.add_parser("status", help="is Duet on, and how many tasks are registered")
    status.set_defaults(run=commands.status)

    start = sub.add_parser("start", help="switch Duet on (root)")
    start.add_argument(
        "-n", dest="max_tasks", type=_tasks, default=0, metavar="MAX", help="tasks at a time"
    )
    start.set_defaults(run=commands.start)

    stop = sub.add_parser("stop", help="switch Duet off, which ends every task (root)")
    stop.set_defaults(run=commands.stop)

    tasks = sub.add_parser("list", help="the registered tasks")
    tasks.set_defaults(run=commands.list_tasks)

    watch = sub.add_parser(
        "watch", help="print what happens to the pages below a directory, or of a file"
    )
    watch.add_argument("path", metavar="PATH", help="the directory or file")
    watch.add_argument(
        "--mask",
        type=parse_mask,
        default="exists,modified",
        metavar="NAMES",
        help="comma-separated: added, removed, dirty, flushed, exists, modified "
        "(default: %(default)s)",
    )
    watch.add_argument("--count", type=_count, metavar="N", help="stop after N lines")
    watch.add_argument(
        "--timeout", type=_seconds, metavar="S", help="stop after S seconds without an event"
    )
    watch.set_defaults(run=commands.watch)

    for printing in (status, tasks, watch):
        printing.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: without the program's name; None takes them from the command line.

    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes once more at exit; give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except (OSError, ValueError) as error:
        print(f"duet: {error}", file=sys.stderr)
        return next((code for kind, code in _EXIT_OF if isinstance(error, kind)), Exit.FAILED)
    return Exit.OK
