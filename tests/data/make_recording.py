#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Make the recordings of the real driver, for the tests that run without it.

usage: tests/vm/lab run --fs ext4 --smp 2 --share DIRECTORY -- \\
           python tests/data/make_recording.py OUTPUT [busy]

first_light.jsonl is a few steps, each of which a test knows; busy.jsonl some seconds of a workload,
with four tasks of which one reads nothing and one may remember little.
"""

import os
import random
import shutil
import sys
import time
from pathlib import Path

from pyduet import Device, Mask
from pyduet.recording import RecordedStream, Recorder

PAGE = 4096
ROOT = Path("/mnt/duet/library")


def step(stream: RecordedStream, recorder: Recorder, device: Device, what: str) -> None:
    """Record what has come, and the state of the driver then."""
    print(what, file=sys.stderr)
    for _ in stream.events(timeout=0.5):
        pass
    recorder.sample(device)


def first_light(output: str) -> None:
    """Work on a small tree of files while two tasks watch it, and record one of them."""
    shutil.rmtree(ROOT, ignore_errors=True)
    for shelf in ("maps", "novels", "ünïcode"):
        (ROOT / shelf).mkdir(parents=True)
        for number in range(6):
            (ROOT / shelf / f"{number}.txt").write_bytes(os.urandom(PAGE) * (number * number + 1))
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    mask = Mask.EXISTS | Mask.MODIFIED
    with (
        Device() as device,
        open(output, "w", encoding="utf-8") as file,
        device.register(ROOT, mask, name="recorded", ranges=True) as task,
        device.register(ROOT / "maps", Mask.DIRTY | Mask.FLUSHED, name="backup") as backup,
    ):
        recorder = Recorder(file, task)
        stream = RecordedStream(task, recorder)
        step(stream, recorder, device, "nothing is cached")
        for path in sorted((ROOT / "novels").iterdir()):
            path.read_bytes()
            time.sleep(0.05)
        step(stream, recorder, device, "novels were read")
        with (ROOT / "maps/5.txt").open("r+b") as written:
            written.seek(3 * PAGE)
            written.write(b"x" * 2 * PAGE)
        step(stream, recorder, device, "a map was written")
        os.sync()
        for item in backup.read():
            backup.mark_done(item.file)
        step(stream, recorder, device, "it was flushed, and is backed up")
        (ROOT / "novels/4.txt").rename(ROOT / "maps/new.txt")
        (ROOT / "novels/3.txt").unlink()
        with (ROOT / "ünïcode/2.txt").open("ab") as written:
            written.write(b"y" * 10 * PAGE)
        step(stream, recorder, device, "one moved, one is gone, one has grown")
    shutil.rmtree(ROOT)


#: Seconds that busy.jsonl takes, a sample each.
ROUNDS = 16


def busy(output: str) -> None:
    """Read, write, move and forget files at random while four tasks watch; record the first."""
    chance = random.Random(1)
    shutil.rmtree(ROOT, ignore_errors=True)
    for shelf in ("maps", "novels", "scores"):
        (ROOT / shelf).mkdir(parents=True)
        for number in range(8):
            pages = chance.randrange(1, 200)
            (ROOT / shelf / f"{number}.txt").write_bytes(os.urandom(PAGE) * pages)
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    states = Mask.EXISTS | Mask.MODIFIED
    with (
        Device() as device,
        open(output, "w", encoding="utf-8") as file,
        device.register(ROOT, states, name="indexer", ranges=True) as task,
        device.register(ROOT / "maps", Mask.DIRTY | Mask.FLUSHED, name="backup") as backup,
        device.register(ROOT, Mask.ADDED, name="scrub, which sleeps"),
        device.register(ROOT, Mask.ADDED | Mask.REMOVED, name="small", limit=4000) as small,
    ):
        recorder = Recorder(file, task)
        stream = RecordedStream(task, recorder)
        begin = time.monotonic()
        for number in range(ROUNDS):
            print(f"round {number}", file=sys.stderr)
            files = sorted(path for path in ROOT.rglob("*.txt"))
            for path in chance.sample(files, chance.randrange(6)):
                with path.open("rb") as read:
                    read.seek(PAGE * chance.randrange(50))
                    read.read(PAGE * chance.randrange(150))
            for path in chance.sample(files, chance.randrange(3)):
                with path.open("r+b") as written:
                    written.write(b"w" * PAGE * chance.randrange(1, 20))
            if number % 5 == 4:
                os.sync()
                for item in backup.read():
                    backup.mark_done(item.file)
                small.read()
            if number == 9:
                Path("/proc/sys/vm/drop_caches").write_text("1")
            for _ in stream.events(timeout=0.1):
                pass
            time.sleep(max(0.0, begin + number + 1 - time.monotonic()))
            recorder.sample(device)
    shutil.rmtree(ROOT)


if __name__ == "__main__":
    (busy if sys.argv[2:] == ["busy"] else first_light)(sys.argv[1])
