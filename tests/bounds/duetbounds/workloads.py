# SPDX-License-Identifier: MIT
"""In the guest: what a user can make long, each in a size, and what is measured of it."""

import contextlib
import itertools
import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pyduet import Device, FileId, Mask, Task

PLACE = Path("/mnt/duet")
EVENTS = Mask.ADDED | Mask.REMOVED | Mask.DIRTY | Mask.FLUSHED
STATES = Mask.EXISTS | Mask.MODIFIED
PAGE = os.sysconf("SC_PAGE_SIZE")
RUN = 64 * PAGE
_PLACES = itertools.count()
#: A page of the page tables for each 8: so few at a time.
_RUNS_MAPPED = 4096
_CHECK = Path("/sys/kernel/debug/duet/check")

#: Measures what is done in its block, as the part of that name.
Part = Callable[[str], contextlib.AbstractContextManager[None]]


class Workload(NamedTuple):
    """What is done, and how much of it: few and many."""

    run: Callable[[Part, int], None]
    few: int
    many: int
    fs: str = "ext4"


@contextlib.contextmanager
def _on(max_tasks: int = 0) -> Iterator[Device]:
    """Duet is on, and nothing is cached at first."""
    drop(3)
    with Device() as device:
        half = os.sysconf("SC_PHYS_PAGES") * PAGE // 2
        device.set_limits(limit=half, task_limit=half)
        device.start(max_tasks)
        try:
            yield device
        finally:
            device.stop()
            device.set_limits(limit=0, task_limit=0)


def drop(what: int) -> None:
    """Drop clean pages (1), dentries and inodes (2), or both (3)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text(str(what))


def _tree() -> tuple[Path, Path]:
    """Return an empty directory for tasks to watch, and one beside it."""
    place = PLACE / f"{next(_PLACES)}"
    for name in ("tree", "out"):
        (place / name).mkdir(parents=True)
    return place / "tree", place / "out"


def _sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def _touch(path: Path, runs: int) -> None:
    """Read one page of each run, and leave few in the cache."""
    with path.open("rb") as file:
        for first in range(0, runs, _RUNS_MAPPED):
            length = min(runs - first, _RUNS_MAPPED) * RUN
            with mmap.mmap(file.fileno(), length, prot=mmap.PROT_READ, offset=first * RUN) as view:
                view.madvise(mmap.MADV_RANDOM)
                # In one go: a call for each takes longer than what it brings about.
                view[::RUN]
            os.posix_fadvise(file.fileno(), first * RUN, length, os.POSIX_FADV_DONTNEED)


def _stream(path: Path) -> None:
    """Read a file from its begin to its end."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def _pass_through(path: Path) -> None:
    """Have a file read by the kernel, and copied to nobody: the same pages come and go."""
    with path.open("rb") as file:
        size = path.stat().st_size
        # No more than it reads ahead at a time: it would leave the rest out.
        for at in range(0, size, 32 * PAGE):
            os.posix_fadvise(file.fileno(), at, 32 * PAGE, os.POSIX_FADV_WILLNEED)


def _read(task: Task, most: int = sys.maxsize) -> None:
    """Read all there is, or so many items."""
    number = 0
    while number < most and (batch := task.read_batch()):
        number += len(batch)


def _count(told: Iterable[object]) -> int:
    """Take what a call tells, but no more than a few thousand: that takes Python long."""
    return sum(1 for _ in itertools.islice(told, 5_000))


def _check() -> None:
    """Have the table held against the page cache."""
    last = _CHECK.read_text().splitlines()[-1]
    if ", 0 differ" not in last:
        raise RuntimeError(last)


