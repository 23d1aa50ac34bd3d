# SPDX-License-Identifier: MIT
"""Everything at once: four file systems under load, tasks that come and go, little memory.

    tests/vm/lab run --smp 8 ... -- python tests/stress/stress.py --seconds 120

In cycles. In each, programs work on ext4, XFS, btrfs and f2fs, in a memory
cgroup that is reclaimed all the time; clients register, read, mark and die;
file systems are unmounted and mounted again, and Duet is switched off and on
under them. Then all is made to stand still, and is compared:

- the driver's table with the page cache, by the driver (invariant.py);
- what a state-based task on each file system was told since it registered with
  mincore, cachestat and the page flags (truth.py).

At a cycle's end everybody is killed, and nothing may be left in the driver;
then the module is unloaded, and its caches have to be gone. With
`slab_nomerge` on the kernel's command line the kernel says what was left in
them; kmemleak, which the debug kernel has, looks after the last one.
"""

import argparse
import contextlib
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "kernel"), str(HERE.parent)]

import invariant  # noqa: E402
from clients import Nursery  # noqa: E402
from truth import Watch, drop_caches  # noqa: E402

from pyduet import Device, Mask  # noqa: E402
from pyduet.errors import DuetError, TaskGoneError, TooManyTasksError  # noqa: E402

MOUNT = Path("/mnt/duet")
SYSFS = Path("/sys/class/misc/duet")
MODULE = Path("/run/duet-lab/duet.ko")
CGROUPS = Path("/sys/fs/cgroup")
GROUP = CGROUPS / "stress"
#: MiB; little more than mkfs wants.
SIZES = {"ext4": 128, "xfs": 320, "btrfs": 256, "f2fs": 128}
#: Bytes that all programs may have before they are reclaimed from. Not a limit at which the kernel
#: would kill one: those that matter are outside, and an OOM's words are trouble to the lab.
HIGH = 48 << 20
CHURNS = 2
#: So often a file system is unmounted in vain, before those who keep it busy are held.
TRIES = 5
#: Slots beyond those of the tasks that there are at a time.
SPARE = 4
#: stress-ng's stressors that use a page cache, each with no more than some MiB.
STRESSORS = {
    "iomix": ["--iomix-bytes", "4m"],
    "readahead": ["--readahead-bytes", "4m"],
    "fallocate": ["--fallocate-bytes", "4m"],
    "sync-file": ["--sync-file-bytes", "4m"],
    "hdd": ["--hdd-bytes", "4m"],
    "fpunch": [],
    "revio": [],
    "rename": [],
    "link": [],
    "dentry": ["--dentries", "64"],
}
#: Seconds of load in a cycle, and how long anything may take that has to happen at last.
CYCLE, PATIENCE = 30.0, 240.0
STATES = Mask.EXISTS | Mask.MODIFIED


def say(words: str) -> None:
    print(f"stress: {time.monotonic() - BEGIN:6.1f} s: {words}", flush=True)


BEGIN = time.monotonic()


