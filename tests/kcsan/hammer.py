# SPDX-License-Identifier: MIT
"""What duet.ko reads and writes without a lock, done by all at once on eight files.

    tests/vm/lab run --kernel kcsan --smp 2 --parallel ... -- python tests/kcsan/hammer.py

KCSAN stops a processor at one access in so many, and looks whether another changes the word
meanwhile. The lab fails a run in which duet.ko has such a race; this program fails if KCSAN looked
at too few accesses, or if somebody did nothing at all.
"""

import argparse
import contextlib
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pyduet import Device, FileId, Mask
from pyduet.errors import DuetError

TREE = Path("/mnt/duet/tree")
ELSEWHERE = Path("/mnt/duet/elsewhere")
FILES = 8
#: Pages of a file, of which each step touches a few.
PAGES = 128
PAGE = os.sysconf("SC_PAGE_SIZE")
STATES = Mask.EXISTS | Mask.MODIFIED
EVENTS = Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED
SYSFS = Path("/sys/class/misc/duet")
CHECK = Path("/sys/kernel/debug/duet/check")
#: So little that it is used up now and then.
LIMIT = 2 << 20

KCSAN = Path("/sys/module/kcsan/parameters")
#: One access in so many is looked at, for so many microseconds: a processor of the machine is a
#: thread of the emulator, and the other one has to get a turn in that time.
PARAMETERS = {"skip_watch": 200, "udelay_task": 1000, "udelay_interrupt": 1000}
#: A minute makes some hundred thousand.
LOOKS_PER_SECOND = 100

Life = Callable[[random.Random], None]


def use_pages(descriptor: int, rng: random.Random) -> None:
    """Read, write, flush and drop some pages of a file."""
    for _ in range(8):
        at = rng.randrange(PAGES) * PAGE
        match rng.randrange(6):
            case 0 | 1:
                os.pwrite(descriptor, bytes(PAGE * rng.randrange(1, 9)), at)
            case 2 | 3:
                os.pread(descriptor, PAGE * 4, at)
            case 4:
                os.fdatasync(descriptor)
            case _:
                os.posix_fadvise(descriptor, at, 32 * PAGE, os.POSIX_FADV_DONTNEED)
    if rng.random() < 0.1:
        os.ftruncate(descriptor, rng.randrange(PAGES) * PAGE)


def churn(rng: random.Random) -> None:
    """Use one of the files, or change its names."""
    name = TREE / f"f{rng.randrange(FILES)}"
    match rng.randrange(12):
        case 8:
            os.link(name, ELSEWHERE / f"l{rng.randrange(4)}")
        case 9:
            os.unlink(ELSEWHERE / f"l{rng.randrange(4)}")
        case 10:
            os.rename(name, ELSEWHERE / name.name)
            os.rename(ELSEWHERE / name.name, name)
        case 11 if rng.random() < 0.3:
            os.unlink(name)
        case 11:
            os.chmod(name, rng.choice((0o600, 0o666)))
        case _:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                use_pages(descriptor, rng)
            finally:
                os.close(descriptor)


def reading(mask: Mask, limit: int) -> Life:
    """Return the life of a task that reads, marks, asks for paths and begins again."""

    def life(rng: random.Random) -> None:
        with Device() as device, device.register(TREE, mask, ranges=True, limit=limit) as task:
            files: list[FileId] = []
            for _ in range(60):
                batch = task.read_batch(rng.choice((5, 1000)))
                if batch:
                    told = {FileId(row[0], row[1]) for row in batch.rows() if row[0]}
                    files = sorted(told)[:4] or files
                else:
                    task.wait(0.02)
                if files and rng.random() < 0.3:
                    calls = (task.mark_many, task.unmark_many, task.paths_of, task.are_done)
                    rng.choice(calls)(files)
                if rng.random() < 0.03:
                    task.rescan()
                task.info()

    return life


def look(rng: random.Random) -> None:
    """Look at all that the driver shows, as a task that reads little."""
    with Device() as device, device.register(TREE, rng.choice((STATES, EVENTS))) as task:
        for _ in range(3):
            for dump in (device.nodes(), task.pending(), task.marked()):
                for _ in dump:
                    pass
            device.tasks()
            device.info()
            device.table()
            if rng.random() < 0.2:
                CHECK.read_text()
            if rng.random() < 0.3:
                task.read_batch(100)


def come_and_go(rng: random.Random) -> None:
    """Be a task for a moment."""
    where = rng.choice((TREE, TREE / "f1", TREE.parent))
    mask = rng.choice((STATES, EVENTS, Mask.EXISTS))
    with Device() as device, device.register(where, mask) as task:
        time.sleep(rng.random() / 10)
        task.read_batch(100)


LIVES: dict[str, Life] = {
    **{f"churn {number}": churn for number in range(3)},
    "states": reading(STATES, 0),
    "events, little room": reading(EVENTS, 1 << 16),
    "look": look,
    "come and go": come_and_go,
}


def live(name: str, life: Life, seed: int, end: float) -> int:
    """Live again and again until the end; return the process's status."""
    rng = random.Random(f"{seed} {name}")
    lives = well = 0
    while time.monotonic() < end:
        lives += 1
        # What others do to the file, or to the last free slot, meanwhile.
        with contextlib.suppress(OSError, DuetError):
            life(rng)
            well += 1
    print(f"hammer: {name}: {lives}, of them {well} to their end", flush=True)
    return 0 if well else 1


def looks() -> int:
    """Return how many accesses KCSAN looked at."""
    for line in Path("/sys/kernel/debug/kcsan").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "setup_watchpoints":
            return int(value)
    sys.exit("hammer: the kernel does not say how often KCSAN looked")


def main() -> int:
    """Hammer; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    args = parser.parse_args()
    print(f"hammer: seed {args.seed}", flush=True)
    for name, value in PARAMETERS.items():
        (KCSAN / name).write_text(str(value))
    for one in (TREE, ELSEWHERE):
        one.mkdir(exist_ok=True)
    (SYSFS / "limit_bytes").write_text(str(LIMIT))
    with Device() as device:
        device.start(len(LIVES) + 1)
    before, end, children = looks(), time.monotonic() + args.seconds, []
    for name, life in LIVES.items():
        pid = os.fork()
        if not pid:
            status = 2
            try:
                status = live(name, life, args.seed, end)
            finally:
                os._exit(status)
        children.append(pid)
    idle = sum(os.waitpid(pid, 0)[1] != 0 for pid in children)
    with Device() as device:
        device.stop()
    looked = looks() - before
    print(f"hammer: KCSAN looked at {looked} accesses", flush=True)
    if idle:
        print("hammer: somebody did nothing", flush=True)
    return 1 if idle or looked < LOOKS_PER_SECOND * args.seconds else 0


if __name__ == "__main__":
    sys.exit(main())
