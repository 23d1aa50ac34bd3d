# SPDX-License-Identifier: MIT
"""f2fs garbage collection: cleans the segments of which the least has to be read."""

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import ioctl_opt

from pyduet._driver import abi
from pyduet.admin.privilege import is_admin
from pyduet.device import DEFAULT_DEVICE, Device
from pyduet.errors import DuetError
from pyduet.events import FileId, Item, Mask
from pyduet.maintenance.f2fs.inserted import Inserted
from pyduet.maintenance.files.extents import NO_PLACE, Extent, extents
from pyduet.maintenance.files.mounts import mount_of
from pyduet.maintenance.frame.pace import Courtesy
from pyduet.tally import Tally
from pyduet.task import Task

#: Bytes of a block, which is a page, and blocks of a segment.
BLOCK, SEGMENT = 4096, 512
#: Blocks that are valid in a segment, from which on little room is gained for much writing.
MOST_VALID = SEGMENT * 3 // 4

# F2FS_IOC_* and struct f2fs_gc_range of linux/f2fs.h.
_RANGE = struct.Struct("=I4xQQ")
_COLLECT: int = ioctl_opt.IOC(ioctl_opt.IOC_WRITE, 0xF5, 6, 4)
_CHECKPOINT: int = ioctl_opt.IO(0xF5, 7)
_COLLECT_RANGE: int = ioctl_opt.IOC(ioctl_opt.IOC_WRITE, 0xF5, 11, _RANGE.size)
# FS_IOC_GETFLAGS of linux/fs.h, and FS_COMPR_FL, FS_ENCRYPT_FL, FS_VERITY_FL.
_GET_FLAGS: int = ioctl_opt.IOC(ioctl_opt.IOC_READ, ord("f"), 1, 8)
_PAST_THE_CACHE = 0x4 | 0x800 | 0x100000

# struct file_handle of open_by_handle_at(2), with f2fs's own, of FILEID_INO32_GEN.
_HANDLE = struct.Struct("=IiII")
_FILEID_INO32_GEN = 1
_LIBC = ctypes.CDLL(None, use_errno=True)

# struct f2fs_super_block of linux/f2fs_fs.h, 1024 bytes from the device's begin.
_SUPERBLOCK_AT, _MAGIC = 1024, 0xF2F52010
_SUPERBLOCK = struct.Struct("<I12x3I64xI")
#: What f2fs has for itself below the root's inode: F2FS_ROOT_INO of linux/f2fs_fs.h is 3.
_ROOT_INO = 3
#: CURSEG_COLD_DATA of fs/f2fs/segment.h: where f2fs writes the data that it moves.
_COLD_DATA = 2
#: What Duet has to tell: f2fs writes nothing in place, so what is written back lies elsewhere.
WATCHED = Mask.EXISTS | Mask.FLUSHED
#: Segments cleaned between two checkpoints: until then they are not free yet.
_EVERY = 8


class Segment(NamedTuple):
    """What f2fs tells of a segment: the log it belongs to (0 to 2 data), and its valid blocks."""

    kind: int
    valid: int


class Victim(NamedTuple):
    """A segment to be cleaned: its number, its valid blocks, and how many of those are cached."""

    segment: int
    valid: int
    cached: int

    @property
    def reads(self) -> int:
        """Blocks that cleaning it has to read."""
        return self.valid - self.cached


@dataclass(slots=True)
class Cleaning:
    """How far the cleaning is, and at its end what became of it.

    Attributes:
        step: what it does now, in a word or two.
        segments: that are to be cleaned.
        segments_done: that were.
        blocks_moved: that were valid in those.
        blocks_cached: of them in memory before: reads saved.
        refused: segments that f2fs would not clean, or not wholly: in use.
        victims: the numbers of the segments that were cleaned, in order.
        stays: why what cleaning brings in stays in memory, if so.

    """

    step: str
    segments: int
    segments_done: int
    blocks_moved: int
    blocks_cached: int
    refused: int
    victims: list[int]
    stays: str | None = None

    @property
    def bytes(self) -> int:
        """What is to be cleaned."""
        return self.segments * SEGMENT * BLOCK

    @property
    def bytes_done(self) -> int:
        """What was cleaned."""
        return self.segments_done * SEGMENT * BLOCK

    @property
    def bytes_cached(self) -> int:
        """Of what was moved the bytes that were in memory."""
        return self.blocks_cached * BLOCK