def nodes(part: Part, many: int) -> None:
    """So many nodes of one file that nobody has read."""
    path = _sparse(_tree()[0] / "file", many * RUN)
    with _on() as device, device.register(path.parent, EVENTS) as task:
        with part("made"):
            _touch(path, many)
        if device.info().nodes < many:
            raise RuntimeError(f"only {device.info().nodes} nodes")
        with part("dumped and checked"):
            _count(task.pending())
            _count(device.nodes())
            device.table()
            _check()
        with part("polled"):
            task.wait(0)
        with part("their file deleted"):
            path.unlink()
        with part("half of them read"):
            _read(task, many // 2)
        with part("their task ended"):
            task.close()


def states(part: Part, many: int) -> None:
    """So many nodes of one file, cached, for a task of states."""
    path = _sparse(_tree()[0] / "file", many * RUN)
    with _on() as device, device.register(path.parent, STATES) as task:
        fd = os.open(path, os.O_RDWR)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        with part("cached and dirty"):
            for run in range(many):
                os.pwrite(fd, b"x", run * RUN) if run % 8 else os.pread(fd, 1, run * RUN)
            # All pages of one run, too: most that can be looked at for a node.
            os.pwrite(fd, bytes(RUN), 0)
        with part("read"):
            _read(task)
        with part("rescanned"):
            task.rescan()
            _read(task)
            _check()
        with part("written back"):
            os.fsync(fd)
            _read(task)
        with part("truncated"):
            os.ftruncate(fd, 0)
        os.close(fd)
        with part("their task ended"):
            task.close()


def shadows(part: Part, many: int) -> None:
    """A file of so many pages that went through a memory of few, and left their shadows."""
    path = _sparse(_tree()[0] / "file", many * PAGE)
    with _on() as device, device.register(path.parent, STATES) as task:
        with _little_memory():
            with part("streamed"):
                _pass_through(path)
                _read(task)
            _say_shadows()
            with part("rescanned"):
                task.rescan()
                _read(task)
            with (
                part("registered and scanned"),
                device.register(path.parent, STATES) as second,
            ):
                _read(second)
            with (
                part("a snapshot"),
                device.register(path.parent, Mask.EXISTS, snapshot=True) as third,
            ):
                _read(third)
            with part("checked"):
                _check()
            _say_shadows()
        with part("deleted"):
            path.unlink()


@contextlib.contextmanager
def _little_memory() -> Iterator[None]:
    """Have most of the memory, which is not swapped out, meanwhile."""
    length = (os.sysconf("SC_AVPHYS_PAGES") - 32_000) * PAGE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
    with mmap.mmap(-1, length, flags=flags):
        yield


def _say_shadows() -> None:
    """Say how many nodes of the page cache's trees have shadows only, of 64 pages each."""
    stat = Path("/proc/vmstat").read_text().split()
    left = stat[stat.index("workingset_nodes") + 1]
    print(f"shadows: in {left} nodes", file=sys.stderr, flush=True)


def links(part: Part, many: int) -> None:
    """A file with so many names."""
    tree, out = _tree()
    path = _sparse(tree / "file", PAGE)
    for i in range(1, many):
        os.link(path, tree / f"{i}")
    with _on() as device:
        for i in range(1, many):
            os.stat(tree / f"{i}")
        path.rename(out / "file")
        with device.register(tree, STATES) as task:
            os.link(tree / "1", tree / "now")
            with part("read"):
                _stream(tree / "1")
                _read(task)
            with part("names come and go"):
                for i in range(100):
                    os.link(tree / "1", tree / f"more{i}")
                    _read(task)
                    (tree / f"{many - 1 - i}").unlink()
                    _read(task)
            with part("rescanned"):
                task.rescan()
                _read(task)
            fd = os.open(tree / "1", os.O_RDWR)
            with part("dropped, all names outside"):
                tree.rename(out / "elsewhere")
                _read(task)
                os.pwrite(fd, b"x", 0)
                os.fsync(fd)
                _read(task)
            os.close(fd)
            (out / "elsewhere").rename(tree)


def removed(part: Part, many: int) -> None:
    """A file that was opened by so many names, each of which was then removed."""
    tree, _ = _tree()
    path, name = _sparse(tree / "file", PAGE), tree / "name"
    most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 2 * many)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with _on() as device, contextlib.ExitStack() as stack:
        _stream(path)
        for _ in range(many):
            os.link(path, name)
            stack.callback(os.close, os.open(name, os.O_RDWR))
            name.unlink()
        with device.register(tree, STATES) as task:
            with part("scanned, read"):
                task.rescan()
                _read(task)
            with part("written"):
                path.write_bytes(b"x")
                _read(task)
            with part("one more comes and goes"):
                os.link(path, name)
                _read(task)
                name.unlink()
                _read(task)
        with part("a snapshot"), device.register(tree, STATES, snapshot=True) as task:
            _read(task)


