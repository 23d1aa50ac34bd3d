# SPDX-License-Identifier: MIT
"""f2fs garbage collection: cleans the segments of which the least has to be read."""

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import ioctl_opt

from pyduet.admin.privilege import is_admin
from pyduet.device import DEFAULT_DEVICE, Device
from pyduet.errors import DuetError
from pyduet.maintenance.f2fs.handles import drop
from pyduet.maintenance.f2fs.inserted import Inserted
from pyduet.maintenance.f2fs.residents import WATCHED, Residents
from pyduet.maintenance.f2fs.segments import (
    BLOCK,
    MOST_VALID,
    SEGMENT,
    Segment,
    Victim,
    choose,
    main_area,
    segments_of,
    superblock_of,
)
from pyduet.maintenance.files.mounts import mount_with_id
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.pace import Courtesy

# F2FS_IOC_* and struct f2fs_gc_range of linux/f2fs.h.
_RANGE = struct.Struct("=I4xQQ")
_COLLECT: int = ioctl_opt.IOC(ioctl_opt.IOC_WRITE, 0xF5, 6, 4)
_CHECKPOINT: int = ioctl_opt.IO(0xF5, 7)
_COLLECT_RANGE: int = ioctl_opt.IOC(ioctl_opt.IOC_WRITE, 0xF5, 11, _RANGE.size)
#: What f2fs has for itself below the root's inode: F2FS_ROOT_INO of linux/f2fs_fs.h is 3.
_ROOT_INO = 3
#: CURSEG_COLD_DATA of fs/f2fs/segment.h: where f2fs writes the data that it moves.
_COLD_DATA = 2
#: Segments cleaned between two checkpoints: until then they are not free yet.
_EVERY = 8


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
        with Tree(root) as tree:
            self._number = tree.device
            mount = mount_with_id(tree.root.mount_id)
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
        try:
            self._main = main_area(superblock_of(mount.source))
        except ValueError as error:
            raise ValueError(f"{root}: {error}") from error
        number = f"{os.major(self._number)}:{os.minor(self._number)}"
        name = os.path.basename(os.path.realpath(f"/sys/dev/block/{number}"))
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
        with Tree(self._root) as tree:
            if tree.device != self._number:
                raise OSError(errno.ESTALE, "another file system is mounted there", self._root)
            yield tree.fd

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
                drop(self._fd, ino, pages)

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
