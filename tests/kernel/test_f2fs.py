# SPDX-License-Identifier: MIT
"""f2fs garbage collection: which segments, what it reads, and what it leaves as it was."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import schema
from actions import evict, read_page, sync_file, write_at
from conftest import MOUNT, mount_of
from racing import NOTE, SECRET, Field, hostile, racer_in
from truth import PAGE, drop_caches

from pyduet import Device, FileId, Mask, cached_pages
from pyduet.errors import DuetError
from pyduet.maintenance.f2fs.cleaner import Cleaner, Cleaning
from pyduet.maintenance.f2fs.residents import WATCHED, Residents
from pyduet.maintenance.f2fs.segments import MOST_VALID, segments_of
from pyduet.maintenance.files.extents import extents

pytestmark = pytest.mark.fs("f2fs")

#: An ordinary user, and for how many seconds he is at work.
USER, RACE = 4001, float(os.environ.get("DUET_RACE_SECONDS", "5"))
#: Files of each kind, one for a segment: warm ones are read, and have more that is valid.
FILES = 8
WARM, COLD = 44, 32


def disk() -> str:
    return Path(mount_of()[0]).name


def main_area() -> int:
    """The block where the first segment begins, as sysfs says."""
    return int(Path(f"/sys/fs/f2fs/{disk()}/main_blkaddr").read_text())


def valid() -> list[int]:
    """The valid blocks of each segment."""
    text = Path(f"/proc/fs/f2fs/{disk()}/segment_info").read_text()
    return [one.valid for one in segments_of(text)]


def read_from_disk() -> int:
    """Blocks of 4 KiB that were read of the disk."""
    return int(Path(f"/sys/class/block/{disk()}/stat").read_text().split()[2]) * 512 // PAGE


def cached_blocks(paths: list[Path]) -> Counter[int]:
    """Blocks in memory by segment: by mincore and FIEMAP, without Duet."""
    found: Counter[int] = Counter()
    for path in paths:
        cached = cached_pages(path)
        with path.open("rb") as file:
            for extent in extents(file.fileno()):
                for offset in range(0, extent.length, PAGE):
                    if (extent.logical + offset) // PAGE in cached:
                        block = (extent.physical + offset) // PAGE - main_area()
                        found[block // 512] += 1
    return found


def reads(paths: list[Path]) -> dict[int, int]:
    """What cleaning each segment that is worth it would read."""
    cached = cached_blocks(paths)
    return {
        number: blocks - cached[number]
        for number, blocks in enumerate(valid())
        if 0 < blocks <= MOST_VALID
    }


@pytest.fixture
def aged(place: Path) -> Iterator[list[Path]]:
    """Files of which each lies in a segment of its own, the rest of which was deleted.

    The even ones are warm: all of them is in memory. The odd ones are cold and
    have fewer blocks, so that f2fs's own choice is them.
    """
    subprocess.run(["mount", "-o", "remount,background_gc=off", MOUNT], check=True)
    paths = [place / f"tree/file{number:02}" for number in range(2 * FILES)]
    gone = [place / f"tree/gone{number:02}" for number in range(2 * FILES)]
    for number, names in enumerate(zip(paths, gone, strict=True)):
        fds = [os.open(name, os.O_CREAT | os.O_WRONLY) for name in names]
        keep = COLD if number % 2 else WARM
        for _ in range(4):
            for fd, pages in zip(fds, (keep, 128 - keep), strict=True):
                os.write(fd, os.urandom(pages * PAGE))
                os.fsync(fd)
        for fd in fds:
            os.close(fd)
    for name in gone:
        name.unlink()
    drop_caches()
    for path in paths[::2]:
        path.read_bytes()
    assert not any(cached_pages(path) for path in paths[1::2])
    yield paths
    subprocess.run(["mount", "-o", "remount,background_gc=on", MOUNT], check=True)


def clean(count: int, *, own_choice: bool = False) -> tuple[Cleaning, int]:
    """Clean segments; returns how it went, and how many blocks were read for it."""
    before = read_from_disk()
    done = Cleaner(str(MOUNT)).run(count, own_choice=own_choice, give_way=False)
    return done, read_from_disk() - before


def test_what_is_cached_is_cleaned_without_reading(device: Device, aged: list[Path]) -> None:
    """It and f2fs's own choice, one after the other on the same aged file system."""
    content = [path.read_bytes() for path in aged[::2]]
    cached = [cached_pages(path) for path in aged]
    costs = reads(aged)
    before = valid()
    warm, warm_read = clean(FILES // 2)
    assert (warm.step, warm.segments_done) == ("done", FILES // 2)
    # It took those that cost least, and f2fs would not have taken them: they have more blocks.
    assert sorted(costs[one] for one in warm.victims) == sorted(costs.values())[: FILES // 2]
    assert [costs[one] for one in warm.victims] == sorted(costs[one] for one in warm.victims)
    assert warm.blocks_moved == sum(before[one] for one in warm.victims)
    assert warm.blocks_cached >= 0.9 * warm.blocks_moved
    assert [valid()[one] for one in warm.victims] == [0] * len(warm.victims)
    assert [cached_pages(path) for path in aged] == cached

    own, own_read = clean(FILES // 2, own_choice=True)
    assert own.segments_done == FILES // 2
    assert own.blocks_cached <= 0.3 * own.blocks_moved
    assert [cached_pages(path) for path in aged] == cached
    print(f"{warm}: {warm_read} blocks read; {own}: {own_read} blocks read")
    assert warm_read / warm.blocks_moved < 0.2
    assert own_read / own.blocks_moved > 0.7

    drop_caches()
    assert [path.read_bytes() for path in aged[::2]] == content


def test_the_scores_follow_memory_and_disk(device: Device, aged: list[Path]) -> None:
    """Pages that come and go, and blocks that lie elsewhere: as mincore and FIEMAP say."""
    task = device.register(MOUNT, WATCHED, ranges=True)
    root = os.open(MOUNT, os.O_RDONLY)
    residents = Residents(task, root, main_area())

    def agree() -> Counter[int]:
        residents.look()
        assert +residents.cached == cached_blocks(aged)
        return +residents.cached

    with task:
        begin = agree()
        assert sum(begin.values()) == FILES * 4 * WARM
        for page in range(50):
            read_page(aged[1], page)
        agree()
        evict(aged[0])
        agree()
        aged[2].rename(aged[2].with_name("moved"))
        aged[2] = aged[2].with_name("moved")
        write_at(aged[2], 10, 20)
        sync_file(aged[2])
        now = agree()
        assert now != begin
        with aged[4].open("r+b") as file:
            file.truncate(5 * PAGE)
        aged.pop(6).unlink()
        agree()
        done, _ = clean(2)
        assert done.segments_done == 2
        assert agree() != now
    os.close(root)


def test_all_of_it_can_be_asked_for(device: Device, aged: list[Path]) -> None:
    """The segments in use are refused, and the others cleaned; nothing is lost."""
    content = [path.read_bytes() for path in aged]
    drop_caches()
    done, _ = clean(100_000)
    assert done.step == "done"
    assert done.refused > 0
    assert done.segments_done >= 2 * FILES
    assert not any(cached_pages(path) for path in aged)
    drop_caches()
    assert [path.read_bytes() for path in aged] == content


def test_writes_can_be_counted(device: Device, aged: list[Path]) -> None:
    """A segment mostly in memory, of which less is valid, comes before those wholly in memory."""
    for page in range(3 * COLD):
        read_page(aged[1], page)
    with aged[1].open("rb") as file:
        [mine] = {(one.physical // PAGE - main_area()) // 512 for one in extents(file.fileno())}
    one, warm = (mine, 4 * COLD, 3 * COLD), (4 * WARM, 4 * WARM)
    # Reads and writes of it are a quarter of 128, and 128; of the warm ones none, and 176.
    for count_writes in (True, False):
        planned = list(Cleaner(str(MOUNT), count_writes=count_writes).plan(2 * FILES))
        ours = [victim for victim in planned if victim == one or victim[1:] == warm]
        assert len(ours) == 1 + FILES
        assert (ours[0] == one) is count_writes


def test_no_block_is_taken_for_an_inode(device: Device, place: Path) -> None:
    """Pitfall: who asked for made-up numbers had f2fs read its node blocks as inodes."""
    path = place / "tree/file"
    with path.open("wb") as file:
        file.write(bytes(16 << 20))
        os.fsync(file)
    last = path.stat().st_ino
    with (
        device.register(place / "tree", Mask.EXISTS) as task,
        open("/dev/kmsg", "rb", buffering=0, opener=unread) as log,
    ):
        for number in range(4, last + 100):
            task.is_done(FileId(number, 1))
            with contextlib.suppress(DuetError):
                task.path_of(FileId(number, 1), max_age=0)
        said = b"".join(iter(lambda: log.read(8192), None))
    assert b"F2FS-fs" not in said, said


def unread(path: str, flags: int) -> int:
    """Open the kernel's log so that only what comes from here on is read, without waiting."""
    fd = os.open(path, flags | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)
    return fd


def duet(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-m", "pyduet", "run", "f2fs-gc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command(device: Device, aged: list[Path]) -> None:
    """What it prints, what it refuses to do, and that it changes nothing then."""
    before = valid()
    planned = duet(str(MOUNT), "--segments", "3", "--dry-run", "--json")
    victims = [json.loads(line) for line in planned.stdout.splitlines()]
    assert [victim["cached"] for victim in victims] == [victim["valid"] for victim in victims]
    assert len(victims) == 3
    for wrong, code, words in (
        ([str(aged[0].parent)], 1, f"name that directory: {MOUNT}"),
        (["/proc"], 1, "only f2fs"),
        ([str(MOUNT / "nowhere")], 8, "nowhere"),
    ):
        done = duet(*wrong)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    done = duet(str(MOUNT), before=("setpriv", "--bounding-set=-sys_admin"))
    assert (done.returncode, "root" in done.stderr) == (4, True), done.stderr
    device.stop()
    assert duet(str(MOUNT)).returncode == 5
    device.start()
    assert valid() == before

    ran = duet(str(MOUNT), "--segments", "3", "--json", "--no-idle", "--no-give-way")
    assert ran.returncode == 0, ran.stderr
    last = json.loads(ran.stdout.splitlines()[-1])
    schema.check("cleaning", last)
    assert last["victims"] == [victim["segment"] for victim in victims]
    for victim in victims:
        schema.check("victim", victim)
    assert "3 segments cleaned" in ran.stderr


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """Another file system."""
    image, path = tmp_path / "image", tmp_path / "elsewhere"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    path.mkdir()
    subprocess.run(["modprobe", "loop"], check=True)
    subprocess.run(["mount", "-o", "loop", image, path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def test_a_user_exchanges_what_is_cleaned(
    device: Device, aged: list[Path], place: Path, elsewhere: Path
) -> None:
    """For links to what is on another file system, and for FIFOs: nothing of that is opened."""
    racer = racer_in(place)
    content = [path.read_bytes() for path in aged]
    end = time.monotonic() + RACE
    cleaned = 0
    with (
        contextlib.closing(Field(place / "out", elsewhere, USER)) as field,
        hostile(racer, field),
    ):
        while not cleaned or time.monotonic() < end:
            ran = duet(str(MOUNT), "--segments", "2", "--json", "--no-idle", "--no-give-way")
            assert ran.returncode == 0, ran.stderr
            cleaned += json.loads(ran.stdout.splitlines()[-1])["segments_done"]
            for secret in (SECRET, NOTE):
                assert secret.decode() not in ran.stdout + ran.stderr
            field.assert_untouched()
    drop_caches()
    assert [path.read_bytes() for path in aged] == content