def deep(part: Part, many: int) -> None:
    """A directory so many levels below the task's."""
    tree, out = _tree()
    here = os.open("/", os.O_RDONLY)
    os.chdir(tree)
    try:
        for _ in range(many):
            os.mkdir("d")
            os.chdir("d")
        Path("file").write_bytes(b"x" * PAGE)
        Path("second").write_bytes(b"x" * PAGE)
        with _on() as device, device.register(tree, EVENTS) as task:
            with part("files read and written"):
                _stream(Path("file"))
                Path("second").write_bytes(b"x" * PAGE)
                items = list(task.read())
                _read(task)
            with part("paths asked for"):
                for item in items[:2]:
                    # Longer than a path may be: ENAMETOOLONG.
                    with contextlib.suppress(OSError):
                        task.path_of(item.file)
            with part("rescanned, with so many inodes"):
                task.rescan()
                _read(task)
            with part("moved, at the bottom"):
                for _ in range(100):
                    os.rename("second", "third")
                    os.rename("third", "second")
                    _read(task)
            with part("moved, across the border"):
                os.rename(tree / "d", out / "d")
                _stream(Path("file"))
                _read(task)
                os.rename(out / "d", tree / "d")
                _read(task)
    finally:
        os.fchdir(here)
        os.close(here)


_RENAME = """
import os, sys
one, other = sys.argv[1:]
print(flush=True)
while True:
    os.rename(one, other)
    os.rename(other, one)
"""
_COME_AND_GO = """
import os, sys
print(flush=True)
while True:
    fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"x")
    os.close(fd)
    os.unlink(sys.argv[1])
"""


@contextlib.contextmanager
def _loops(*commands: tuple[str, ...]) -> Iterator[None]:
    """Programs run in a loop meanwhile."""
    with contextlib.ExitStack() as stack:
        for command in commands:
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", *command], stdout=subprocess.PIPE)
            )
            stack.callback(process.kill)
            if process.stdout is not None:
                process.stdout.readline()
        yield


def renames(part: Part, many: int) -> None:
    """Four rename loops on this file system and on another, while so many files come."""
    tree, out = _tree()
    for name in ("a", "b"):
        (tree / name).mkdir()
    (out / "c").mkdir()
    other = Path("/tmp")  # noqa: S108  the guest is ours alone
    for name in ("d", "e"):
        (other / name).mkdir(exist_ok=True)
    pairs = [
        (tree / "a", tree / "x"),
        (tree / "b", out / "y"),
        (out / "c", tree / "z"),
        (other / "d", other / "u"),
        (other / "e", other / "v"),
    ]
    with _on() as device, device.register(tree, EVENTS) as task:
        commands = [(_RENAME, str(one), str(two)) for one, two in pairs]
        with _loops(*commands), part("files written and read"):
            for i in range(many):
                path = tree / f"{i}"
                path.write_bytes(b"x")
                if i % 64 == 0:
                    _read(task)
            _read(task)