def main_area(superblock: bytes) -> int:
    """Return the block where the first segment begins.

    Args:
        superblock: the first bytes of f2fs's.

    Raises:
        ValueError: it is none, or of a layout that is not known here.

    """
    magic, log_block, log_segment, per_section, main = _SUPERBLOCK.unpack_from(superblock)
    if magic != _MAGIC:
        raise ValueError("there is no f2fs on its device")
    if (1 << log_block, 1 << log_segment) != (BLOCK, SEGMENT):
        raise ValueError(f"its segments are not of {SEGMENT} blocks of {BLOCK} bytes")
    if per_section != 1:
        raise ValueError(f"its sections have {per_section} segments, which are cleaned together")
    return int(main)


def segments_of(text: str) -> list[Segment]:
    """Return the segments of the main area, as ``/proc/fs/f2fs/*/segment_info`` lists them.

    Raises:
        ValueError: it is of another form.

    """
    format_, kinds, *lines = text.splitlines()
    if format_ != "format: segment_type|valid_blocks" or "2:CD" not in kinds:
        raise ValueError("segment_info is of a form that is not known here")
    found = []
    for line in lines:
        # Ten in a line, after the number of the first.
        for word in line.split()[1:]:
            kind, _, valid = word.partition("|")
            found.append(Segment(int(kind), int(valid)))
    return found


def choose(
    segments: Sequence[Segment],
    cached: Mapping[int, int],
    most_valid: int = MOST_VALID,
    but: Collection[int] = (),
    *,
    count_writes: bool = False,
) -> Victim | None:
    """Return the segment that is cleaned with the fewest reads, then with the fewest writes.

    Args:
        segments: all of the main area.
        cached: blocks in memory, by the number of the segment.
        most_valid: segments with more valid blocks are left.
        but: segments that are left, too.
        count_writes: rather the one with the fewest reads and writes together.

    """
    return min(
        (
            # An old place of what was written since may still be counted.
            Victim(number, one.valid, min(one.valid, cached.get(number, 0)))
            for number, one in enumerate(segments)
            if 0 < one.valid <= most_valid and number not in but
        ),
        # All that is valid is written elsewhere.
        key=lambda victim: (
            victim.reads + victim.valid * count_writes,
            victim.valid,
            victim.segment,
        ),
        default=None,
    )


