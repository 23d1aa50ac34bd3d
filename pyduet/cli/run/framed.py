# SPDX-License-Identifier: MIT
"""What all tasks of ``duet run`` share that the frame runs: their options, and running them."""

import argparse
import collections
import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pyduet._text.names import printable
from pyduet._text.numbers import plural, size
from pyduet.cli import arguments
from pyduet.cli.exits import Exit, Terminated
from pyduet.cli.run import pace
from pyduet.cli.run.state import default_ledger
from pyduet.cli.text import print_json, say, warn

if TYPE_CHECKING:
    from pyduet.maintenance import Frame, Maintenance, Options, Problem, Progress


def add_arguments(
    parser: argparse.ArgumentParser,
    task: Callable[[argparse.Namespace], Any],
    *,
    within: Callable[[argparse.Namespace], str] = lambda _: "",
    after: Callable[[argparse.Namespace, Any], object] = lambda _options, _task: None,
) -> None:
    """Add PATH, which comes before what the task has of its own, and the common options.

    Args:
        parser: of the task.
        task: makes it, of the options.
        within: tells what else the ledger is for, besides the task and PATH: see
            :func:`default_ledger`.
        after: says what else there is to say of a task that has ended.

    """
    parser.add_argument("path", metavar="PATH", help="the directory")
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="what was done, for the next run (default: a file for each task and directory below "
        "/var/lib/duet, or without root below $XDG_STATE_HOME/duet, ~/.local/state/duet)",
    )
    parser.add_argument("--anew", action="store_true", help="do not go on where the last run ended")
    parser.add_argument(
        "--dry-run", action="store_true", help="only list what would be done, in its order"
    )
    parser.add_argument(
        "--rate",
        type=arguments.size,
        default=0,
        metavar="SIZE",
        help="read so much a second from the disk at most (default: 0, no limit)",
    )
    parser.add_argument(
        "--window",
        type=arguments.size,
        default=0,
        metavar="SIZE",
        help="read so much ahead of other tasks at most (default: 0, all together a quarter of the "
        "available memory)",
    )
    parser.add_argument(
        "--patience",
        type=arguments.seconds,
        default=30.0,
        metavar="S",
        help="wait so long for other tasks while they use nothing (default: %(default)s)",
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--require-duet",
        action="store_true",
        help="fail where Duet cannot be asked, rather than work without it",
    )
    either.add_argument(
        "--uninformed", action="store_true", help="do not ask Duet: to compare with"
    )
    pace.add_arguments(parser)
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="say more: where the ledger is, what is left"
    )
    parser.set_defaults(run=run, task=task, within=within, after=after)


def need(task: str, package: str) -> None:
    """Ensure that a package is installed, whose name is that of its module.

    Raises:
        ValueError: it is not; says what to do.

    """
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{task} needs {package}, which is not installed; install pyduet[run] with pip, or "
            f"the Debian package python3-{package}"
        )


def run(options: argparse.Namespace) -> int:
    """Run the task that the options of :func:`add_arguments` describe; return the exit status."""
    from pyduet.cli.progress import shown
    from pyduet.maintenance import Frame, Ledger

    root = os.path.realpath(options.path)
    with os.scandir(root):
        pass  # else nothing is begun
    task: Maintenance = options.task(options)
    state = options.state or default_ledger(task.kind, root, options.within(options))
    how = _options(options)
    if options.dry_run:
        with Ledger(state, task.kind, root, anew=options.anew, read_only=True) as ledger:
            _plan(options, Frame(task, root, ledger, how, _Warned(options)))
        return Exit.OK
    pace.take(options)

    def note(words: str) -> None:
        say(options, f"duet: {words}")

    with Ledger(state, task.kind, root, anew=options.anew) as ledger:
        if options.verbose:
            note(f"what was done is kept in {state}")
        try:
            with shown(options, task.kind, root, bar=not task.prints) as tell:
                progress = Frame(task, root, ledger, how, _Warned(options, tell), note).run()
        except KeyboardInterrupt as end:
            by = "SIGTERM" if isinstance(end, Terminated) else "Ctrl-C"
            warn(f"ended by {by}; run it again, and it goes on where it was")
            raise
    status = summary(options, progress)
    options.after(options, task)
    return status


