# SPDX-License-Identifier: MIT
"""``duet run backup``."""

import argparse
import os
from typing import TYPE_CHECKING

from pyduet._text.jsonable import to_jsonable
from pyduet._text.names import printable
from pyduet.cli.run import framed
from pyduet.cli.run.state import default_ledger, ledgers
from pyduet.cli.text import print_json, say, warn

if TYPE_CHECKING:
    from pyduet.maintenance.archive.chain import Link
    from pyduet.maintenance.tasks.backup import Backup


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the task takes."""
    parser.description = (
        "Write the files to a pax archive, as ARCHIVE.partial until it is whole. tar and duet run "
        "restore restore it; the commands are printed in the end. Archives in one directory are a "
        "chain: an incremental one has what has changed since the last one there."
    )
    framed.add_arguments(parser, _task, within=_within, after=_after)
    archive = parser.add_argument("archive", metavar="ARCHIVE", help="the file to write")
    parser.add_argument(
        "--incremental",
        action="store_true",
        help="only what has changed since the last archive of the chain; what is gone is removed "
        "by a restore",
    )
    parser.add_argument(
        "--chain",
        metavar="NAME",
        help="the chain that the archive belongs to, wherever it is written (default: that of the "
        "directory it is written to)",
    )
    parser.add_argument(
        "--list",
        action=_List,
        nargs=0,
        const=archive,
        default=False,
        help="only list the archives of PATH: of all chains, or with ARCHIVE or --chain of one",
    )
    parser.set_defaults(run=_run)


class _List(argparse.Action):
    """Does without the archive, its constant: what need not be given may follow no option."""

    const: argparse.Action

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        del parser, values, option_string
        namespace.list = True
        self.const.nargs, self.const.required = "?", False


def _run(options: argparse.Namespace) -> int:
    if options.list:
        return _list(options)
    return framed.run(options)


def _task(options: argparse.Namespace) -> "Backup":
    from pyduet.maintenance.tasks.backup import Backup

    return Backup(options.archive, incremental=options.incremental)


def _within(options: argparse.Namespace) -> str:
    return str(options.chain or os.path.dirname(os.path.realpath(options.archive)))


def _after(options: argparse.Namespace, task: "Backup") -> None:
    say(options, "to restore, to a directory TARGET, with tar or with duet:")
    for command in task.commands():
        say(options, f"  {command}")


def _list(options: argparse.Namespace) -> int:
    from pyduet.maintenance import Ledger
    from pyduet.maintenance.archive.chain import Link

    root = os.path.realpath(options.path)
    if options.state:
        files = [options.state]
    elif options.chain or options.archive:
        files = [default_ledger("backup", root, _within(options))]
    else:
        files = ledgers("backup", root)
    known = False
    for file in files:
        with Ledger(file, "backup", root, read_only=True) as ledger:
            for kept in ledger.fact("chain", []):
                known = True
                _show(options, Link.of(kept))
    if not known:
        warn(f"no archive of {root} is known")
    return 0


def _show(options: argparse.Namespace, link: "Link") -> None:
    import time

    state = _state(link)
    if options.json:
        print_json({**to_jsonable(link), "state": state})
        return
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(link.begun))
    kind = "incremental" if link.parent else "full"
    print(f"{when}  {kind:<11}  {state:<8}  {printable(link.archive)}")


def _state(link: "Link") -> str:
    """Return whether an archive is where it was written."""
    from pyduet.maintenance.tasks.backup import is_replaced

    try:
        return "replaced" if is_replaced(link) else "there"
    except OSError:
        return "missing"
