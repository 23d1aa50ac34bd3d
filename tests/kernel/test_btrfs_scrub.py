# SPDX-License-Identifier: MIT
"""btrfs's own checksums: what is read from the disk, what is believed, and what is found."""

import os
from pathlib import Path

import pytest
from actions import evict, read_page, sync_file
from blocks import PAGE, SIZE, corrupt, make
from truth import drop_caches

from pyduet import Device, cached_pages
from pyduet.maintenance import Frame, Ledger, Options, Progress, Trouble, Use
from pyduet.maintenance.tasks.btrfs_scrub import BtrfsScrub

pytestmark = pytest.mark.fs("btrfs")

CALM = Options(duet=Use.REQUIRED, give_way=False)


@pytest.fixture
def files(place: Path) -> list[Path]:
    found = make(place / "tree")
    drop_caches()
    return found


def run(task: BtrfsScrub, tree: Path) -> Progress:
    with Ledger(":memory:", task.kind, str(tree)) as ledger:
        return Frame(task, str(tree), ledger, CALM).run()


class Reads(BtrfsScrub):
    """Has somebody do something when the pass has begun, before the first file."""

    def __init__(self, *actions: object, repair: bool = False) -> None:
        super().__init__(repair=repair)
        self.actions = actions

    def begin(self, *arguments: object) -> None:
        super().begin(*arguments)  # type: ignore[arg-type]
        for action in self.actions:
            action()  # type: ignore[operator]


def test_what_others_read_is_not_read_again(device: Device, place: Path, files: list[Path]) -> None:
    """Since the pass began: what was cached before that is read, and so is what was written."""
    files[2].read_bytes()  # before: nobody knows what became of it on the disk

    def meanwhile() -> None:
        files[5].read_bytes()
        for page in (3, 4, 9):
            read_page(files[7], page)
        evict(files[5])  # it was read and verified all the same
        with open(files[8], "r+b") as file:
            file.write(os.urandom(2 * PAGE))
        sync_file(files[8])

    before = cached_pages(files[7])
    task = Reads(meanwhile)
    progress = run(task, place / "tree")
    assert progress.problems == []
    report = progress.report
    assert before == set()
    assert report["data"] == 10 * SIZE * PAGE
    # Reading ahead may have brought more of file 7.
    own = report["from_cache"] - SIZE * PAGE
    assert own >= 3 * PAGE
    assert report["from_device"] == (SIZE + 2) * PAGE
    assert report["unchecked"] == 0
    assert report["metadata"] > 0
    # What it brought in itself is gone, what was there is not.
    assert cached_pages(files[2]) == set(range(SIZE))
    assert not cached_pages(files[0])


def test_a_failed_read_is_no_verification(device: Device, place: Path, files: list[Path]) -> None:
    """Somebody's read fails, and the page goes: it was told as added, and is not believed."""

    def meanwhile() -> None:
        with pytest.raises(OSError, match="Input/output"):
            files[6].read_bytes()
        evict(files[6])
        drop_caches()

    corrupt(files[6], 20)
    drop_caches()
    progress = run(Reads(meanwhile), place / "tree")
    assert [(one.path, one.trouble) for one in progress.problems] == [("file06", Trouble.CORRUPT)]
