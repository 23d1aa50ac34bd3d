# SPDX-License-Identifier: MIT
"""``duet run f2fs-gc``: works on segments, without the frame of the other tasks."""

import argparse
import os

from pyduet._text.numbers import plural
from pyduet.cli import arguments
from pyduet.cli.run import pace
from pyduet.cli.text import print_json, say, warn


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the task takes."""
    parser.description = (
        "Have f2fs clean those segments of which the fewest blocks have to be read, and free them. "
        "Works on the whole file system, and needs root."
    )
    parser.add_argument("path", metavar="PATH", help="where the f2fs is mounted")
    parser.add_argument(
        "--segments",
        type=arguments.count,
        default=10,
        metavar="N",
        help="clean so many, of 2 MiB, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--most-valid",
        type=arguments.count,
        default=384,
        metavar="BLOCKS",
        help="leave segments that have more valid blocks, of 512 (default: %(default)s)",
    )
    parser.add_argument(
        "--count-writes",
        action="store_true",
        help="choose by what is read and written, not by what is read alone",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--own-choice", action="store_true", help="let f2fs choose the segments: to compare with"
    )
    either.add_argument(
        "--dry-run", action="store_true", help="only list what would be cleaned, in its order"
    )
    pace.add_arguments(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from pyduet.cli.progress import shown
    from pyduet.maintenance.f2fs.cleaner import Cleaner

    root = os.path.realpath(options.path)
    pace.take(options)
    with shown(options, "f2fs-gc", root) as tell:
        cleaner = Cleaner(
            root,
            device=options.device,
            most_valid=options.most_valid,
            count_writes=options.count_writes,
            tell=tell,
        )
        if options.dry_run:
            for victim in cleaner.plan(options.segments):
                if options.json:
                    print_json(victim)
                else:
                    print(
                        f"segment {victim.segment:>8}  {victim.valid:>3} blocks valid, "
                        f"{victim.cached:>3} of them cached"
                    )
            return
        done = cleaner.run(
            options.segments,
            own_choice=options.own_choice,
            give_way=not options.no_give_way,
        )
    if options.json:
        print_json(done)
    if done.stays is not None:
        warn(f"what was read stays in memory: {done.stays}")
    say(
        options,
        f"{plural(done.segments_done, 'segment')} cleaned, {plural(done.blocks_moved, 'block')} "
        f"moved; {done.blocks_cached:,} of those were in memory"
        + (f"; {plural(done.refused, 'segment')} refused, in use" if done.refused else ""),
    )
