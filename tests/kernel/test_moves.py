# SPDX-License-Identifier: MIT
"""Names that move, are linked and removed, and mounts: who is in the tree, and what of it is told.

Truth: what this test did to the names, and for the pages truth.py (mincore,
page flags, cachestat).
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from actions import evict, exchange, link_open_file, read_page, write_at
from conftest import EVENTS, STATES, counter, eventually
from truth import Watch, drop_caches, fill, identity

from pyduet import Mask, State, TaskGoneError

Register = Callable[..., Watch]

ADDED, REMOVED, DIRTY, FLUSHED = State.ADDED, State.REMOVED, State.DIRTY, State.FLUSHED
BOTH = pytest.mark.parametrize("mask", [STATES, EVENTS], ids=["states", "events"])


def pages(number: int, state: State = ADDED) -> dict[int, State]:
    """Return the same news of the first so many pages."""
    return dict.fromkeys(range(number), state)


@contextlib.contextmanager
def mounted(*arguments: object) -> Iterator[Path]:
    """Mount something for a while; the last argument is where."""
    subprocess.run(["mount", *map(str, arguments)], check=True)
    try:
        yield Path(str(arguments[-1]))
    finally:
        subprocess.run(["umount", str(arguments[-1])], check=True)


def reload(path: Path, number: int) -> Path:
    """Leave a file's first pages in the cache, clean, and nothing else of it."""
    drop_caches()
    for page in range(number):
        read_page(path, page)
    return path


# ---- files ----


