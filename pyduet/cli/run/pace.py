# SPDX-License-Identifier: MIT
"""How a task keeps out of the way: what the command takes for its process, and its options."""

import argparse
import os

from pyduet.cli.text import warn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says so, and --json, which all tasks have as well."""
    parser.add_argument(
        "--no-idle", action="store_true", help="do not take the idle classes of I/O and processor"
    )
    parser.add_argument(
        "--no-give-way", action="store_true", help="do not back off while others use the disk"
    )
    parser.add_argument("--json", action="store_true", help="print an object each second")


def take(options: argparse.Namespace) -> None:
    """Give this process, and what it starts, the idle classes, unless it is not to have them.

    Args:
        options: of :func:`add_arguments`.

    """
    if options.no_idle or getattr(options, "dry_run", False):
        return
    for what, why in _be_idle():
        warn(f"not in the idle class of {what}: {why}; what is done may slow others down")


def _be_idle() -> list[tuple[str, str]]:
    """Take the idle classes; return what was not possible, each with the reason."""
    failed = []
    try:
        import psutil
    except ImportError:
        failed.append(
            ("I/O", "psutil is not installed (pyduet[run] of pip, Debian's python3-psutil)")
        )
    else:
        try:
            psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
        except (OSError, psutil.Error) as error:
            failed.append(("I/O", _reason(error)))
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError as error:
        failed.append(("the processor", _reason(error)))
    return failed


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