def spread(pages: Iterable[int], lies: Sequence[Extent], main: int) -> dict[int, list[int]]:
    """Return which pages of a file lie in which segment.

    Args:
        pages: their indexes.
        lies: the extents of the file, in its order.
        main: the block where the first segment begins.

    """
    found: dict[int, list[int]] = {}
    placed = iter(one for one in lies if not one.flags & NO_PLACE)
    extent = next(placed, None)
    for page in sorted(pages):
        while extent is not None and page * BLOCK >= extent.logical + extent.length:
            extent = next(placed, None)
        if extent is None:
            break
        if page * BLOCK >= extent.logical:
            block = (extent.physical + page * BLOCK - extent.logical) // BLOCK - main
            if block >= 0:
                found.setdefault(block // SEGMENT, []).append(page)
    return found


class Residents:
    """How many blocks of each segment are in memory, kept true by what Duet tells.

    A file is looked at again, by FIEMAP, when pages of it came or went, or were
    written back, by f2fs's cleaning as well.

    Thread-safety: none.
    """

    def __init__(self, task: Task, root: int, main: int) -> None:
        """Take a task that was just registered; it stays the caller's.

        Args:
            task: asks for :data:`WATCHED`.
            root: descriptor of the directory where the file system is mounted;
                stays the caller's.
            main: the block where the first segment begins.

        """
        self._task = task
        self._root = root
        self._main = main
        self._tally = Tally(task.mask, pages=True)
        self._stale: set[FileId] = set()
        self._of: dict[FileId, dict[int, int]] = {}
        #: Blocks in memory, by the number of the segment; true after :meth:`look`.
        self.cached: Counter[int] = Counter()

    def look(self) -> None:
        """Take in what Duet has to tell.

        Raises:
            OffError, TaskGoneError: the task ended.

        """
        while batch := self._task.read_batch():
            for item in batch:
                self._take(item)
        for file in self._stale:
            self.cached.subtract(self._of.pop(file, {}))
            pages = self._tally.cached(file)
            if not pages:
                continue
            with _opened(self._root, file.ino, file.generation) as fd:
                if fd is not None and not _read_anyway(fd):
                    there = spread(pages, list(extents(fd)), self._main)
                    self._of[file] = {segment: len(some) for segment, some in there.items()}
                    self.cached.update(self._of[file])
        self._stale.clear()
        self._tally.begin_anew()  # forgets files of which nothing is cached any more

    def _take(self, item: Item) -> None:
        if item.state.value & abi.ITEM_OVERFLOW:
            # It brings what came and went; what was written back meanwhile is not told again.
            self._task.rescan()
            self._stale.update(self._tally.cached_files())
            return
        self._tally.apply([item])
        self._stale.add(item.file)


@contextlib.contextmanager
def _opened(root: int, ino: int, generation: int) -> Iterator[int | None]:
    """Open a file of a mounted f2fs for reading; None when it is there no more.

    By its handle (open_by_handle_at(2)), because of many no name is known.

    Args:
        root: descriptor of anything on the file system.
        ino: inode number.
        generation: of the inode; 0 for any, as f2fs_nfs_get_inode() of fs/f2fs/super.c has it.

    """
    handle = _HANDLE.pack(8, _FILEID_INO32_GEN, ino, generation)
    flags = os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC
    fd = _LIBC.open_by_handle_at(root, handle, flags)
    if fd < 0:
        number = ctypes.get_errno()
        if number in (errno.ESTALE, errno.ENOENT):
            yield None
            return
        raise OSError(number, f"{os.strerror(number)}: opening inode {ino} by its handle")
    try:
        yield fd
    finally:
        os.close(fd)


def _drop(root: int, ino: int, pages: Iterable[int]) -> None:
    """Have the kernel drop pages of a regular file of a mounted f2fs; dirty ones stay."""
    with _opened(root, ino, 0) as fd:
        if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode):
            for run in _runs(pages):
                os.posix_fadvise(fd, run.start * BLOCK, len(run) * BLOCK, os.POSIX_FADV_DONTNEED)


def _read_anyway(fd: int) -> bool:
    """Return whether f2fs moves a file's blocks past its page cache.

    It does of encrypted, compressed and verity files:
    f2fs_post_read_required() of fs/f2fs/f2fs.h.
    """
    flags = fcntl.ioctl(fd, _GET_FLAGS, bytes(8))
    return bool(int.from_bytes(flags[:4], "little") & _PAST_THE_CACHE)


def _runs(numbers: Iterable[int]) -> list[range]:
    """Return numbers as ranges of consecutive ones."""
    runs: list[range] = []
    for number in sorted(numbers):
        if runs and runs[-1].stop == number:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    return runs


