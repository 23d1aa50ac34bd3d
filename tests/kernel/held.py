# SPDX-License-Identifier: MIT
"""Threads that a debug build of the module keeps where a race has its window: driver/delay.c.

Whoever comes to the place stays there until the test lets go, so nothing
depends on how fast the machine is. The places have bounds, since others wait
for who is kept: some seconds, where it cannot sleep. Beyond that a test meets
no race, and does not fail.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from conftest import DELAY, PARAMETERS, eventually

#: Longer than any place allows, in microseconds.
FOR_EVER = 1 << 30


class Thread(ThreadPoolExecutor):
    """One thread, and its number."""

    def __init__(self) -> None:
        """Begin it."""
        super().__init__(1)
        self.number = self.submit(threading.get_native_id).result()


def _delayed() -> int:
    return int((PARAMETERS / "delayed").read_text())


class Held:
    """Who is kept."""

    def __init__(self, *places: str) -> None:
        """Keep who comes to these places from here on."""
        self._before = _delayed()
        self.keep(*places)

    def keep(self, *places: str) -> None:
        """Keep who comes to these places, or is there, and let go who is kept elsewhere."""
        DELAY.write_text(",".join(places) or "nowhere")

    def wait(self, times: int = 1) -> None:
        """Wait until so many have come."""
        assert eventually(lambda: _delayed() >= self._before + times), "nobody came"

    def release(self) -> None:
        """Let go who is kept, and keep nobody."""
        self.keep()


@contextlib.contextmanager
def held(*places: str, thread: int = 0) -> Iterator[Held]:
    """Keep who comes to some places, or one thread alone, while in the context."""
    (PARAMETERS / "delay_pid").write_text(str(thread))
    (PARAMETERS / "delay_us").write_text(str(FOR_EVER))
    found = Held(*places)
    try:
        yield found
    finally:
        # Where the module is gone, nobody is kept.
        with contextlib.suppress(FileNotFoundError):
            found.release()
            (PARAMETERS / "delay_us").write_text("0")
            (PARAMETERS / "delay_pid").write_text("0")