def eventually(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    """Wait for a condition, or raise AssertionError with what is so instead."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.1)


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


class Place:
    """A file system in a file, what works on it, and a task that is told of it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.image, self.where = MOUNT / f"{kind}.image", MOUNT / kind
        self.tree = self.where / "tree"
        self.programs: list[subprocess.Popen[bytes]] = []
        self.watch: Watch | None = None
        self.where.mkdir()
        with self.image.open("wb") as file:
            file.truncate(SIZES[kind] << 20)
        force = {"ext4": "-F", "xfs": "-f", "btrfs": "-f", "f2fs": "-f"}[kind]
        done = subprocess.run(
            [f"mkfs.{kind}", force, self.image], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        self.mount()
        for name in ("tree", "out"):
            (self.where / name).mkdir()

    def mount(self) -> None:
        # Past the page cache below, which would take as much memory once more.
        device = subprocess.check_output(
            ["losetup", "--find", "--show", "--direct-io=on", self.image], text=True
        ).strip()
        run("mount", "-t", self.kind, device, self.where)
        # It goes with the file system.
        run("losetup", "--detach", device)

    def unmount(self) -> bool:
        """Try to unmount it; return whether nobody used it."""
        return not subprocess.run(
            ["umount", self.where], capture_output=True, check=False
        ).returncode

    def begin(self, rng: random.Random) -> None:
        """Have programs work on it."""
        commands: list[list[str]] = [
            [str(CHURN), str(self.where), str(rng.getrandbits(32))] for _ in range(CHURNS)
        ]
        chosen = rng.sample(list(STRESSORS), 2)
        scratch = self.tree / "stress-ng"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(exist_ok=True)
        commands.append(
            ["stress-ng", "--quiet", "--temp-path", str(scratch)]
            + ["--seed", str(rng.getrandbits(32))]
        )
        for name in chosen:
            commands[-1] += [f"--{name}", "1", *STRESSORS[name]]
        for command in commands:
            program = subprocess.Popen(command, process_group=0, stdout=subprocess.DEVNULL)
            self.programs.append(program)
            (GROUP / "cgroup.procs").write_text(str(program.pid))

    def signal(self, number: int) -> None:
        for program in self.programs:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, number)

    def assert_alive(self) -> None:
        """Raise AssertionError if a churn ended; stress-ng may give up on a full file system."""
        ended = [str(program.args) for program in self.programs if program.poll() is not None]
        ended = [args for args in ended if "churn" in args]
        assert not ended, f"ended of itself: {ended}"

    def end(self) -> None:
        """End the programs; what they leave, they leave."""
        self.assert_alive()
        self.signal(signal.SIGKILL)
        for program in self.programs:
            program.wait()
        self.programs.clear()

    def register(self, device: Device) -> None:
        """Have a task that is told of all from here on."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                task = device.register(self.tree, STATES, ranges=True, name=self.kind)
            except TooManyTasksError:  # those of clients that are about to be gone
                assert time.monotonic() < end, "no slot becomes free"
                time.sleep(0.1)
            else:
                break
        self.watch = Watch(task)

    def forget(self) -> None:
        if self.watch:
            self.watch.task.close()
        self.watch = None

    def read(self) -> None:
        """Read what there is, and look anew after an overflow."""
        if not self.watch:
            return
        before = self.watch.tally.overflows
        self.watch.read()
        if self.watch.tally.overflows > before:
            self.watch.task.rescan()

    def assert_told_of_its_end(self) -> None:
        """Raise AssertionError if the task of what was unmounted believes in any page."""
        watch, end = self.watch, time.monotonic() + PATIENCE
        assert watch
        with contextlib.suppress(TaskGoneError):
            while time.monotonic() < end:
                overflows = watch.tally.overflows
                if not watch.read() and not watch.task.wait(1):
                    continue
                if watch.tally.overflows > overflows:
                    watch.task.rescan()
        left = watch.tally.cached_files()
        assert not left, f"{self.kind} was unmounted, still told as cached: {left}"


class Stress:
    """The conductor."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.rng = random.Random(args.seed)
        self.still, self.tasks, self.module = args.still, args.tasks, args.module
        self.places = [Place(kind) for kind in SIZES]
        self.device: Device | None = None
        self.nursery: Nursery | None = None
        self.sums: dict[str, int] = {}

    def count(self, name: str, number: int = 1) -> None:
        self.sums[name] = self.sums.get(name, 0) + number

    # What is at work

    def begin(self) -> None:
        """Switch Duet on, and begin everything; the clients first, who are to inherit nothing."""
        trees = [place.tree for place in self.places]
        self.nursery = Nursery(trees, self.rng.getrandbits(64), self.tasks - len(self.places))
        self.nursery.signal(signal.SIGSTOP)
        self.device = Device()
        self.start()
        for place in self.places:
            place.begin(self.rng)
        self.nursery.signal(signal.SIGCONT)

    def start(self) -> None:
        assert self.device
        # Who was killed has its slot for a moment more.
        self.device.start(self.tasks + SPARE)
        for place in self.places:
            place.register(self.device)

    @contextlib.contextmanager
    def standing(self) -> Iterator[None]:
        """Nobody works meanwhile, if nothing may be patched under load."""
        if not self.still:
            yield
            return
        assert self.nursery
        for one in (self.nursery, *self.places):
            one.signal(signal.SIGSTOP)
        os.sync()
        yield
        for one in (self.nursery, *self.places):
            one.signal(signal.SIGCONT)

    def assert_alive(self) -> None:
        assert self.nursery
        self.nursery.assert_alive()
        for place in self.places:
            place.assert_alive()

    # What happens to it

    def drop(self) -> None:
        drop_caches(self.rng.choice((1, 2, 3)))

    def reclaim(self) -> None:
        with contextlib.suppress(OSError):  # less than that could be
            (GROUP / "memory.reclaim").write_text(str(8 << 20))

    def sync(self) -> None:
        os.sync()

    def unload_in_use(self) -> None:
        done = subprocess.run(["rmmod", "duet"], capture_output=True, check=False)
        assert done.returncode != 0, "duet.ko was unloaded while it was used"

    def end_one(self) -> None:
        assert self.device
        ours = {place.kind for place in self.places}
        others = [task for task in self.device.tasks() if task.name not in ours]
        if others:
            with contextlib.suppress(TaskGoneError):
                self.device.end(self.rng.choice(others).id)

    def check(self) -> None:
        invariant.look()  # it means nothing while all moves, but has to get through

    def remount(self) -> None:
        place = self.rng.choice(self.places)
        place.end()
        assert self.nursery
        tries = 0
        while not place.unmount():
            # A client registers there just now; and there are so many that one nearly always does.
            tries += 1
            if tries == TRIES:
                self.nursery.signal(signal.SIGSTOP)
            place.read()
            assert tries < 100 * TRIES, f"{place.kind} stays busy"
            time.sleep(0.1)
        self.nursery.signal(signal.SIGCONT)
        place.assert_told_of_its_end()
        place.forget()
        place.mount()
        assert self.device
        place.register(self.device)
        place.begin(self.rng)

    def restart(self) -> None:
        with self.standing():
            assert self.device
            self.device.stop()
            for place in self.places:
                place.forget()
            self.assert_empty()
            self.start()

    SMALL = (drop, drop, reclaim, sync, unload_in_use, end_one, end_one, check)
    LARGE = (remount, remount, restart)

    # What has to be so

    def assert_empty(self) -> None:
        """Raise AssertionError if something of any task is left in the driver."""

        def left() -> dict[str, int]:
            names = ("tasks", "files", "nodes", "bytes")
            numbers = {name: int((SYSFS / name).read_text()) for name in names}
            return {name: number for name, number in numbers.items() if number}

        eventually(lambda: not left(), lambda: f"left after a stop: {left()}")

    def compare(self) -> None:
        """Have all stand still, and hold the driver and what it told against the kernel."""
        assert self.nursery
        self.assert_alive()
        self.nursery.signal(signal.SIGSTOP)
        for place in self.places:
            place.end()
            # The caches may have been dropped just now: let there be something to compare, if
            # the programs left room for it.
            with contextlib.suppress(OSError):
                (place.tree / "last").write_bytes(bytes(5 * mmap.PAGESIZE))
        os.sync()
        found = invariant.look_until_sure()
        self.count("runs compared", found.runs)
        wrong = list(found.lines)
        for place in self.places:
            assert place.watch
            place.read()
            wrong += [f"{place.kind}: {line}" for line in place.watch.disagreements(place.tree)]
            tally = place.watch.tally
            cached = sum(len(tally.cached(file)) for file in tally.cached_files())
            self.count("pages compared", cached)
            self.count("overflows of the survivors", tally.overflows)
        say(f"compared: {found.files} files, {found.runs} runs, {len(wrong)} differ")
        assert not wrong, "\n".join(wrong)
        self.nursery.signal(signal.SIGCONT)

    def unload(self) -> None:
        """Kill everybody, unload the module, and look at what is left of it."""
        assert self.nursery
        assert self.device
        for place in self.places:
            if place.programs:
                place.end()
            place.forget()
        for name, number in self.nursery.counts.sums().items():
            self.count(name, number)
        self.nursery.kill()
        self.device.stop()
        self.assert_empty()
        device = self.device
        # A stop waits half a second for the last user of what it takes away; who that is does it.
        eventually(
            lambda: set(device.hooks().values()) == {"detached"},
            lambda: f"still attached: {device.hooks()}",
        )
        self.device.close()
        eventually(
            lambda: (
                subprocess.run(["rmmod", "duet"], capture_output=True, check=False).returncode == 0
            ),
            lambda: "duet.ko does not unload",
        )
        slabs = Path("/proc/slabinfo").read_text() + str(os.listdir("/sys/kernel/slab"))
        assert "duet_" not in slabs, "a cache of duet.ko is left"
        run("insmod", self.module)

    # All of it

    def cycle(self, seconds: float) -> None:
        begin = time.monotonic()
        self.begin()
        large = [self.rng.choice(self.LARGE) for _ in range(max(1, int(seconds // 10)))]
        step = seconds / (len(large) + 1)
        for number in range(len(large) + 1):
            while time.monotonic() - begin < (number + 1) * step:
                for place in self.places:
                    place.read()
                if self.rng.random() < 0.3:
                    self.rng.choice(self.SMALL)(self)
                self.assert_alive()
                time.sleep(0.1)
            if number < len(large):
                say(large[number].__name__)
                large[number](self)
        self.compare()
        self.unload()

    def go(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        cycles = 0
        while not cycles or time.monotonic() < end:
            cycles += 1
            say(f"cycle {cycles} begins")
            self.cycle(CYCLE if cycles > 1 else min(CYCLE, seconds / 2))
            say(f"cycle {cycles} ends: {reclaimed()} pages reclaimed, {self.sums}")
        for place in self.places:
            eventually(
                place.unmount,
                lambda kind=place.kind: f"{kind} does not unmount, though nobody uses it",
            )
        for name in ("registered", "items", "paths", "marked", "rescans", "killed"):
            assert self.sums[name], f"nothing was {name}: that was no stress"
        assert self.sums["runs compared"], "nothing was compared"
        assert self.sums["pages compared"], "nothing was compared"
        assert reclaimed(), "nothing was reclaimed: that was no stress"


def reclaimed() -> int:
    """Return how many pages were taken from the programs."""
    lines = (GROUP / "memory.stat").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("pgsteal "))


def prepare() -> None:
    """Make the cgroup and the program."""
    # The sync(2) of one stressor waits for those of all others, on four file systems at once: for
    # minutes where the machine below is busy. What hangs for good hangs longer.
    Path("/proc/sys/kernel/hung_task_timeout_secs").write_text("600")
    if not (CGROUPS / "cgroup.controllers").exists():
        run("mount", "-t", "cgroup2", "none", CGROUPS)
    (CGROUPS / "cgroup.subtree_control").write_text("+memory")
    GROUP.mkdir(exist_ok=True)
    (GROUP / "memory.high").write_text(str(HIGH))
    run("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", CHURN, HERE / "churn.c")
    subprocess.run(["modprobe", "-q", "loop"], check=False)  # built in elsewhere
    with contextlib.suppress(DuetError), Device() as device:
        device.stop()


CHURN = Path("/tmp/churn")  # noqa: S108 - the guest's own


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120, help="how long, about")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--module", type=Path, default=MODULE, help="to be loaded anew, a duet.ko")
    parser.add_argument("--tasks", type=int, default=16, help="that may be registered at a time")
    parser.add_argument(
        "--still",
        action="store_true",
        help="let nobody work while the kernel's text is patched (QEMU 7.2 with a thread a CPU)",
    )
    args = parser.parse_args(arguments)
    if "DUET_LAB" not in os.environ:
        parser.error("this runs in the lab: make stress")
    say(f"seed {args.seed}, {os.cpu_count()} processors, {args.tasks} tasks")
    prepare()
    stress = Stress(args)
    say("prepared")
    stress.go(args.seconds)
    say("no fault was found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
