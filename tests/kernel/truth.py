# SPDX-License-Identifier: MIT
"""The kernel's own answers, and what a task said, to hold one against the other."""

import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import re
import struct
import time
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import NamedTuple

from pyduet import FileId, Item, Mask, State, Task, TaskGoneError
from pyduet.tally import Tally

PAGE = mmap.PAGESIZE
#: FS_IOC_GETVERSION of linux/fs.h: the inode generation.
FS_IOC_GETVERSION = 0x80087601
#: Of linux/kernel-page-flags.h.
KPF_DIRTY, KPF_COMPOUND_TAIL = 1 << 4, 1 << 16
#: Of asm/unistd_64.h, since Linux 6.5.
SYS_CACHESTAT = 451
SYS_MOVE_PAGES, MPOL_MF_MOVE = 279, 2
#: No folio of the page cache has more pages.
FOLIO_MAX = 512
#: Seconds for the kernel to let go of a file that was removed.
SETTLE = 120
#: Seconds for news that explain a difference: a thread of the kernel may have to run first.
LATE = 20
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
MAP_FAILED = ctypes.c_void_p(-1).value
TRACEFS = Path("/sys/kernel/tracing")


def drop_caches(what: int = 3) -> None:
    """Write back and drop clean pages (1), dentries and inodes (2), or both (3)."""
    os.sync()
    # Pages on a CPU's way to the LRU lists cannot be dropped; 6.1 leaves them there.
    # To move no pages begins with emptying those. A kernel without NUMA does not know the call:
    # that is the debug kernel, a 6.12, which empties them itself when it drops caches.
    nothing = ctypes.create_string_buffer(8)
    if LIBC.syscall(SYS_MOVE_PAGES, 0, 0, nothing, nothing, nothing, MPOL_MF_MOVE):
        assert ctypes.get_errno() == errno.ENOSYS, os.strerror(ctypes.get_errno())
    Path("/proc/sys/vm/drop_caches").write_text(str(what))


def fill(path: Path, pages: int, *, sync: bool = True) -> Path:
    """Write a file of so many pages, by default down to the disk."""
    with path.open("wb") as file:
        file.write(os.urandom(PAGE) * pages)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return path


def identity(path: Path) -> FileId:
    """Return inode number and generation of a file, as the file system says."""
    with path.open("rb") as file:
        reply = fcntl.ioctl(file, FS_IOC_GETVERSION, bytes(8))
        return FileId(os.fstat(file.fileno()).st_ino, struct.unpack("<I", reply[:4])[0])


class Frame(NamedTuple):
    """Where a page of a file is in memory."""

    number: int
    #: Frame of its folio's first page, and how many pages the folio has.
    head: int
    pages: int
    dirty: bool


