# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's own answers, and what a task said, to hold one against the other."""

import ctypes
import fcntl
import mmap
import os
import re
import struct
from collections.abc import Set as AbstractSet
from pathlib import Path

from pyduet import FileId, Item, State, Task
from pyduet.mincore import cached_pages
from pyduet.tracker import Tracker

PAGE = mmap.PAGESIZE
#: FS_IOC_GETVERSION of linux/fs.h: the inode generation.
FS_IOC_GETVERSION = 0x80087601
#: KPF_DIRTY of linux/kernel-page-flags.h.
KPF_DIRTY = 1 << 4
#: Of asm/unistd_64.h, since Linux 6.5.
SYS_CACHESTAT = 451
LIBC = ctypes.CDLL(None, use_errno=True)
TRACEFS = Path("/sys/kernel/tracing")


def drop_caches(what: int = 3) -> None:
    """Write back and drop clean pages (1), dentries and inodes (2), or both (3)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(str(what))


def fill(path: Path, pages: int, *, sync: bool = True) -> Path:
    """Write a file of so many pages, by default down to the disk."""
    with path.open("wb") as file:
        file.write(os.urandom(PAGE) * pages)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return path


def identity(path: Path) -> tuple[int, int]:
    """Return inode number and generation of a file, as the file system says."""
    with path.open("rb") as file:
        reply = fcntl.ioctl(file, FS_IOC_GETVERSION, bytes(8))
        return os.fstat(file.fileno()).st_ino, struct.unpack("<I", reply[:4])[0]


def dirty_pages(path: Path) -> set[int]:
    """Return the dirty pages of a file, by the kernel's page flags.

    Maps the pages that are cached, which brings none in.
    """
    cached = sorted(cached_pages(path))
    dirty: set[int] = set()
    if not cached:
        return dirty
    # Unbuffered: what was read ahead would be older than the fault that matters.
    with path.open("rb") as file, open("/proc/kpageflags", "rb", buffering=0) as flags:
        size = os.fstat(file.fileno()).st_size
        with mmap.mmap(file.fileno(), size, mmap.MAP_SHARED, mmap.PROT_READ) as view:
            view.madvise(mmap.MADV_RANDOM)
            address = _address(file.name)
            with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
                for page in cached:
                    view[page * PAGE]
                    pagemap.seek((address // PAGE + page) * 8)
                    frame = struct.unpack("<Q", pagemap.read(8))[0] & ((1 << 55) - 1)
                    flags.seek(frame * 8)
                    if struct.unpack("<Q", flags.read(8))[0] & KPF_DIRTY:
                        dirty.add(page)
    return dirty


def _address(name: str) -> int:
    """Return where a file is mapped in this process."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(os.path.realpath(name)):
            return int(line.split("-")[0], 16)
    raise LookupError(name)


def cachestat(path: Path, first: int = 0, pages: int = 0) -> tuple[int, int] | None:
    """Return how many pages of a range are cached and dirty, by cachestat(2); None before 6.5."""
    window = (ctypes.c_uint64 * 2)(first * PAGE, pages * PAGE)
    answer = (ctypes.c_uint64 * 5)()
    with path.open("rb") as file:
        if LIBC.syscall(SYS_CACHESTAT, file.fileno(), window, answer, 0):
            return None
    return answer[0], answer[1]


def is_half_read(path: Path, page: int) -> bool:
    """Return whether a page that mincore leaves out is in the page cache all the same.

    A page of which a truncate or a hole that ends in its middle zeroed a part
    is in the cache, dirty, but not "up to date" until somebody reads it.
    mincore leaves it out; cachestat and Duet do not. Before cachestat nothing
    tells it from an absent page but this: reading it inserts none.
    """
    if (counts := cachestat(path, page, 1)) is not None:
        return counts[0] == 1
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
        self.tracker = Tracker()

    def read(self) -> list[Item]:
        """Return what is pending and remember it."""
        items: list[Item] = []
        while batch := self.task.read():
            items += batch
        self.tracker.apply(items)
        return items

    def news(self, path: Path | tuple[int, int]) -> dict[int, State]:
        """Read, and return what came of one file: page -> state. Nothing else may come."""
        wanted = identity(path) if isinstance(path, Path) else path
        pages: dict[int, State] = {}
        for item in self.read():
            assert item.file[:2] == wanted, f"{item} is of another file than {wanted}"
            for page in range(item.index, item.end):
                assert page not in pages, f"page {page} came twice in one read"
                pages[page] = item.state
        return pages

    def file_id(self, path: Path) -> FileId:
        """Return a file as this task knows it."""
        return FileId(*identity(path), self.task.id)

    def _unlinked(self, tree: Path) -> dict[FileId, Path]:
        """Return the files without a name that this process holds open."""
        found = {}
        for name in os.listdir("/proc/self/fd"):
            path = Path("/proc/self/fd", name)
            if path.exists() and path.is_file():
                status = path.stat()
                if status.st_dev == tree.stat().st_dev and not status.st_nlink:
                    found[self.file_id(path)] = path
        return found

    def disagreements(self, tree: Path) -> list[str]:
        """Compare with mincore and the page flags of every file below a directory.

        Of files that were there and are open but have no name any more, what
        was told is compared as well. Write-back and reclaim go on meanwhile,
        so a difference counts only if no news comes that explains it.
        """
        while True:
            wrong = self._differences(tree)
            if not wrong or not self.read():
                return wrong

    def _differences(self, tree: Path) -> list[str]:
        wrong: list[str] = []
        files = {}
        for where, _, names in os.walk(tree):
            for name in names:
                path = Path(where, name)
                if path.is_file() and not path.is_symlink():
                    files[self.file_id(path)] = path
        unlinked = self._unlinked(tree)
        self.read()  # opening a file may tell the driver a name that it did not know
        files |= {file: path for file, path in unlinked.items() if self.tracker.cached(file)}
        for file, path in files.items():
            cached, dirty = self.tracker.cached(file), self.tracker.dirty(file)
            resident = cached_pages(path)
            half = {page for page in cached - resident if is_half_read(path, page)}
            wrong += _compare(path, "cached", cached, resident | half)
            wrong += _compare(path, "dirty", dirty - half, dirty_pages(path) - half)
            if (counts := cachestat(path)) not in (None, (len(cached), len(dirty))):
                wrong.append(f"{path}: cachestat says {counts}, told {len(cached), len(dirty)}")
        for file in self.tracker.files():
            if file not in files and self.tracker.cached(file):
                wrong.append(f"{file} is not in the tree, told {sorted(self.tracker.cached(file))}")
        return wrong


def _compare(path: Path, what: str, told: AbstractSet[int], true: AbstractSet[int]) -> list[str]:
    if told == true:
        return []
    return [f"{path} {what}: told {sorted(told - true)} too much, {sorted(true - told)} not told"]