class Cleaner:
    """Cleans segments of a mounted f2fs, those first of which the most is in memory.

    f2fs reads the blocks that it moves through the page cache of their files
    (f2fs_get_read_data_page() in fs/f2fs/gc.c): what is there is not read from
    the device. What this brings in is dropped again.

    Thread-safety: none.
    """

    def __init__(
        self,
        root: str,
        *,
        device: str = DEFAULT_DEVICE,
        most_valid: int = MOST_VALID,
        count_writes: bool = False,
        tell: Callable[[Cleaning], object] = lambda _: None,
    ) -> None:
        """Look at the file system; nothing is changed yet.

        Args:
            root: where it is mounted, absolute and without symbolic links.
            device: Duet's device node.
            most_valid: segments with more valid blocks are left, but not by f2fs's own choice.
            count_writes: whether to choose by reads and writes, not by reads alone.
            tell: called with the progress, after each segment.

        Raises:
            PermissionError: without CAP_SYS_ADMIN.
            ValueError: no f2fs is mounted there, or none of a layout that is known.
            OSError: its device cannot be read.

        """
        mount = mount_of(root)
        if mount is None or mount.kind != "f2fs":
            kind = mount.kind if mount else "an unknown file system"
            raise ValueError(f"{root} is on {kind}, and only f2fs has this garbage collection")
        if mount.place != root or not mount.whole:
            raise ValueError(
                f"{root} is not where the whole f2fs is mounted; name that directory"
                + (f": {mount.place}" if mount.whole else "")
            )
        if not is_admin():
            raise PermissionError(errno.EPERM, "cleaning needs root; use sudo", root)
        with open(mount.source, "rb") as file:
            superblock = os.pread(file.fileno(), _SUPERBLOCK.size, _SUPERBLOCK_AT)
        try:
            self._main = main_area(superblock)
        except (ValueError, struct.error) as error:
            raise ValueError(f"{root}: {error}") from error
        number = os.stat(root).st_dev
        name = os.path.basename(
            os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
        )
        self._info = f"/proc/fs/f2fs/{name}/segment_info"
        self._root = root
        self._device = device
        self._choose = partial(choose, most_valid=most_valid, count_writes=count_writes)
        self._tell = tell

    def plan(self, count: int) -> Iterator[Victim]:
        """Yield the segments that a run would clean now, in its order; do nothing.

        Raises:
            OSError: Duet cannot be asked.

        """
        with self._opened() as fd, self._watching(fd) as residents:
            residents.look()
            segments, but = self._segments(), set[int]()
            while len(but) < count and (
                victim := self._choose(segments, residents.cached, but=but)
            ):
                yield victim
                but.add(victim.segment)

    def run(self, count: int, *, own_choice: bool = False, give_way: bool = True) -> Cleaning:
        """Clean segments; returns how it went.

        Args:
            count: how many, at most.
            own_choice: let f2fs choose, which knows nothing of memory: to compare with.
            give_way: whether to back off while others wait for the disk.

        Raises:
            OffError: Duet is off.
            OSError: Duet cannot be asked, or f2fs cannot be cleaned: it is
                mounted read-only, or its device fails.

        """
        progress = Cleaning("cleaning", count, 0, 0, 0, 0, [])

        def rest(seconds: float) -> None:
            if courtesy.leaves:
                progress.step = "leaving the disk to others"
                self._tell(progress)
            time.sleep(seconds)
            progress.step = "cleaning"

        courtesy = Courtesy(rest)
        with contextlib.ExitStack() as stack:
            fd = stack.enter_context(self._opened())
            residents = stack.enter_context(self._watching(fd))
            inserted = None
            try:
                inserted = stack.enter_context(Inserted(os.fstat(fd).st_dev))
            except OSError as error:
                progress.stays = f"there is no trace of it: {error.strerror}"
            pass_ = _Pass(fd, self._main, residents, inserted, self._segments, progress)
            try:
                self._tell(progress)
                while progress.segments_done < count:
                    if give_way:
                        courtesy.give_way()
                    if not pass_.step(None if own_choice else self._choose):
                        break
                    self._tell(progress)
            except OSError as error:
                if not isinstance(error, DuetError):
                    error.filename = error.filename or self._root
                raise
            finally:
                pass_.settle()
        progress.step = "done"
        self._tell(progress)
        return progress

    @contextlib.contextmanager
    def _watching(self, fd: int) -> Iterator[Residents]:
        # Not named as the tasks are that read files: they would keep for it what they read.
        with (
            Device(self._device) as device,
            device.register(self._root, WATCHED, name="duet-f2fs-gc", ranges=True) as task,
        ):
            yield Residents(task, fd, self._main)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def _segments(self) -> list[Segment]:
        with open(self._info, encoding="ascii") as file:
            return segments_of(file.read())