def mincore(path: Path) -> set[int]:
    """Return the pages of a file that mincore says are cached, those beyond its end as well.

    A folio that was cut but not split reaches beyond the end of its file.
    """
    fd = os.open(path, os.O_RDONLY)
    length = (-(-os.fstat(fd).st_size // PAGE) + FOLIO_MAX) * PAGE
    address = LIBC.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    os.close(fd)
    assert address != MAP_FAILED
    answer = ctypes.create_string_buffer(length // PAGE)
    failed = LIBC.mincore(address, length, answer)
    LIBC.munmap(address, length)
    assert not failed
    return {page for page, byte in enumerate(answer.raw) if byte & 1}


def frames(path: Path) -> dict[int, Frame]:
    """Return the frames of a file's cached pages, by the kernel's page flags.

    Maps the pages that are cached, which brings none in.
    """
    size = path.stat().st_size
    cached = sorted(page for page in mincore(path) if page * PAGE < size)
    found: dict[int, Frame] = {}
    folios: dict[int, tuple[int, bool]] = {}
    if not cached:
        return found
    # Unbuffered: what was read ahead would be older than the fault that matters.
    with path.open("rb") as file, open("/proc/kpageflags", "rb", buffering=0) as table:

        def flags(frame: int, number: int = 1) -> tuple[int, ...]:
            table.seek(frame * 8)
            # The last frames of memory have not so many behind them.
            answer = table.read(8 * number)
            return struct.unpack(f"<{len(answer) // 8}Q", answer)

        with mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ) as view:
            view.madvise(mmap.MADV_RANDOM)
            address = _address(file.name)
            with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
                for page in cached:
                    view[page * PAGE]
                    pagemap.seek((address // PAGE + page) * 8)
                    frame = struct.unpack("<Q", pagemap.read(8))[0] & ((1 << 55) - 1)
                    head = frame
                    while flags(head)[0] & KPF_COMPOUND_TAIL:
                        head -= 1
                    if head not in folios:
                        first, *rest = flags(head, 2)
                        if rest and rest[0] & KPF_COMPOUND_TAIL:
                            first, *rest = flags(head, FOLIO_MAX)
                        tails = itertools.takewhile(lambda flag: flag & KPF_COMPOUND_TAIL, rest)
                        # A folio's flags are its first page's: 6.1 shows them only there.
                        folios[head] = 1 + len(list(tails)), bool(first & KPF_DIRTY)
                    found[page] = Frame(frame, head, *folios[head])
    return found


def _address(name: str) -> int:
    """Return where a file is mapped in this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(os.path.realpath(name)):
            return int(line.split("-")[0], 16)
    raise LookupError(name)


def cachestat(fd: int, first: int = 0, pages: int = 0) -> tuple[int, int] | None:
    """Return how many pages of a range are cached and dirty, by cachestat(2); None before 6.5."""
    window = (ctypes.c_uint64 * 2)(first * PAGE, pages * PAGE)
    answer = (ctypes.c_uint64 * 5)()
    if LIBC.syscall(SYS_CACHESTAT, fd, window, answer, 0):
        return None
    return answer[0], answer[1]


class Truth(NamedTuple):
    """What the kernel says of a file."""

    cached: AbstractSet[int] = frozenset()
    dirty: AbstractSet[int] = frozenset()
    #: Pages of which nothing tells whether they are dirty (before cachestat).
    unsure: AbstractSet[int] = frozenset()


def truth_of(path: Path, told: AbstractSet[int] = frozenset()) -> Truth:
    """Return which pages of a file are cached and dirty: cachestat, or mincore and page flags.

    mincore leaves out what is not up to date. Where it is all there is, the
    pages that somebody was told of are looked at another way.
    """
    with path.open("rb") as file:
        if cachestat(file.fileno()) is not None:
            return _by_cachestat(file.fileno())
        size = os.fstat(file.fileno()).st_size
    resident = mincore(path)
    half = {page for page in told - resident if is_half_read(path, page)}
    dirty = {page for page, frame in frames(path).items() if frame.dirty}
    beyond = {page for page in resident if page * PAGE >= size}
    return Truth(resident | half, dirty, half | beyond)


def _by_cachestat(fd: int) -> Truth:
    """Ask for ever smaller ranges until all pages of one are alike."""
    cached: set[int] = set()
    dirty: set[int] = set()
    ranges = [(0, -(-os.fstat(fd).st_size // PAGE) + FOLIO_MAX)]
    assert (cachestat(fd, ranges[0][1]) or (0,))[0] == 0, "cached far beyond the end"
    while ranges:
        first, pages = ranges.pop()
        counts = cachestat(fd, first, pages)
        assert counts
        if all(count in (0, pages) for count in counts):
            for pageset, count in zip((cached, dirty), counts, strict=True):
                pageset.update(range(first, first + count))
        else:
            half = pages // 2
            ranges += [(first, half), (first + half, pages - half)]
    return Truth(cached, dirty)


def changes(before: Truth, after: Truth) -> dict[int, State]:
    """Return what a state-based task is to be told when one truth follows another."""
    news: dict[int, State] = {}
    for state, pages in (
        (State.ADDED, after.cached - before.cached),
        (State.REMOVED, before.cached - after.cached),
        (State.DIRTY, after.dirty - before.dirty),
        (State.FLUSHED, before.dirty - after.dirty),
    ):
        for page in pages:
            news[page] = news.get(page, State(0)) | state
    return news


def is_half_read(path: Path, page: int) -> bool:
    """Return whether a page that mincore leaves out is in the page cache all the same.

    A page of which a truncate or a hole that ends in its middle zeroed a part
    is in the cache, dirty, but not "up to date" until somebody reads it.
    mincore leaves it out; cachestat and Duet do not. Where there is no
    cachestat, only this tells it from an absent page: reading it inserts none.
    """
    if page * PAGE >= path.stat().st_size:
        return False
    event = TRACEFS / "events/filemap/mm_filemap_add_to_page_cache/enable"
    fd = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        (TRACEFS / "trace").write_text("")
        event.write_text("1")
        os.pread(fd, 1, page * PAGE)
        event.write_text("0")
        inserted = f" ino {os.fstat(fd).st_ino:x} .* ofs={page * PAGE}( |$)"
        return not re.search(inserted, (TRACEFS / "trace").read_text(), re.M)
    finally:
        os.close(fd)


class Watch:
    """A task, and all that it was told so far."""

    def __init__(self, task: Task) -> None:
        """Take over a task that was just registered."""
        self.task = task
        # Of events as well: what came and did not go is cached.
        self.tally = Tally(Mask.EXISTS | Mask.MODIFIED, pages=True)

    def read(self) -> list[Item]:
        """Return what is pending and remember it."""
        items: list[Item] = []
        try:
            while batch := self.task.read_batch():
                assert {row[2] for row in batch.rows()} == {self.task.id}
                items += batch
        except TaskGoneError:
            if not items:
                raise
        self.tally.apply(items)
        return items

    def all_news(self) -> dict[tuple[FileId, int], State]:
        """Read, and return what came: (inode number, generation), page -> state."""
        return {
            (item.file, page): item.state
            for item in self.read()
            for page in range(item.index, item.end)
        }

    def news(self, path: Path | FileId) -> dict[int, State]:
        """Read, and return what came of one file: page -> state. Nothing else may come."""
        wanted = identity(path) if isinstance(path, Path) else path
        pages: dict[int, State] = {}
        for item in self.read():
            assert item.file == wanted, f"{item} is of another file than {wanted}"
            for page in range(item.index, item.end):
                assert page not in pages, f"page {page} came twice in one read"
                pages[page] = item.state
        return pages

    def _unlinked(self, tree: Path) -> dict[FileId, Path]:
        """Return the files without a name that this process holds open."""
        found = {}
        for name in os.listdir("/proc/self/fd"):
            path = Path("/proc/self/fd", name)
            if path.exists() and path.is_file():
                status = path.stat()
                if status.st_dev == tree.stat().st_dev and not status.st_nlink:
                    found[identity(path)] = path
        return found

    def disagreements(self, tree: Path) -> list[str]:
        """Compare with what the kernel says of every file below a directory, page for page.

        Truth: mincore and page flags, and cachestat where there is one.

        Of files that were there and are open but have no name any more, what
        was told is compared as well. Write-back and reclaim go on meanwhile,
        and what was opened before Duet heard of opens is found by a thread of
        the kernel, so a difference counts only if no news comes that explains
        it. A file
        that was removed is gone when write-back let go of it (btrfs: its
        cleaner thread), which is waited for.
        """
        end = time.monotonic() + SETTLE
        while True:
            wrong, lost = self._differences(tree)
            if self.read() or (wrong and time.monotonic() < end and self.task.wait(LATE)):
                continue
            if wrong or not lost or time.monotonic() > end:
                return wrong + lost
            os.sync()
            time.sleep(0.1)

    def _differences(self, tree: Path) -> tuple[list[str], list[str]]:
        """Return what is wrong of the files there are, and of those that are not there."""
        wrong: list[str] = []
        files = {}
        device = tree.stat().st_dev
        for where, below, names in os.walk(tree):
            # As `find -xdev` does: other file systems and subvolumes are not entered.
            below[:] = [name for name in below if os.lstat(Path(where, name)).st_dev == device]
            for name in names:
                path = Path(where, name)
                if path.is_file() and not path.is_symlink() and path.stat().st_dev == device:
                    files[identity(path)] = path
        unlinked = self._unlinked(tree)
        self.read()  # opening a file may tell the driver a name that it did not know
        files |= {file: path for file, path in unlinked.items() if self.tally.cached(file)}
        for file, path in files.items():
            cached, dirty = self.tally.cached(file), self.tally.dirty(file)
            truth = truth_of(path, cached)
            wrong += _compare(path, "cached", cached, truth.cached)
            wrong += _compare(path, "dirty", dirty - truth.unsure, truth.dirty - truth.unsure)
            # A second witness: never more than cachestat says, and the same flags.
            wrong += _compare(path, "mincore", mincore(path) - truth.cached, set())
            flags = frames(path)
            wrong += _compare(
                path, "flags", dirty & flags.keys(), {p for p, f in flags.items() if f.dirty}
            )
        return wrong, [
            f"{file} is not in the tree, told {sorted(self.tally.cached(file))}"
            for file in self.tally.cached_files()
            if file not in files and self.tally.cached(file)
        ]


def _compare(path: Path, what: str, told: AbstractSet[int], true: AbstractSet[int]) -> list[str]:
    if told == true:
        return []
    return [f"{path} {what}: told {sorted(told - true)} too much, {sorted(true - told)} not told"]