def come_and_go(part: Part, many: int) -> None:
    """Four loops that create and delete a file, while so many others do so."""
    tree, _ = _tree()
    with _on() as device, device.register(tree, EVENTS) as task:
        commands = [(_COME_AND_GO, str(tree / f"loop{i}")) for i in range(4)]
        with _loops(*commands), part("files created and deleted"):
            for i in range(min(many, 500)):
                path = tree / f"{i}"
                path.write_bytes(b"x")
                path.unlink()
                if i % 256 == 0:
                    _read(task)
        _read(task)
        with part("the same, and nobody reads"):
            for _ in range(many):
                path = tree / "same"
                path.write_bytes(b"x")
                path.unlink()
        print(f"come and go: {device.info().files} entries", file=sys.stderr, flush=True)
        with part("read at last"):
            _read(task, many // 2)
        with part("their task ended"):
            task.close()


def marks(part: Part, many: int) -> None:
    """So many marks of a task."""
    tree, _ = _tree()
    with _on() as device, device.register(tree, EVENTS) as task:
        with part("set"):
            task.mark_many(FileId(1 + i * 3, 1) for i in range(many))
        with part("told"):
            _count(task.marked())
        with part("taken back"):
            task.unmark_many(FileId(1 + i * 3, 1) for i in range(many // 4))
        with part("their task ended"):
            task.close()


def epochs(part: Part, many: int) -> None:
    """A directory that crosses the border so often."""
    tree, out = _tree()
    inside, outside = tree / "d", out / "d"
    inside.mkdir()
    with _on() as device, device.register(tree, EVENTS), part("crossed"):
        for _ in range(many // 2):
            inside.rename(outside)
            outside.rename(inside)


def full(part: Part, many: int) -> None:
    """A task that is full and nobody reads, while so many pages are streamed."""
    tree, out = _tree()
    path = _sparse(tree / "file", many * PAGE)
    other = _sparse(out / "file", many * PAGE)
    with _on() as device:
        with part("streamed elsewhere, no task"):
            _stream(other)
        drop(3)
        with device.register(out, EVENTS):
            drop(3)
            with part("streamed, no task wants it"):
                _stream(path)
        drop(3)
        with device.register(tree, EVENTS, limit=4096) as task:
            for i in range(64):
                (tree / f"{i}").write_bytes(b"x")
            drop(1)
            before = device.info().bytes
            with part("streamed, the task is full"):
                _stream(path)
            if device.info().bytes > before + 65536:
                raise RuntimeError("a full task takes memory")
            with part("read"):
                _read(task)


def items(part: Part, many: int) -> None:
    """A file of so many pages, no two neighbours of which have the same news."""
    path = _sparse(_tree()[0] / "file", many * PAGE)
    with _on() as device, device.register(path.parent, EVENTS) as task:
        fd = os.open(path, os.O_RDWR)
        for page in range(many):
            os.pread(fd, 1, page * PAGE)
            if page % 2:
                os.pwrite(fd, b"x", page * PAGE)
        with part("read"):
            _read(task)
        with part("written back, read"):
            os.fsync(fd)
            _read(task)
        os.close(fd)


def tasks(part: Part, many: int) -> None:
    """So many tasks that want the same file."""
    tree, _ = _tree()
    runs = 400
    path = _sparse(tree / "file", runs * RUN)
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(_on(many))
        held = [
            stack.enter_context(device.register(tree, STATES if i % 2 else EVENTS, no_scan=True))
            for i in range(many)
        ]
        with part("nodes made"):
            _touch(path, runs)
        with part("read, dumped and checked"):
            for task in held[:4]:
                _read(task)
            _count(device.nodes())
            _check()
        fd = os.open(path, os.O_RDWR)
        with part("written, written back and dropped"):
            for run in range(runs):
                os.pwrite(fd, b"x", run * RUN)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        _stream(path)
        os.close(fd)
        with part("compared"):
            held[1].rescan()
            _read(held[1])
        with part("deleted"):
            path.unlink()
        with part("ended"):
            for task in held:
                task.close()


def folios(part: Part, many: int) -> None:
    """A file of so many MiB in large folios."""
    tree, _ = _tree()
    path = tree / "file"
    with _on() as device, device.register(tree, STATES) as task, path.open("wb") as file:
        with part("written"):
            for _ in range(many):
                file.write(b"x" * (1 << 20))
        with part("written back, read"):
            os.fsync(file.fileno())
            _read(task)
        with part("dropped"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with part("streamed"):
            _stream(path)
            _read(task)


#: A loop without a bound takes more than is allowed in the smaller size already.
WORKLOADS = {
    "come_and_go": Workload(come_and_go, 4_000, 10_000),
    "deep": Workload(deep, 4_000, 50_000),
    "nodes": Workload(nodes, 5_000, 1_000_000),
    "shadows": Workload(shadows, 200_000, 2_000_000),
    "links": Workload(links, 4_000, 64_800),
    "removed": Workload(removed, 4_000, 64_800),
    "renames": Workload(renames, 20, 500),
    "states": Workload(states, 2_000, 20_000),
    "tasks": Workload(tasks, 8, 48),
    "items": Workload(items, 2_000, 10_000),
    "full": Workload(full, 2_000, 20_000),
    "epochs": Workload(epochs, 1_000, 66_000),
    "marks": Workload(marks, 30_000, 300_000),
    "come_and_go_xfs": Workload(come_and_go, 4_000, 10_000, fs="xfs"),
    "folios": Workload(folios, 8, 128, fs="xfs"),
    "come_and_go_f2fs": Workload(come_and_go, 4_000, 10_000, fs="f2fs"),
}
