# SPDX-License-Identifier: MIT
"""``duet run``: maintenance that works first on what is in memory. A file for each task."""

from pyduet.cli.lazy import Parser

#: The tasks, with their modules, as the commands have theirs.
_TASKS = {
    "scrub": (
        "pyduet.cli.run.scrub",
        "find files whose content has changed though their size and times have not",
    ),
    "btrfs-scrub": (
        "pyduet.cli.run.btrfs_scrub",
        "verify the checksums of btrfs, reading only what was not read meanwhile",
    ),
    "backup": ("pyduet.cli.run.backup", "write an archive that tar restores"),
    "restore": ("pyduet.cli.run.restore", "restore what backup wrote"),
    "send": ("pyduet.cli.run.send", "write a stream that btrfs receive takes (btrfs)"),
    "defrag": ("pyduet.cli.run.defrag", "join the extents of files (btrfs, ext4, XFS)"),
    "rsync": (
        "pyduet.cli.run.rsync",
        "copy with rsync, in batches, and once over all in the end",
    ),
    "f2fs-gc": (
        "pyduet.cli.run.f2fs_gc",
        "clean segments of an f2fs, those first of which the most is in memory",
    ),
}


def add(parser: Parser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Run a maintenance task on the files below a directory: first on those that are in "
        "memory, then on the others as they lie on the disk. Tasks that run at the same time "
        "share what they read. One that is ended (Ctrl-C, a crash) goes on where it was when it "
        "is run again."
    )
    parser.add_commands(_TASKS, title="tasks", metavar="TASK")
