# SPDX-License-Identifier: MIT
"""What duet.ko reads and writes without a lock, done by all at once on eight files.

    tests/vm/lab run --kernel kcsan --smp 2 --parallel ... -- python tests/stress/hammer.py

KCSAN stops a processor at one access in so many, and looks whether another changes the word
meanwhile. The lab fails a run in which duet.ko has such a race; this program fails if KCSAN looked
at too few accesses, or if something was not done at all.
"""

import argparse
import contextlib
import os
import random
import sys
import time
from pathlib import Path

from clients import Nursery

from pyduet import Device
from pyduet.errors import OffError

TREE = Path("/mnt/duet/tree")
ELSEWHERE = Path("/mnt/duet/elsewhere")
FILES = 8
#: Pages of a file, of which each step touches a few.
PAGES = 128
PAGE = os.sysconf("SC_PAGE_SIZE")
#: Processes that use the files, and tasks.
CHURNS, CLIENTS = 3, 4
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


def look() -> None:
    """Look at all that the driver shows, and hold it against the page cache."""
    with contextlib.suppress(OffError), Device() as device:
        device.table()
        sum(1 for _ in device.nodes())
    CHECK.read_text()


def churn_until(end: float, rng: random.Random) -> int:
    """Churn until the end; return the process's status."""
    done = 0
    while time.monotonic() < end:
        # What others do to the file meanwhile.
        with contextlib.suppress(OSError):
            churn(rng)
            done += 1
    print(f"hammer: {done} churns", flush=True)
    return 0 if done else 1


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
        device.start(CLIENTS + 2)
    nursery = Nursery([TREE], args.seed, CLIENTS)
    before, end, children = looks(), time.monotonic() + args.seconds, []
    for number in range(CHURNS):
        pid = os.fork()
        if not pid:
            status = 2
            try:
                status = churn_until(end, random.Random(args.seed + number))
            finally:
                os._exit(status)
        children.append(pid)
    while time.monotonic() < end:
        nursery.assert_alive()
        look()
        time.sleep(1)
    idle = sum(os.waitpid(pid, 0)[1] != 0 for pid in children)
    nursery.kill()
    did = nursery.counts.sums()
    print(f"hammer: clients: {did}", flush=True)
    idle += sum(not did[name] for name in ("registered", "items", "marked", "paths", "dumps"))
    with Device() as device:
        device.stop()
    looked = looks() - before
    print(f"hammer: KCSAN looked at {looked} accesses", flush=True)
    if idle:
        print("hammer: something was not done at all", flush=True)
    return 1 if idle or looked < LOOKS_PER_SECOND * args.seconds else 0


if __name__ == "__main__":
    sys.exit(main())
