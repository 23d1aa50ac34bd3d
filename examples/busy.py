#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A workload without end, for who wants to look at Duet while it has something to tell.

usage: busy.py DIRECTORY

Files below DIRECTORY are read at random; others, in DIRECTORY/busy, are written, moved and removed.
Three tasks watch: one is told states, one marks done what was written back, one never reads. Ctrl-C
and SIGTERM end it, and remove DIRECTORY/busy.

Needs root, and Duet switched on.
"""

import itertools
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from pyduet import Device, Mask, Task

PAGE = os.sysconf("SC_PAGE_SIZE")
#: Seconds between two rounds.
PAUSE = 0.25


def read_some(files: list[Path]) -> None:
    for path in random.sample(files, min(len(files), random.randrange(8))):
        with path.open("rb") as file:
            file.seek(PAGE * random.randrange(20))
            file.read(PAGE * random.randrange(1, 100))


def write_some(shelf: Path, number: int) -> None:
    path = shelf / str(number % 50)
    path.write_bytes(b"w" * PAGE * random.randrange(1, 40))
    path.replace(shelf / str(random.randrange(50)))


def take(indexer: Task, backup: Task) -> None:
    indexer.read()
    backup.mark_many({item.file for item in backup.read() if item.file.ino})


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__.strip())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    root = Path(sys.argv[1])
    shelf = root / "busy"
    shelf.mkdir(exist_ok=True)
    files = [path for path in root.rglob("*") if path.is_file() and shelf not in path.parents]
    try:
        with (
            Device() as device,
            device.register(root, Mask.EXISTS | Mask.MODIFIED, name="indexer") as indexer,
            device.register(shelf, Mask.FLUSHED, name="backup") as backup,
            device.register(root, Mask.ADDED, name="scrub, which sleeps"),
        ):
            for number in itertools.count():
                read_some(files)
                write_some(shelf, number)
                if number % 20 == 19:
                    os.sync()
                    take(indexer, backup)
                if number % 80 == 79:
                    Path("/proc/sys/vm/drop_caches").write_text("1")
                time.sleep(PAUSE)
    finally:
        shutil.rmtree(shelf)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
