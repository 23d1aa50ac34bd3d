# SPDX-License-Identifier: MIT
"""btrfs: a task covers one subvolume; inode numbers and generations come again in others.

Truth: truth.py (mincore, page flags, cachestat) of the files of the subvolume,
as `find -xdev` finds them.
"""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions import read_page, reflink, sync_file, write_at
from conftest import EVENTS, STATES, eventually
from truth import Watch, drop_caches, fill, identity

from pyduet import DEFAULT_DEVICE, Device, Mask, State
from pyduet.cli.shell.session import Session

pytestmark = pytest.mark.fs("btrfs")

Register = Callable[..., Watch]
BOTH = pytest.mark.parametrize("mask", [STATES, EVENTS], ids=["states", "events"])


def subvolume(*arguments: object) -> None:
    """Make, copy or delete a subvolume."""
    subprocess.run(
        ["btrfs", "-q", "subvolume", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL
    )


@pytest.fixture
def twins(place: Path) -> Iterator[tuple[Path, Path, Path]]:
    """Return a subvolume, one nested in it, and a snapshot of it, all with a file alike."""
    main = place / "main"
    nested, snapshot = main / "nested", main / "snapshot"
    subvolume("create", main)
    fill(main / "file", 8)
    subvolume("create", nested)
    fill(nested / "file", 8)
    subvolume("snapshot", main, snapshot)
    assert len({(where / "file").stat().st_ino for where in (main, nested, snapshot)}) == 1
    assert identity(main / "file") == identity(snapshot / "file")
    assert len({(where / "file").stat().st_dev for where in (main, nested, snapshot)}) == 3
    drop_caches()
    yield main, nested, snapshot
    for where in (snapshot, nested, main):
        subvolume("delete", where)


@BOTH
def test_each_task_its_subvolume(
    watch: Register, twins: tuple[Path, Path, Path], mask: Mask
) -> None:
    """Pitfall: subvolumes share inode numbers under one superblock, snapshots generations too."""
    watches = [watch(where, mask) for where in twins]
    for i, where in enumerate(twins):
        read_page(where / "file", i + 1)
    for i, (one, where) in enumerate(zip(watches, twins, strict=True)):
        assert one.news(where / "file") == {i + 1: State.ADDED}
    for i, where in enumerate(twins):
        write_at(where / "file", i + 1)
        for one, whose in zip(watches, twins, strict=True):
            told = one.news(whose / "file")
            assert told == ({i + 1: State.DIRTY} if whose == where else {})
    for where in twins:
        sync_file(where / "file")
    drop_caches()
    for i, (one, where) in enumerate(zip(watches, twins, strict=True)):
        assert one.news(where / "file") == {i + 1: State.REMOVED | State.FLUSHED}


def test_scan_keeps_to_its_subvolume(watch: Register, twins: tuple[Path, Path, Path]) -> None:
    """What was cached before the registration as well."""
    for i, where in enumerate(twins):
        read_page(where / "file", i + 1)
    for i, where in enumerate(twins):
        one = watch(where)
        assert one.news(where / "file") == {i + 1: State.ADDED}
        assert one.disagreements(where) == []
        one.task.close()


def test_done_marks_and_paths_do_not_mix(watch: Register, twins: tuple[Path, Path, Path]) -> None:
    """Pitfall: no superblock in the key. The same uuid is another file to each task."""
    watches = [watch(where) for where in twins]
    files = [identity(where / "file") for one, where in zip(watches, twins, strict=True)]
    watches[0].task.mark_done(files[0])
    paths = []
    for i, where in enumerate(twins):
        for name in "abc"[: i + 1]:  # other names, and other numbers of the directory
            (where / f"{name}-{where.name}").mkdir()
        paths.append(where / f"{name}-{where.name}/file")
        (where / "file").rename(paths[-1])
        read_page(paths[-1], 3)
    assert watches[0].read() == []
    for one, path, file in list(zip(watches, paths, files, strict=True))[1:]:
        assert one.news(path) == {3: State.ADDED}
        assert not one.task.is_done(file)
    for drop in (False, True):
        if drop:
            drop_caches()
        for one, path, file in zip(watches, paths, files, strict=True):
            assert one.task.path_of(file, max_age=0) == str(path)


def test_what_is_cached_of_each(device: Device, twins: tuple[Path, Path, Path]) -> None:
    """A task that is told what is cached, and of no change, ends at the same border."""
    for i, where in enumerate(twins):
        read_page(where / "file", i + 1)
    for i, where in enumerate(twins):
        one = Watch(device.register(where, STATES, snapshot=True))
        assert one.news(where / "file") == {i + 1: State.ADDED}
        one.task.close()


@BOTH
def test_snapshot_is_made_and_deleted(
    watch: Register, twins: tuple[Path, Path, Path], mask: Mask
) -> None:
    """A snapshot below the task's directory comes, is used, and goes: no news."""
    main = twins[0]
    one = watch(main, mask)
    read_page(main / "file", 2)
    assert one.news(main / "file") == {2: State.ADDED}
    subvolume("snapshot", main, main / "more")
    (main / "more/file").read_bytes()
    write_at(main / "more/file", 2)
    subvolume("delete", main / "more")
    drop_caches(2)
    assert one.read() == []
    subvolume("snapshot", "-r", main, main / "more")
    (main / "more/file").read_bytes()
    subvolume("delete", main / "more")
    assert one.read() == []


def test_watched_subvolume_is_deleted(watch: Register, place: Path) -> None:
    """Its files are told as gone, and the task stays without files."""
    subvolume("create", place / "own")
    path = fill(place / "own/file", 2)
    one = watch(place / "own")
    assert one.news(path) == dict.fromkeys(range(2), State.ADDED)
    subvolume("delete", place / "own")

    def all_gone() -> bool:
        drop_caches()
        one.read()
        return not one.tally.cached_files()

    assert eventually(all_gone)
    subvolume("create", place / "own")
    fill(place / "own/file", 2)
    assert one.read() == []
    subvolume("delete", place / "own")


def test_subvolume_is_renamed(watch: Register, twins: tuple[Path, Path, Path]) -> None:
    """A subvolume that moves, out and in again, takes no file of the task along."""
    main, nested, _ = twins
    one = watch(main)
    for where in (main, nested):
        read_page(where / "file", 2)
    assert one.news(main / "file") == {2: State.ADDED}
    away = main.parent / "away"
    nested.rename(away)
    read_page(away / "file", 3)
    away.rename(nested)
    read_page(nested / "file", 4)
    assert one.read() == []
    assert one.disagreements(main) == []


def test_subvolume_mounted_by_itself(
    watch: Register, place: Path, twins: tuple[Path, Path, Path]
) -> None:
    """Another mount of the same subvolume shows the same files."""
    main = twins[0]
    [source] = [
        line.split()[0]
        for line in Path("/proc/self/mounts").read_text().splitlines()
        if line.split()[1] == "/mnt/duet"
    ]
    where = place / "mounted"
    where.mkdir()
    subprocess.run(["mount", "-o", "subvol=place/main", source, where], check=True)
    try:
        one, through = watch(main), watch(where)
        read_page(where / "file", 1)
        read_page(main / "file", 2)
        for each in (one, through):
            assert each.news(main / "file") == {1: State.ADDED, 2: State.ADDED}
        assert through.task.path_of(identity(main / "file"), max_age=0) == str(where / "file")
        through.task.close()
    finally:
        subprocess.run(["umount", where], check=True)


def test_shared_blocks_across_subvolumes(watch: Register, twins: tuple[Path, Path, Path]) -> None:
    """Blocks that are shared are not pages that are shared."""
    main, nested, _ = twins
    one, other = watch(main), watch(nested)
    (nested / "file").read_bytes()
    reflink(main / "file", nested / "file", 4)
    os.sync()
    read_page(nested / "file", 1)
    for each, where in ((one, main), (other, nested)):
        assert each.disagreements(where) == []


def test_the_debug_shell_takes_no_file_of_another_subvolume(
    device: Device, twins: tuple[Path, Path, Path]
) -> None:
    """The numbers of its path would mean the task's own file, which has the same."""
    main, _, snapshot = twins
    with device.register(main, STATES) as task:
        session = Session(DEFAULT_DEVICE)
        [file] = session.files(task.id, [str(main / "file")])
        assert file == identity(main / "file")
        with pytest.raises(ValueError, match="another file system or subvolume"):
            session.files(task.id, [str(snapshot / "file")])
        session.close()