class _Pass:
    """A run of a cleaner: what it may not choose again, and what it has to drop."""

    def __init__(
        self,
        fd: int,
        main: int,
        residents: Residents,
        inserted: Inserted | None,
        segments: Callable[[], list[Segment]],
        progress: Cleaning,
    ) -> None:
        self._fd = fd
        self._main = main
        self._residents = residents
        self._inserted = inserted
        self._segments = segments
        self._progress = progress
        #: Segments that f2fs refused to clean, and those that it fills by cleaning.
        self._refused: set[int] = set()
        self._filled: set[int] = set()
        self._unsettled = 0

    def step(self, choose: Callable[..., Victim | None] | None) -> bool:
        """Clean a segment, or find that it is refused; returns whether there was one.

        Args:
            choose: the function of that name with what is asked for; None for f2fs's own choice.

        """
        self._residents.look()
        before = self._segments()
        victim = None
        if choose is not None:
            victim = choose(before, self._residents.cached, but=self._refused | self._filled)
            if victim is None:
                return False
        self._unsettled += 1
        cleaned = self._clean(victim)
        self._account(before, victim)
        if self._unsettled >= _EVERY:
            self.settle()
        # Asked again, f2fs would choose the same.
        return cleaned or victim is not None

    def settle(self) -> None:
        """Have the cleaned segments free, and drop what cleaning them brought in.

        Until a checkpoint, which waits for it, what was moved is being
        written, and cannot be dropped.
        """
        if not self._unsettled:
            return
        self._unsettled = 0
        fcntl.ioctl(self._fd, _CHECKPOINT)
        if self._inserted is None:
            return
        # It is this process that brought them in, and nobody else.
        for ino, pages in self._inserted.take().items():
            if ino >= _ROOT_INO:
                _drop(self._fd, ino, pages)

    def _clean(self, victim: Victim | None) -> bool:
        """Have f2fs clean a segment; returns whether it did so wholly."""
        try:
            if victim is None:
                fcntl.ioctl(self._fd, _COLLECT, struct.pack("=I", 1))
            else:
                # One block is enough: with 512 the next segment would be cleaned as well.
                start = self._main + victim.segment * SEGMENT
                fcntl.ioctl(self._fd, _COLLECT_RANGE, _RANGE.pack(1, start, 1))
        except OSError as error:
            # In use, or a part of it; or it is empty by now, or there is none to choose.
            if error.errno not in (errno.EAGAIN, errno.ENODATA):
                self._unsettled -= 1
                raise
            self._progress.refused += error.errno == errno.EAGAIN
            if victim is not None:
                self._refused.add(victim.segment)
            return False
        return True

    def _account(self, before: Sequence[Segment], victim: Victim | None) -> None:
        """Take in which segments have become empty, and where their blocks went."""
        progress = self._progress
        for number, (old, new) in enumerate(zip(before, self._segments(), strict=True)):
            if new.kind == _COLD_DATA and new.valid > old.valid:
                self._filled.add(number)
            mine = victim is None or number == victim.segment
            if mine and old.valid and not new.valid:
                progress.segments_done += 1
                progress.blocks_moved += old.valid
                progress.blocks_cached += min(old.valid, self._residents.cached[number])
                progress.victims.append(number)
