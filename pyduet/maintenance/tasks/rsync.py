# SPDX-License-Identifier: MIT
"""rsync, in the order of what is in memory: in batches, and once over all in the end."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.frame.work import BadFileError, Problem, TargetError, Trouble, Work

#: Exit codes after which the other files may well be in order: some could not be
#: transferred, or vanished.
_PARTIAL = (23, 24)


class Rsync(Maintenance):
    """Drives the real rsync.

    rsync sorts its list and waits for the end of it, so it is given files in
    batches, those that are in memory first. What a list of files cannot say,
    directories, links, deletions, is left to a plain run over everything in the
    end, which finds the files' data in place.
    """

    kind = "rsync"
    batch = 200

    def __init__(self, target: str, options: Sequence[str] = ()) -> None:
        """Prepare.

        Args:
            target: as rsync has it: a directory, HOST:DIR, or rsync://HOST/MODULE.
            options: rsync's own, for every run of it; ``-a`` is always given.

        """
        self._target = target
        self._options = list(options)
        self._runs = 0

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Take the directory."""
        del ledger, found
        self._source = f"{tree.path.rstrip('/')}/"
        self.problems: list[Problem] = []

    def process_many(self, works: Sequence[Work]) -> Mapping[str, Any]:
        """Transfer a batch of files; those that were not are named by the last run, if at all."""
        # To delete takes a directory to compare with.
        options = [one for one in self._options if not one.startswith("--del")]
        names = b"".join(os.fsencode(work.path) + b"\0" for work in works)
        self._rsync([*options, "--files-from=-", "--from0", "--ignore-missing-args"], names)
        if os.path.isdir(self._target):
            for work in works:
                _drop(os.path.join(self._target, work.path))
        return {}

    def finish(self, found: Inventory) -> None:
        """Settle the rest."""
        del found
        said = self._rsync(self._options, b"")
        if said:
            raise BadFileError(Trouble.FAILED, said)

    def report(self) -> Mapping[str, int]:
        """Return how often rsync was run."""
        return {"rsync_runs": self._runs}

    def _rsync(self, options: Sequence[str], names: bytes) -> str:
        """Run rsync; returns what it said when not all could be transferred.

        Raises:
            TargetError: it failed as a whole.

        """
        self._runs += 1
        command = ["rsync", "-a", *options, self._source, self._target]
        try:
            done = subprocess.run(command, input=names, capture_output=True, check=False)
        except FileNotFoundError:
            raise TargetError(0, "rsync is not installed", "rsync") from None
        words = done.stderr.decode(errors="replace").strip()
        if done.returncode in (0, *_PARTIAL):
            return words if done.returncode == 23 else ""
        last = re.sub(r"\s+", " ", words.splitlines()[-1] if words else "no reason given")
        raise TargetError(0, f"rsync ended with {done.returncode}: {last}", self._target)


def _drop(path: str) -> None:
    """Send a file that was written to the disk, and out of memory."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
