# SPDX-License-Identifier: MIT
"""A task over a tree that is made up: what the frame itself takes for so many files.

``made.py FILES PROBLEMS STATE`` does a pass over all, and then one in which nothing has changed,
and prints an object for each: the highest memory of the process, and its processor time.
"""

import errno
import json
import os
import resource
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pyduet.maintenance import Ledger, Maintenance, Options, Record
from pyduet.maintenance.files.statx import Status
from pyduet.maintenance.files.tree import Found, Tree
from pyduet.maintenance.frame import frame
from pyduet.maintenance.work import LeftOut, Problem, Work

#: Files of a directory.
_FILES = 100
_BORN = 1_700_000_000 * 10**9


class Made(Tree):
    """A tree of which nothing is on the disk but the root."""

    files = 0

    def walk(
        self, trouble: Callable[[Problem], None], left_out: Callable[[LeftOut], None]
    ) -> Iterator[Found]:
        """Yield what there would be."""
        del trouble, left_out
        yield Found("", self._status(stat.S_IFDIR | 0o755, 2))
        for number in range(self.files):
            directory = f"some/directory/of-the-users/{number // _FILES}"
            if not number % _FILES:
                yield Found(directory, self._status(stat.S_IFDIR | 0o755, number * 2 + 3))
            path = f"{directory}/a-file-with-an-ordinary-name-{number}.txt"
            yield Found(path, self._status(stat.S_IFREG | 0o644, number * 2 + 4))

    def _status(self, mode: int, ino: int) -> Status:
        # Spread, as inode numbers are.
        number = ino * 2_654_435_761 % (1 << 40)
        return Status(
            mode, 1, 1000, 1000, self.device, number, 10_000, 24, 4096, 0, _BORN, _BORN, _BORN,
            _BORN + ino, self.root.mount_id, False,
        )  # fmt: skip


class Incremental(Maintenance):
    """A task that does what has changed."""

    kind = "made"

    def worth(self, found: Found, before: Record | None) -> bool:
        """Return whether it has to be done."""
        return before is None or not before.holds(frame.stamp_of(found.status))


def main(files: int, problems: int, state: str) -> None:
    """Do both passes."""
    Made.files = files
    frame.Tree = Made  # type: ignore[misc]
    left = problems

    def work_of(tree: Tree, found: Found) -> Work:
        nonlocal left
        if left:
            left -= 1
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), found.path)
        # Each elsewhere on the disk.
        return Work.of(found.path, found.status, 1, found.status.st_ino * 4096 % (1 << 40))

    frame.work_of = work_of
    root = os.path.dirname(state)
    options = Options(duet=frame.Use.NEVER, give_way=False)
    with Ledger(state, "made", root) as ledger:
        task = frame.Frame(Incremental(), root, ledger, options)
        for work, _ in task.plan():
            ledger.put(work, {"checksum": "0123456789abcdef0123456789abcdef"})
        ledger.end()
        _tell("all", task.progress.named)
    with Ledger(state, "made", root) as ledger:
        left = problems
        progress = frame.Frame(Incremental(), root, ledger, options).run()
        assert progress.files_done == 0, progress
        _tell("unchanged", progress.named)


def _tell(name: str, problems: int) -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps({
            "pass": name,
            "memory": _highest(),
            "processor": usage.ru_utime + usage.ru_stime,
            "problems": problems,
        })
    )  # fmt: skip


def _highest() -> int:
    """Return the most bytes that this program had in memory; ru_maxrss has its parent's, too."""
    status = Path("/proc/self/status").read_text()
    [line] = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
