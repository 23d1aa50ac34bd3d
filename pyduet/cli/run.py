# SPDX-License-Identifier: MIT
"""``duet run``: maintenance that works first on what is in memory."""

import argparse
import importlib.util
import os
import signal
import sys
from typing import TYPE_CHECKING

from pyduet._text.names import printable
from pyduet._text.numbers import plural, size
from pyduet.cli import arguments
from pyduet.cli.exits import Exit
from pyduet.cli.idle import be_idle
from pyduet.cli.text import print_json

if TYPE_CHECKING:
    from pyduet.maintenance import Frame, Maintenance, Options, Progress


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "run",
        help="maintenance that works first on what is in memory",
        description="Run a maintenance task on the files below a directory: first on those that "
        "are in memory, then on the others as they lie on the disk. Tasks that run at the same "
        "time share what they read. One that is ended (Ctrl-C, a crash) goes on where it was "
        "when it is run again.",
    )
    kinds = parser.add_subparsers(title="tasks", required=True, metavar="TASK")
    scrub = kinds.add_parser(
        "scrub",
        help="find files whose content has changed though nobody wrote them",
        description="Compare each file with its checksum of the last time. The first pass makes "
        "the checksums.",
    )
    scrub.set_defaults(task=_scrub)
    btrfs_scrub = kinds.add_parser(
        "btrfs-scrub",
        help="verify the checksums of btrfs, reading only what was not read meanwhile",
        description="Verify each block of the files, in all its copies, and the metadata.",
    )
    btrfs_scrub.add_argument(
        "--repair", action="store_true", help="mend what is bad where there is a good copy"
    )
    btrfs_scrub.set_defaults(task=_btrfs_scrub)
    backup = kinds.add_parser(
        "backup",
        help="write an archive that tar restores",
        description="Write the files to a pax archive. tar --extract --xattrs restores it; an "
        "incremental one after those before it, with --incremental, which removes what is gone.",
    )
    backup.set_defaults(task=_backup)
    defrag = kinds.add_parser(
        "defrag",
        help="join the extents of files (btrfs, ext4, XFS)",
        description="Join the extents of the files that have too many.",
    )
    defrag.set_defaults(task=_defrag)
    rsync = kinds.add_parser(
        "rsync",
        help="copy with rsync, in batches, and once over all in the end",
        description="Drive rsync -a: files in batches, then a plain run that settles all else. "
        "Its own options come after --.",
    )
    rsync.set_defaults(task=_rsync)
    send = kinds.add_parser(
        "send",
        help="write a stream that btrfs receive takes (btrfs)",
        description="Write a read-only snapshot of the btrfs subvolume PATH as a send stream, "
        "the data of what is in memory first. btrfs receive takes it.",
    )
    send.set_defaults(task=_send)
    kinds_of = (scrub, btrfs_scrub, backup, send, defrag, rsync)
    for one in kinds_of:
        one.add_argument("path", metavar="PATH", help="the directory")
    rsync.add_argument("target", metavar="TARGET", help="as rsync has it")
    rsync.add_argument("options", nargs="*", metavar="OPTION", help="rsync's own, after --")
    backup.add_argument("archive", metavar="ARCHIVE", help="the file to write")
    backup.add_argument(
        "--incremental", action="store_true", help="only what has changed since the last archive"
    )
    send.add_argument("snapshot", metavar="SNAPSHOT", help="a read-only snapshot of PATH")
    send.add_argument("stream", metavar="STREAM", help="the file to write")
    send.add_argument(
        "--parent", metavar="PARENT",
        help="an older read-only snapshot that the receiver has: only what has changed since",
    )  # fmt: skip
    for one in kinds_of:
        _add_options(one)
        one.set_defaults(run=_run)
    _add_f2fs(kinds)