def _options(options: argparse.Namespace) -> "Options":
    from pyduet.maintenance import Options, Use

    where_there_is_none = Use.REQUIRED if options.require_duet else Use.AUTO
    return Options(
        device=options.device,
        duet=Use.NEVER if options.uninformed else where_there_is_none,
        rate=options.rate,
        give_way=not options.no_give_way,
        window=options.window,
        patience=options.patience,
    )


class _Warned:
    """Says what wants somebody's attention, when it comes, and passes on the progress.

    That is what the task warns of, and that Duet tells nothing, from the begin or from now on.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        tell: Callable[["Progress"], object] = lambda _: None,
    ) -> None:
        self._tell = tell
        self._to_say = not options.uninformed
        self._begun = False
        self._warnings = 0

    def __call__(self, progress: "Progress") -> None:
        if self._to_say and progress.blind is not None:
            self._to_say = False
            how = "going on" if self._begun else "working"
            warn(
                f"{how} without Duet, in the disk's order: {progress.blind} "
                "(--require-duet fails then; --uninformed does not ask)"
            )
        self._begun = True
        for words in progress.warnings[self._warnings :]:
            warn(words)
        self._warnings = len(progress.warnings)
        self._tell(progress)


def _plan(options: argparse.Namespace, frame: "Frame") -> None:
    files = cached = 0
    for work, share in frame.plan():
        files += 1
        cached += int(work.size * share)
        is_known = frame.progress.blind is None
        if options.json:
            told = round(share, 3) if is_known else None
            print_json({"path": work.path, "size": work.size, "cached": told})
        else:
            percent = f"{share:.0%}" if is_known else "?"
            print(f"{percent:>4}  {size(work.size):>12}  {printable(work.path)}")
    if frame.progress.blind is None:
        words = f"{size(cached)} of them cached"
    else:
        words = "what of them is cached is not known without Duet"
    say(options, f"{plural(files, 'file')}, {words}")


def summary(options: argparse.Namespace, progress: "Progress") -> int:
    """Say how it went; return the exit code that says whether all is well."""
    if options.json:
        print_json(progress)
    name_all(progress.problems, progress.named)
    _say_left_out(options, progress)
    where = named_where(progress.problems, progress.named)
    for name, count in progress.report.items():
        say(options, f"{name.replace('_', ' ')}: {count:,}")
    say(
        options,
        f"{plural(progress.files_done, 'file')}, {size(progress.bytes_done)}; "
        f"{size(progress.bytes_cached)} of that did not have to be read from the disk"
        + (f"; {plural(progress.named, 'file')} {where}" if progress.named else ""),
    )
    return Exit.NAMED if progress.named else Exit.OK


def name_all(problems: "Sequence[Problem]", named: int) -> None:
    """Name files with what is wrong with them, a line each, and say how many more there are."""
    for problem in problems:
        where = f"{problem.path}: " if problem.path else ""
        warn(f"{where}{problem.trouble}: {problem.words}")
    if more := named - len(problems):
        warn(f"and {more:,} more that something is wrong with, which are not listed")


def named_where(problems: "Sequence[Problem]", named: int) -> str:
    """Return the words for what :func:`name_all` has named, or some of it."""
    return "named above" if named <= len(problems) else f"named, {len(problems):,} of them above"


def _say_left_out(options: argparse.Namespace, progress: "Progress") -> None:
    """Say what is no part of the work: how much of each kind, and with --verbose what."""
    kinds = collections.Counter(one.kind for one in progress.left_out)
    if options.verbose:
        for one in progress.left_out:
            say(options, f"left out: {one.path} ({one.kind})")
    if more := progress.left_out_count - len(progress.left_out):
        kinds["other"] = more
    if kinds:
        what = ", ".join(plural(number, kind) for kind, number in kinds.items())
        hint = "" if options.verbose else "; -v names them"
        say(options, f"left out: {what}{hint}")
