# SPDX-License-Identifier: MIT
"""Disks that are full while a task works: what is said, and that the next run goes on."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import places
import pytest
import restore
from compare import differences, look

from pyduet.maintenance import Frame, Ledger, LedgerError, Maintenance, Options, Progress, Use
from pyduet.maintenance.frame import ledger as ledgers
from pyduet.maintenance.tasks.backup import Backup
from pyduet.maintenance.tasks.scrub import Scrub

pytestmark = pytest.mark.root

BLIND = Options(duet=Use.NEVER, give_way=False)
FILES = 1500
MS_REMOUNT = 0x20


class Small:
    """A file system in memory, of so many KiB."""

    def __init__(self, path: Path, kib: int) -> None:
        self.path = path
        self.path.mkdir()
        places.mount("none", path, "tmpfs", data=f"size={kib}k")

    def grow(self, kib: int) -> None:
        places.mount("none", self.path, flags=MS_REMOUNT, data=f"size={kib}k")


@pytest.fixture
def small(private: Path) -> Iterator[Callable[[int], Small]]:
    """A function that makes one."""
    path = private / "small"
    yield lambda kib: Small(path, kib)
    subprocess.run(["umount", path], check=True)
    path.rmdir()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A directory with so many files that a ledger of them is larger than a small file system."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(FILES):
        (many / f"{number:04}{'x' * 100}").write_bytes(b"content")
    return many


def run(task: Maintenance, root: Path, state: Path) -> Progress:
    with Ledger(str(state), task.kind, str(root)) as ledger:
        return Frame(task, str(root), ledger, BLIND).run()


@pytest.mark.parametrize("kind", ["scrub", "backup"])
def test_the_disk_of_the_ledger_is_full(
    kind: str,
    many: Path,
    tmp_path: Path,
    small: Callable[[int], Small],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of the run, after some of it was committed."""
    monkeypatch.setattr(ledgers, "_COMMIT", 0.0)
    archive = tmp_path / "archive.tar"
    disk = small(152)
    state = disk.path / "state"

    def task() -> Maintenance:
        return Scrub() if kind == "scrub" else Backup(str(archive))

    with pytest.raises(LedgerError) as full:
        run(task(), many, state)
    assert str(full.value) == (
        f"{state}: there is no room on its disk; make some, and run it again"
    )
    disk.grow(4096)
    with Ledger(str(state), kind, str(many), read_only=True) as ledger:
        assert ledger.resumed
        done = len(list(ledger.files()))
    assert 0 < done < FILES
    progress = run(task(), many, state)
    assert progress.problems == []
    assert progress.files == FILES - done
    if kind == "scrub":
        assert progress.report["new"] == FILES
    else:
        (tmp_path / "restored").mkdir()
        assert restore.gnu_tar([archive], tmp_path / "restored").status == 0
        assert not differences(look(many), look(tmp_path / "restored"))