def _add_f2fs(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = kinds.add_parser(
        "f2fs-gc",
        help="clean segments of an f2fs, those first of which the most is in memory",
        description="Have f2fs clean those segments of which the fewest blocks have to be read, "
        "and free them. Works on the whole file system, and needs root.",
    )
    parser.add_argument("path", metavar="PATH", help="where the f2fs is mounted")
    parser.add_argument(
        "--segments", type=arguments.count, default=10, metavar="N",
        help="clean so many, of 2 MiB, at most (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--most-valid", type=arguments.count, default=384, metavar="BLOCKS",
        help="leave segments that have more valid blocks, of 512 (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--count-writes", action="store_true",
        help="choose by what is read and written, not by what is read alone",
    )  # fmt: skip
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--own-choice", action="store_true", help="let f2fs choose the segments: to compare with"
    )
    either.add_argument(
        "--dry-run", action="store_true", help="only list what would be cleaned, in its order"
    )
    _add_pace(parser)
    parser.set_defaults(run=_f2fs)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state",
        metavar="FILE",
        help="what was done, for the next run (default: a file for each task and directory below "
        "/var/lib/duet, or without root below ~/.local/state/duet)",
    )
    parser.add_argument("--anew", action="store_true", help="do not go on where the last run ended")
    parser.add_argument(
        "--dry-run", action="store_true", help="only list what would be done, in its order"
    )
    parser.add_argument(
        "--rate", type=arguments.size, default=0, metavar="SIZE",
        help="read so much a second from the disk at most",
    )  # fmt: skip
    parser.add_argument(
        "--window", type=arguments.size, default=0, metavar="SIZE",
        help="read so much ahead of other tasks at most (default: all together a quarter of the "
        "available memory)",
    )  # fmt: skip
    parser.add_argument(
        "--patience", type=arguments.seconds, default=30.0, metavar="S",
        help="wait so long for other tasks while they use nothing (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--uninformed", action="store_true", help="do not ask Duet: to compare with"
    )
    _add_pace(parser)


def _add_pace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-idle", action="store_true", help="do not take the idle classes of I/O and processor"
    )
    parser.add_argument(
        "--no-give-way", action="store_true", help="do not back off while others use the disk"
    )
    parser.add_argument("--json", action="store_true", help="print an object each second")


def _scrub(options: argparse.Namespace) -> "Maintenance":
    del options
    _need("scrub", "xxhash")
    from pyduet.maintenance.tasks.scrub import Scrub

    return Scrub()


def _btrfs_scrub(options: argparse.Namespace) -> "Maintenance":
    _need("btrfs-scrub", "crc32c")
    from pyduet.maintenance.tasks.btrfs_scrub import BtrfsScrub

    return BtrfsScrub(repair=options.repair)


def _backup(options: argparse.Namespace) -> "Maintenance":
    from pyduet.maintenance.tasks.backup import Backup

    return Backup(options.archive, incremental=options.incremental)


def _defrag(options: argparse.Namespace) -> "Maintenance":
    del options
    from pyduet.maintenance.tasks.defrag import Defrag

    return Defrag()


def _rsync(options: argparse.Namespace) -> "Maintenance":
    from pyduet.maintenance.tasks.rsync import Rsync

    return Rsync(options.target, options.options)


def _send(options: argparse.Namespace) -> "Maintenance":
    _need("send", "crc32c")
    from pyduet.maintenance.tasks.send import Send

    return Send(options.snapshot, options.stream, parent=options.parent)


