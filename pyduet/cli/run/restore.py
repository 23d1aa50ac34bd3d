# SPDX-License-Identifier: MIT
"""``duet run restore``."""

import argparse

from pyduet._text.numbers import plural
from pyduet.cli.exits import Exit
from pyduet.cli.run import framed
from pyduet.cli.text import print_json, say


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Restore a full archive of duet run backup, and the incremental ones after it, to a "
        "directory. Before anything is written they are looked through: that they are whole, and "
        "belong together. What could not be restored as it was is named."
    )
    parser.add_argument(
        "archives", nargs="+", metavar="ARCHIVE", help="a full one, and those after it, in order"
    )
    parser.add_argument("target", metavar="TARGET", help="the directory; made if it is not there")
    parser.add_argument(
        "--over",
        action="store_true",
        help="also into a directory that is not empty: what the archives have replaces what is "
        "there, and incremental ones remove what they have not",
    )
    parser.add_argument("--json", action="store_true", help="print an object each second")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from pyduet.cli.progress import shown
    from pyduet.maintenance.archive.restore import Restore

    with shown(options, "restore", options.target) as tell:
        done = Restore(options.archives, options.target, over=options.over, tell=tell).run()
    if options.json:
        print_json(done)
    framed.name_all(done.problems, done.named)
    where = framed.named_where(done.problems, done.named)
    say(
        options,
        f"{plural(done.members, 'member')} restored to {options.target}"
        + (f", {plural(done.removed, 'name')} removed that is no more" if done.removed else "")
        + (f"; {done.named:,} {where}" if done.named else ""),
    )
    return Exit.NAMED if done.named else Exit.OK