@BOTH
def test_files_that_left_leave_nothing(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: what left kept its entry and its nodes, which a rename loop could fill memory with.

    Only the end of the inode or of the task took them away.
    """
    one = watch(place / "tree", mask)
    for i in range(10):
        path = fill(place / f"tree/f{i}", 70)
        path.rename(place / f"out/f{i}")
    fill(place / "tree/stays", 3)
    one.read()
    assert (counter("files"), counter("nodes")) == (1, 1 if mask == STATES else 0)


@BOTH
def test_renames(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: rename never changed a verdict. In: what it has cached; out: gone."""
    path = reload(fill(place / "out/file", 9), 3)
    one = watch(place / "tree", mask)
    assert one.read() == []
    inside = place / "tree/file"
    path.rename(inside)
    assert one.news(inside) == pages(3)
    inside.rename(path)
    assert one.news(path) == pages(3, REMOVED)
    read_page(path, 5)
    assert one.read() == []


def test_rename_tells_what_is_dirty(watch: Register, place: Path) -> None:
    """Dirty pages that come in are told as dirty, and those that leave as clean."""
    path = reload(fill(place / "out/file", 9), 3)
    one = watch(place / "tree")
    write_at(path, 1)
    inside = place / "tree/file"
    path.rename(inside)
    assert one.disagreements(place / "tree") == []
    assert 1 in one.tally.dirty(identity(inside))
    inside.rename(path)
    one.read()
    assert one.tally.cached_files() == []


@BOTH
def test_rename_inside_is_no_news(watch: Register, place: Path, mask: Mask) -> None:
    """Nothing happens to pages of a file or directory that moves inside the tree."""
    (place / "tree/a").mkdir()
    (place / "tree/b").mkdir()
    path = reload(fill(place / "tree/a/file", 3), 3)
    one = watch(place / "tree", mask)
    assert one.news(path) == pages(3)
    path.rename(place / "tree/b/other")
    (place / "tree/b").rename(place / "tree/a/b")
    assert one.read() == []
    evict(place / "tree/a/b/other")
    assert one.news(place / "tree/a/b/other") == pages(3, REMOVED)


@BOTH
def test_rename_over(watch: Register, place: Path, mask: Mask) -> None:
    """A file that comes in over another: the old one is gone, the new one is there."""
    new, old = fill(place / "out/new", 2), fill(place / "tree/old", 3)
    drop_caches()
    for path in (new, old):
        path.read_bytes()
    one = watch(place / "tree", mask)
    assert one.news(old) == pages(3)
    left = identity(old)
    new.rename(old)
    came = identity(old)
    told: dict[tuple[tuple[int, int], int], State] = {}

    def settled() -> bool:
        drop_caches(2)  # btrfs: its cleaner thread lets go of the old inode
        for at, state in one.all_news().items():
            assert at not in told, "told twice"
            told[at] = state
        return {file for file, _ in told} == {left, came}

    assert eventually(settled), told
    assert told == {(left, page): REMOVED for page in range(3)} | {
        (came, page): ADDED for page in range(2)
    }


@BOTH
def test_exchange(watch: Register, place: Path, mask: Mask) -> None:
    """Two names that change places across the border: one comes, one leaves."""
    inside, outside = fill(place / "tree/file", 2), fill(place / "out/file", 3)
    drop_caches()
    for path in (inside, outside):
        path.read_bytes()
    one = watch(place / "tree", mask)
    assert one.news(inside) == pages(2)
    left = identity(inside)
    exchange(inside, outside)
    came = identity(inside)
    assert one.all_news() == {(left, page): REMOVED for page in range(2)} | {
        (came, page): ADDED for page in range(3)
    }


@BOTH
def test_exchange_of_directories(watch: Register, place: Path, mask: Mask) -> None:
    """The same for directories with a file each."""
    for where in ("tree/d", "out/d"):
        (place / where).mkdir()
    inside, outside = fill(place / "tree/d/f", 2), fill(place / "out/d/f", 3)
    drop_caches()
    for path in (inside, outside):
        path.read_bytes()
    one = watch(place / "tree", mask)
    assert one.news(inside) == pages(2)
    left = identity(inside)
    exchange(place / "tree/d", place / "out/d")
    came = identity(inside)
    assert one.all_news() == {(left, page): REMOVED for page in range(2)} | {
        (came, page): ADDED for page in range(3)
    }


@BOTH
def test_unlinked_while_open(watch: Register, place: Path, mask: Mask) -> None:
    """A file without a name stays until it is closed."""
    path = reload(fill(place / "tree/file", 8), 2)
    one = watch(place / "tree", mask)
    file = identity(path)
    assert one.news(path) == pages(2)
    fd = os.open(path, os.O_RDWR)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    path.unlink()
    os.pread(fd, 1, 5 * 4096)
    assert one.news(file) == {5: ADDED}
    os.pwrite(fd, b"x", 5 * 4096)
    assert one.news(file) == {5: DIRTY}
    os.close(fd)
    os.sync()
    drop_caches()
    gone = {0: REMOVED, 1: REMOVED, 5: REMOVED}
    told = one.news(file)
    assert {page: state & REMOVED for page, state in told.items()} == gone


def test_directory_rename_takes_the_last_name_along(watch: Register, place: Path) -> None:
    """A file that is open by a name that was removed; the name that is left is in no memory."""
    inside = place / "tree/d"
    inside.mkdir()
    path = fill(place / "tree/file", 1)
    os.link(path, inside / "name")
    one = watch(place / "tree")
    fd = os.open(path, os.O_RDWR)
    path.unlink()
    one.read()
    drop_caches()
    inside.rename(place / "out/d")
    one.read()
    file = identity(Path(f"/proc/self/fd/{fd}"))
    os.pwrite(fd, b"x" * 3 * 4096, 18 * 4096)
    one.read()
    assert one.tally.cached(file) == set()
    (place / "out/d").rename(inside)
    # Opening it tells its name, which nobody has seen there.
    (inside / "name").read_bytes()
    assert one.disagreements(place / "tree") == []
    assert {18, 19, 20} <= one.tally.cached(file)
    os.close(fd)


def test_file_without_a_name_gets_one(watch: Register, place: Path) -> None:
    """O_TMPFILE, then a link into the tree, or out of it."""
    one = watch(place / "tree")
    for where in ("tree", "out"):
        fd = os.open(place / where, os.O_TMPFILE | os.O_RDWR)
        os.write(fd, b"x" * 4096 * 3)
        name = {"tree": place / "out/given", "out": place / "tree/given"}[where]
        link_open_file(fd, name)
        os.close(fd)
    os.sync()
    assert one.disagreements(place / "tree") == []
    assert one.tally.cached(identity(place / "tree/given")) == {0, 1, 2}


# ---- what was evicted and comes back ----


def test_reborn_through_another_name(watch: Register, place: Path) -> None:
    """Pitfall: links never changed a verdict. What came by a name outside is told at the next."""
    inside = fill(place / "tree/name", 4)
    os.link(inside, place / "out/name")
    drop_caches()
    inside.read_bytes()
    one, events = watch(place / "tree"), watch(place / "tree", EVENTS)
    drop_caches()  # the inode is gone; that its pages are was not read yet
    read_page(place / "out/name", 2)
    read_page(inside, 3)
    assert one.disagreements(place / "tree") == []
    assert one.tally.cached(identity(inside)) == {2, 3}
    removed = pages(4, ADDED | REMOVED)
    assert events.news(inside) == removed


def test_evicted_after_a_name_was_removed(watch: Register, place: Path) -> None:
    """Before anybody looked for the name that is left: there is nothing more to do."""
    path = fill(place / "tree/file", 2)
    os.link(path, place / "tree/name")
    one = watch(place / "tree")
    file = identity(path)
    assert one.news(file).keys() == {0, 1}
    path.unlink()
    drop_caches()  # frees the dentries
    drop_caches()  # and what they kept, the inode
    assert one.news(file) == pages(2, REMOVED)

    def is_gone() -> bool:
        drop_caches()
        one.read()
        return counter("files") == 0

    # An entry that waits for a reader stays, and wakes him for ever.
    assert eventually(is_gone)
    (place / "tree/name").read_bytes()
    assert one.news(file) == pages(2)


def test_reborn_after_it_was_outside(watch: Register, place: Path) -> None:
    """A file that was evicted, left, was read there and came back: all of it is told."""
    inside, outside = fill(place / "tree/file", 4), place / "out/file"
    one = watch(place / "tree")
    drop_caches()
    inside.rename(outside)
    read_page(outside, 1)
    outside.rename(inside)
    assert one.disagreements(place / "tree") == []
    assert one.tally.cached(identity(inside)) == {1}


def test_name_that_nobody_has_seen(watch: Register, place: Path) -> None:
    """Pitfall: no dentry alias at first: irrelevant for ever. Here it is found when opened."""
    path = fill(place / "tree/file", 3)
    drop_caches(2)
    one = watch(place / "tree")
    assert one.disagreements(place / "tree") == []
    assert len(one.tally.cached(identity(path))) == 3


@BOTH
def test_evicted_and_read_again(watch: Register, place: Path, mask: Mask) -> None:
    """Between two reads the inode goes and comes."""
    path = reload(fill(place / "tree/file", 4), 3)
    one = watch(place / "tree", mask)
    assert one.news(path) == pages(3)
    drop_caches()
    read_page(path, 1)
    read_page(path, 3)
    cancelled = {STATES: {}, EVENTS: {1: ADDED | REMOVED}}[mask]
    assert one.news(path) == {0: REMOVED, 2: REMOVED, 3: ADDED} | cancelled


# ---- directories ----


@BOTH
def test_directory_renames(watch: Register, place: Path, mask: Mask) -> None:
    """Files below a directory that comes or goes, deep and shallow; no others are told again."""
    (place / "out/a/b").mkdir(parents=True)
    path, stays = fill(place / "out/a/b/file", 3), fill(place / "tree/stays", 2)
    drop_caches()
    for each in (path, stays):
        each.read_bytes()
    one = watch(place / "tree", mask)
    assert one.news(stays) == pages(2)
    (place / "out/a").rename(place / "tree/a")
    inside = place / "tree/a/b/file"
    assert one.news(inside) == pages(3)
    evict(inside)
    assert one.news(inside) == pages(3, REMOVED)
    inside.read_bytes()
    assert one.news(inside) == pages(3)
    (place / "tree/a").rename(place / "out/a")
    assert one.news(path) == pages(3, REMOVED)
    path.read_bytes()
    evict(path)
    assert one.read() == []


@pytest.mark.parametrize("away", ["in", "out"])
def test_directory_rename_of_unseen_files(watch: Register, place: Path, away: str) -> None:
    """Files whose dentries were reclaimed before their directory moved across the border."""
    source, target = {
        "in": (place / "out/d", place / "tree/d"),
        "out": (place / "tree/d", place / "out/d"),
    }[away]
    source.mkdir()
    for i in range(5):
        fill(source / f"f{i}", 3)
    one = watch(place / "tree")
    one.read()
    drop_caches(2)
    source.rename(target)
    assert one.disagreements(place / "tree") == []


def test_directory_moves_between_two_reads(watch: Register, place: Path) -> None:
    """Pitfall: rename never changed a verdict. It is void at the next page, not the next read.

    Another task's verdict, so that the file has an entry when the directory moves.
    """
    (place / "out/d").mkdir()
    path = fill(place / "out/d/file", 8)
    drop_caches()
    here, there = watch(place / "tree", EVENTS), watch(place / "out", EVENTS)
    read_page(path, 1)
    evict(path)
    assert there.news(path) == {1: ADDED | REMOVED}
    (place / "out/d").rename(place / "tree/d")
    inside = place / "tree/d/file"
    read_page(inside, 2)
    evict(inside)
    read_page(inside, 3)
    assert here.news(inside) == {2: ADDED | REMOVED, 3: ADDED}
    # What is cached has left with its file.
    assert there.news(inside) == {3: REMOVED}


@BOTH
def test_watched_directory_is_renamed(watch: Register, place: Path, mask: Mask) -> None:
    """The task follows its directory, wherever it goes, and takes nobody for it."""
    path = reload(fill(place / "tree/file", 4), 1)
    one = watch(place / "tree", mask)
    assert one.news(path) == pages(1)
    (place / "tree").rename(place / "out/moved")
    (place / "tree").mkdir()
    fill(place / "tree/file", 2)  # the name's new owner is nothing to the task
    assert one.read() == []
    moved = place / "out/moved/file"
    read_page(moved, 2)
    assert one.news(moved) == {2: ADDED}
    fill(place / "out/moved/new", 1)
    assert one.news(place / "out/moved/new") != {}
    fill(place / "out/beside", 1)
    assert one.read() == []
    assert one.task.path_of(identity(moved), max_age=0) == str(moved)


@BOTH
def test_watched_directory_is_removed(watch: Register, place: Path, mask: Mask) -> None:
    """What was below is told as gone; a new directory of that name is another."""
    (place / "tree/dir").mkdir()
    path = reload(fill(place / "tree/dir/file", 2), 2)
    one = watch(place / "tree/dir", mask)
    file = identity(path)
    assert one.news(path) == pages(2)
    path.unlink()
    (place / "tree/dir").rmdir()
    drop_caches()
    assert one.news(file) == pages(2, REMOVED)
    # Some new directory's inode will have the address that the removed one had.
    for i in range(50):
        (place / "tree/dir").mkdir()
        fill(place / "tree/dir/file", 2, sync=False)
        (place / "tree/dir").rename(place / f"out/d{i}")
    drop_caches()
    with pytest.raises(TaskGoneError):
        one.read()


# ---- links ----


@BOTH
def test_hard_links(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: link and unlink never changed a verdict. In the tree while one of its names is."""
    path = reload(fill(place / "out/file", 4), 2)
    one = watch(place / "tree", mask)
    os.link(path, place / "tree/name")
    assert one.news(path) == pages(2)
    os.link(path, place / "tree/second")
    (place / "tree/name").unlink()
    assert one.read() == []
    read_page(path, 3)  # by the name outside
    assert one.news(path) == {3: ADDED}
    assert one.task.path_of(identity(path), max_age=0) == str(place / "tree/second")
    (place / "tree/second").unlink()
    assert one.news(path) == {0: REMOVED, 1: REMOVED, 3: REMOVED}
    read_page(path, 2)
    assert one.read() == []


@BOTH
def test_outside_link_goes(watch: Register, place: Path, mask: Mask) -> None:
    """A name outside comes and goes, or another file is renamed over it: no news."""
    path = reload(fill(place / "tree/file", 2), 2)
    one = watch(place / "tree", mask)
    assert one.news(path) == pages(2)
    for name in ("one", "two"):
        os.link(path, place / "out" / name)
    (place / "out/one").unlink()
    fill(place / "out/other", 1).rename(place / "out/two")
    assert one.read() == []


# ---- mounts and namespaces ----


@BOTH
def test_bind_mounts(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: the path test ran d_path(): what is seen through another mount is the same file.

    Pitfall (2016): survive bind mounts.
    """
    path = fill(place / "tree/file", 4)
    fill(place / "out/file", 4)
    drop_caches()
    (place / "other").mkdir()
    (place / "tree/below").mkdir()
    with (
        mounted("--bind", place / "tree", place / "other"),
        mounted("--bind", place / "out", place / "tree/below"),
    ):
        one, through = watch(place / "tree", mask), watch(place / "other", mask)
        read_page(place / "other/file", 1)
        read_page(path, 2)
        # Its name lies in `out`, whatever is mounted where.
        read_page(place / "tree/below/file", 3)
        for each in (one, through):
            assert each.news(path) == {1: ADDED, 2: ADDED}
        through.task.close()


@BOTH
def test_covered_by_a_mount(watch: Register, place: Path, mask: Mask) -> None:
    """Another file system below is not the task's; what it covers still is.

    Pitfall (2016): survive file systems mounted underneath.
    """
    (place / "tree/below").mkdir()
    path = fill(place / "tree/below/file", 3)
    drop_caches()
    one = watch(place / "tree", mask)
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    with mounted("-t", "tmpfs", "none", place / "tree/below"):
        fill(place / "tree/below/file", 2)
        assert one.read() == []
        os.pread(fd, 1, 4096)
    os.close(fd)
    assert one.news(path) == {1: ADDED}


@BOTH
def test_seen_from_another_namespace(watch: Register, place: Path, mask: Mask) -> None:
    """Pitfall: wrong in containers. A mount namespace with another view, and a chroot in it.

    Pitfall (2016): survive changing mounts.
    """
    path = fill(place / "tree/file", 4)
    drop_caches()
    one = watch(place / "tree", mask)
    script = (
        'mount --bind "$1/tree" "$1/out" && umount -l /sys/kernel/tracing 2>/dev/null;'
        'mount -t tmpfs none "$1/tree" && cd "$1/out" && exec python3 -c "'
        "import os; f = os.open('file', os.O_RDONLY); os.chroot('.');"
        'os.posix_fadvise(f, 0, 0, os.POSIX_FADV_RANDOM); os.pread(f, 1, 2 * 4096)"'
    )
    subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", place], check=True
    )
    assert one.news(path) == {2: ADDED}


# ---- races ----


def test_registration_races_with_renames(watch: Register, place: Path) -> None:
    """Files and directories that cross the border while a task registers and reads.

    Pitfall: the alias list was walked without i_lock: here verdicts race with renames.
    """
    for i in range(20):
        fill(place / f"tree/f{i}", 2, sync=False)
    (place / "tree/d").mkdir()
    fill(place / "tree/d/f", 2, sync=False)
    os.sync()
    pid = os.fork()
    if not pid:
        here, there = place / "tree", place / "out"
        while True:
            for name in [*(f"f{i}" for i in range(20)), "d"]:
                (here / name).rename(there / name)
            here, there = there, here
    try:
        watches = []
        for _ in range(4):
            one = watch(place / "tree")
            one.tally.apply(one.task.read())  # once: there is always more
            watches.append(one)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for one in watches:
        assert one.disagreements(place / "tree") == []