def _need(task: str, package: str) -> None:
    """Ensure that a package is installed, whose name is that of its module."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"{task} needs {package}, which is not installed; install pyduet[run] with pip, or "
            f"the Debian package python3-{package}"
        )


def _run(options: argparse.Namespace) -> int:
    from pyduet import maintenance
    from pyduet.cli.progress import shown

    root = os.path.realpath(options.path)
    with os.scandir(root):
        pass  # else nothing is begun
    # A unit that is stopped is to be gone on with, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    task: Maintenance = options.task(options)
    state = ":memory:" if options.dry_run else _state(options, task.kind, root)
    with maintenance.Ledger(state, task.kind, root, anew=options.anew) as ledger:
        if options.dry_run:
            _list(maintenance.Frame(task, root, ledger, _options(options)), json=options.json)
            return Exit.OK
        if ledger.resumed and not options.anew:
            print("duet: going on where the last run was ended", file=sys.stderr)
        if not options.no_idle:
            be_idle()
        with shown(task.kind, json=options.json) as tell:
            progress = maintenance.Frame(task, root, ledger, _options(options), tell).run()
    return _summary(progress, json=options.json)


def _f2fs(options: argparse.Namespace) -> int:
    from pyduet.cli.progress import shown
    from pyduet.maintenance.f2fs.cleaner import Cleaner

    root = os.path.realpath(options.path)
    # What was brought in is to be dropped, too, when a unit is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with shown("f2fs-gc", json=options.json) as tell:
        cleaner = Cleaner(
            root,
            device=options.device,
            most_valid=options.most_valid,
            count_writes=options.count_writes,
            tell=tell,
        )
        if not options.no_idle:
            be_idle()
        if options.dry_run:
            for victim in cleaner.plan(options.segments):
                if options.json:
                    print_json(victim)
                else:
                    print(
                        f"segment {victim.segment:>8}  {victim.valid:>3} blocks valid, "
                        f"{victim.cached:>3} of them cached"
                    )
            return Exit.OK
        done = cleaner.run(
            options.segments,
            own_choice=options.own_choice,
            give_way=not options.no_give_way,
        )
    if options.json:
        print_json(done)
    if done.stays is not None:
        print(f"duet: what was read stays in memory: {printable(done.stays)}", file=sys.stderr)
    print(
        f"{plural(done.segments_done, 'segment')} cleaned, {plural(done.blocks_moved, 'block')} "
        f"moved; {done.blocks_cached:,} of those were in memory"
        + (f"; {plural(done.refused, 'segment')} refused, in use" if done.refused else ""),
        file=sys.stderr,
    )
    return Exit.OK


def _options(options: argparse.Namespace) -> "Options":
    from pyduet.maintenance import Options, Use

    return Options(
        device=options.device,
        duet=Use.NEVER if options.uninformed else Use.AUTO,
        rate=options.rate,
        give_way=not options.no_give_way,
        window=options.window,
        patience=options.patience,
    )


def _state(options: argparse.Namespace, kind: str, root: str) -> str:
    """Return where the ledger is."""
    if options.state:
        return str(options.state)
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    directory = "/var/lib/duet" if os.geteuid() == 0 else os.path.join(home, "duet")
    # As systemd escapes a path, but for what is too long for a name.
    name = root.strip("/").replace("-", "\\x2d").replace("/", "-") or "-"
    return os.path.join(directory, f"{kind}-{name}.ledger")


def _list(frame: "Frame", *, json: bool) -> None:
    files = cached = 0
    for work, share in frame.plan():
        files += 1
        cached += int(work.size * share)
        if json:
            print_json({"path": work.path, "size": work.size, "cached": round(share, 3)})
        else:
            print(f"{share:4.0%}  {size(work.size):>12}  {printable(work.path)}")
    print(f"{plural(files, 'file')}, {size(cached)} of them cached", file=sys.stderr)


def _summary(progress: "Progress", *, json: bool) -> int:
    if json:
        print_json(progress)
    for problem in progress.problems:
        print(
            f"duet: {printable(problem.path)}: {problem.trouble}: {printable(problem.words)}",
            file=sys.stderr,
        )
    for name, count in progress.report.items():
        print(f"{name.replace('_', ' ')}: {count:,}", file=sys.stderr)
    print(
        f"{plural(progress.files_done, 'file')}, {size(progress.bytes_done)}; "
        f"{size(progress.bytes_cached)} of that did not have to be read from the disk"
        + (f"; {plural(len(progress.problems), 'file')} named above" if progress.problems else ""),
        file=sys.stderr,
    )
    return Exit.NAMED if progress.problems else Exit.OK
