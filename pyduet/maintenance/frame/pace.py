# SPDX-License-Identifier: MIT
"""How a task keeps out of the way: a limit of bytes a second, and waiting while others read."""

import re
import time
from collections.abc import Callable

_PRESSURE = "/proc/pressure/io"
#: How many seconds a look takes whether others wait for the disk, and from which share of it on, in
#: which somebody waited, the disk is busy.
_LOOK, _BUSY = 0.25, 0.05
#: Seconds between two looks, and for which a busy disk is left alone: at first, and at most.
_FIRST, _RARELY, _LONGEST = 0.5, 5.0, 8.0
#: Seconds for which a disk may be used that has been left alone, before the next look: else a task
#: would never end where others always use it.
_TURN = 0.1
#: Bytes that others read, from which on the next look comes early, and seconds between two
#: questions whether they did.
_STIR, _ASK = 1 << 20, 0.1


class Throttle:
    """Lets so many bytes a second through, on average since the last pause.

    Thread-safety: none.
    """

    def __init__(self, rate: int, sleep: Callable[[float], object] = time.sleep) -> None:
        """Begin now.

        Args:
            rate: bytes a second; 0 for no limit.
            sleep: how to wait.

        """
        self._rate = rate
        self._sleep = sleep
        self._free = time.monotonic()

    def spend(self, number: int) -> None:
        """Wait until so many bytes may be read after those before them."""
        if not self._rate:
            return
        now = time.monotonic()
        # What was not used is not saved up.
        self._free = max(self._free, now) + number / self._rate
        if self._free - now > 0.01:
            self._sleep(self._free - now)


class Courtesy:
    """Backs off while others wait for the disk, as pressure-stall information tells.

    A task's own waiting is pressure as well. So now and then, and before it
    uses the disk at all, it does nothing for a moment and looks whether
    somebody waits all the same. Another maintenance task that reads then is
    somebody, too. When others begin to read between two looks, the next one
    comes at once, but so once only: they may be no reason to leave.

    Thread-safety: none.
    """

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """Begin now; where the kernel tells no pressure, nothing is ever waited for."""
        self._sleep = sleep
        self._pause = self._trust = _FIRST
        self._look_at = self._back_at = self._ask_at = 0.0
        self._is_left = False
        #: What others had read at the last look; None while the next one may not come early.
        self._others: int | None = None
        self._possible = _stalled() is not None

    @property
    def leaves(self) -> bool:
        """Whether the disk is being left to others."""
        return time.monotonic() < self._back_at

    def may_read(self) -> bool:
        """Return whether the disk may be used; looks, if it is time to, and does not wait."""
        if not self._possible:
            return True
        if self.leaves:
            return False
        if self._is_left:
            self._is_left = False
            self._others = None
            self._look_at = time.monotonic() + _TURN
        is_early = time.monotonic() < self._look_at
        if is_early and not self._stirred():
            return True
        if self._busy():
            self._back_at = time.monotonic() + self._pause
            self._pause = min(_LONGEST, self._pause * 2)
            self._trust = _FIRST
            self._is_left = True
            return False
        # It may have been a rest between two reads.
        self._pause = max(_FIRST, self._pause / 2)
        self._look_at = time.monotonic() + self._trust
        self._trust = min(_RARELY, self._trust * 2)
        self._others = None if is_early else _read_by_others()
        return True

    def give_way(self) -> None:
        """Wait until the disk may be used."""
        while not self.may_read():
            self._sleep(max(0.0, self._back_at - time.monotonic()))

    def _stirred(self) -> bool:
        """Whether others have read since the last look, as far as that is to be asked now."""
        now = time.monotonic()
        if self._others is None or now < self._ask_at:
            return False
        self._ask_at = now + _ASK
        others = _read_by_others()
        return others is not None and others - self._others > _STIR

    def _busy(self) -> bool:
        before, begin = _stalled(), time.monotonic()
        self._sleep(_LOOK)
        after, took = _stalled(), time.monotonic() - begin
        return before is not None and after is not None and after - before > _BUSY * took


def _stalled() -> float | None:
    """Return for how many seconds some task waited for I/O since boot; None if that is not told."""
    microseconds = _number_in(_PRESSURE, rb"^some .*\btotal=(\d{1,20})$")
    return None if microseconds is None else microseconds / 1e6


def _read_by_others() -> int | None:
    """Return the bytes read from all disks since boot, but by this process and its ended children.

    None if that is not told. Both files tell what submit_bio() of
    block/blk-core.c counts, in the same place.
    """
    all_kib = _number_in("/proc/vmstat", rb"^pgpgin (\d{1,20})$")
    own = _number_in("/proc/self/io", rb"^read_bytes: (\d{1,20})$")
    return None if all_kib is None or own is None else (all_kib << 10) - own


def _number_in(path: str, pattern: bytes) -> int | None:
    """Return the number that a file of /proc has in some line; None if it has none.

    Some containers have a stand-in for the file, which may be empty.
    """
    try:
        with open(path, "rb") as file:
            found = re.search(pattern, file.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
