# SPDX-License-Identifier: MIT
"""A scrub finds what has gone bad on the disk, whatever else was done to it, and nothing else."""

import json
import mmap
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import Ran, run_duet
from kept import kept
from places import Mounted

from pyduet.files import data_ranges
from pyduet.maintenance import Frame, Ledger, Options, Progress, Use
from pyduet.maintenance.tasks.scrub import Scrub

SIZE = 200_000


@pytest.fixture
def tree(mounted: Mounted) -> Path:
    """Two directories with files of a day ago; btrfs has no checksums of its own of them."""
    tree = mounted.path / "tree"
    tree.mkdir()
    if mounted.kind == "btrfs":
        subprocess.run(["chattr", "+C", tree], check=True)
    for name in ("one", "two"):
        (tree / name).mkdir()
        for number in range(3):
            (tree / name / f"file{number}").write_bytes(os.urandom(SIZE))
            moment = time.time() - 86400 - number
            os.utime(tree / name / f"file{number}", (moment, moment))
    return tree


@pytest.fixture
def scrub(tree: Path, tmp_path: Path) -> Callable[..., Ran]:
    """A scrub of the tree."""

    def run(*options: str) -> Ran:
        return run_duet("run", "scrub", tree, "--state", tmp_path / "ledger", "--json", *options)

    return run


def named(ran: Ran) -> dict[str, str]:
    """Return what is wrong, by path; all of it is said in words as well."""
    problems = ran.objects[-1]["problems"]
    assert ran.status == (12 if problems else 0), ran.words
    for problem in problems:
        assert f"{problem['path']}: {problem['trouble']}: {problem['words']}" in ran.words
    return {problem["path"]: problem["trouble"] for problem in problems}


def counts(ran: Ran) -> dict[str, int]:
    """Return what was counted, but no zeros and no bytes."""
    report: dict[str, int] = ran.objects[-1]["report"]
    return {name: count for name, count in report.items() if count and "bytes" not in name}


def turn_a_bit(mounted: Mounted, content: bytes) -> None:
    """Turn a bit on the disk of what is there once: what is in memory stays as it is."""
    os.sync()
    assert mounted.image
    fd = os.open(mounted.image, os.O_RDWR)
    places = []
    for data in data_ranges(fd, 0, os.fstat(fd).st_size):
        found = os.pread(fd, len(data), data.start).find(content[8192:8292])
        places += [data.start + found] if found >= 0 else []
    (place,) = places
    os.pwrite(fd, bytes([content[8242] ^ 1]), place + 50)
    os.close(fd)


def forget(*paths: Path) -> None:
    """Have files in memory no more."""
    os.sync()
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def files(tree: Path) -> list[Path]:
    return [path for path in tree.rglob("*") if path.is_file()]


def link_in_place_of(path: Path) -> Path:
    path.with_name("other").hardlink_to(path)
    path.unlink()
    return path.with_name("other")


def move_the_directory(path: Path) -> Path:
    return path.parent.rename(path.parent.with_name(f"{path.parent.name}, moved")) / path.name


def do(path: Path, *command: str) -> Path:
    subprocess.run([*command, path], check=True)
    return path


def change_attribute(path: Path) -> Path:
    os.setxattr(path, "user.note", b"1")
    return path


EXCUSES: dict[str, Callable[[Path], Path]] = {
    "nothing": lambda path: path,
    "chmod": lambda path: do(path, "chmod", "600"),
    "chown": lambda path: do(path, "chgrp", str(os.getegid())),
    "setfacl": lambda path: do(path, "setfacl", "-m", "u:1:r"),
    "setfattr": change_attribute,
    "mv": lambda path: path.rename(path.with_name("other")),
    "mv of its directory": move_the_directory,
    "ln": link_in_place_of,
    "all of it": lambda path: do(
        move_the_directory(change_attribute(link_in_place_of(path))), "chmod", "600"
    ),
}


@pytest.mark.root
def test_nothing_excuses_a_turned_bit(
    mounted: Mounted, tree: Path, scrub: Callable[..., Ran]
) -> None:
    victims = {excuse: tree / f"for {excuse}" / "file" for excuse in EXCUSES}
    for victim in victims.values():
        victim.parent.mkdir()
        victim.write_bytes(os.urandom(SIZE))
    assert counts(scrub()) == {"new": 6 + len(EXCUSES)}
    for victim in victims.values():
        turn_a_bit(mounted, victim.read_bytes())
    victims = {excuse: EXCUSES[excuse](victim) for excuse, victim in victims.items()}
    expected = {str(victim.relative_to(tree)): excuse for excuse, victim in victims.items()}
    for _ in range(2):
        forget(*files(tree))
        found = scrub()
        assert named(found) == dict.fromkeys(expected, "different")
        assert counts(found) == {"verified_on_disk": 6, "different": len(EXCUSES)}
        for problem in found.objects[-1]["problems"]:
            words = problem["words"]
            assert "restore" not in words
            # A directory's new name is no change of what is in it.
            untouched = expected[problem["path"]] in ("nothing", "mv of its directory")
            assert ("all its times" in words) == untouched
            assert "read once more, from the disk itself, it is the same" in words
    for victim in victims.values():
        victim.touch()
    assert named(scrub()) == {}
    forget(*files(tree))
    assert counts(scrub()) == {"verified_on_disk": 6 + len(EXCUSES)}


def test_what_people_do_is_no_alarm(tree: Path, scrub: Callable[..., Ran]) -> None:
    scrub()
    forget(*files(tree))
    (tree / "one/file0").chmod(0o600)
    (tree / "one/file1").rename(tree / "two/moved")
    with (tree / "one/file2").open("r+b") as file:
        file.write(b"rewritten in place")
    (tree / "two/file0").unlink()
    (tree / "two/new").write_bytes(b"new")
    replaced = tree / "two/file1"
    status = replaced.stat()
    (tree / "two/temporary").write_bytes(os.urandom(SIZE))
    os.utime(tree / "two/temporary", ns=(status.st_atime_ns, status.st_mtime_ns))
    (tree / "two/temporary").rename(replaced)
    found = scrub()
    assert named(found) == {}
    report = found.objects[-1]["report"]
    assert (report["changed"], report["new"]) == (1, 2)
    assert (report["moved"], report["metadata_changed"]) == (1, 1)
    assert report["verified_on_disk"] + report["verified_in_memory"] == 3
    assert report["bytes_verified_on_disk"] + report["bytes_verified_in_memory"] == 3 * SIZE


def test_who_puts_the_time_back_is_told_so(tree: Path, scrub: Callable[..., Ran]) -> None:
    victim = tree / "one/file0"
    scrub()
    status = victim.stat()
    with victim.open("r+b") as file:
        file.write(b"another")
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    found = scrub()
    assert named(found) == {"one/file0": "different"}
    assert "a program wrote it and put its time back" in found.words
    victim.touch()
    assert named(scrub()) == {}


@pytest.mark.root
def test_memory_says_nothing_of_the_disk(
    mounted: Mounted, tree: Path, scrub: Callable[..., Ran]
) -> None:
    scrub()
    forget(*files(tree))
    with kept(tree / "one/file0"):
        content = (tree / "one/file0").read_bytes()
        turn_a_bit(mounted, content)
        assert (tree / "one/file0").read_bytes() == content
        found = scrub()
    assert named(found) == {}
    assert counts(found) == {"verified_on_disk": 5, "verified_in_memory": 1}
    report = found.objects[-1]["report"]
    assert report["bytes_verified_in_memory"] == SIZE
    assert report["bytes_verified_on_disk"] == 5 * SIZE
    (tree / "one/file0").read_bytes()
    assert named(scrub("--from-disk")) == {"one/file0": "different"}


class EndedError(Exception):
    """Somebody ended the run."""


@pytest.mark.parametrize("first", ["mon.jsonl", None], ids=["told", "not told"])
@pytest.mark.parametrize("then", ["as it was", "half a line", "gone", "another", "last week's"])
def test_it_says_of_each_file_what_it_found_when_it_goes_on(
    tree: Path, tmp_path: Path, first: str | None, then: str
) -> None:
    """In whatever file, and whatever became of that meanwhile."""
    verdicts = tmp_path / "mon.jsonl"
    scrub = ["run", "scrub", tree, "--state", tmp_path / "ledger"]
    (tree / "one/file0").read_bytes()
    assert run_duet(*scrub).status == 0

    def tell(progress: Progress) -> None:
        if progress.files_done >= 4:
            raise EndedError

    task = Scrub(verdicts=first and str(tmp_path / first))
    options = Options(duet=Use.NEVER, give_way=False)
    with (
        Ledger(str(tmp_path / "ledger"), "scrub", str(tree)) as ledger,
        pytest.raises(EndedError),
    ):
        Frame(task, str(tree), ledger, options, tell).run()
    before = verdicts.read_text().splitlines() if first else []
    assert len(before) == (4 if first else 0)
    if then == "half a line":
        verdicts.write_text("".join(f"{line}\n" for line in before)[:-9])
    elif then == "gone":
        verdicts.unlink(missing_ok=True)
    elif then != "as it was":
        verdicts = tmp_path / "tue.jsonl"
        if then == "last week's":
            verdicts.write_text('{"path": "of last week"}\n')
    ran = run_duet(*scrub, "--verdicts", verdicts)
    assert "going on where the last run was ended" in ran.words
    lines = verdicts.read_text().splitlines()
    assert sorted(json.loads(line)["path"] for line in lines) == sorted(
        str(path.relative_to(tree)) for path in files(tree)
    )
    # Of what was done before it says what it said then.
    assert set(before) <= set(lines)
    assert all(json.loads(line)["verdict"].startswith("verified") for line in lines)


def test_it_says_of_each_file_how_much_came_from_memory(
    tree: Path, scrub: Callable[..., Ran]
) -> None:
    verdicts = tree / "verdicts"
    scrub()
    forget(*files(tree))
    with (tree / "one/file0").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 8192, 0)
    (tree / "one/file1").write_bytes(b"another")
    scrub("--verdicts", str(verdicts))
    found = {line["path"]: line for line in map(json.loads, verdicts.read_text().splitlines())}
    assert set(found) == {str(path.relative_to(tree)) for path in files(tree)} - {"verdicts"}
    assert found["one/file1"]["verdict"] == "changed"
    assert found["one/file0"]["verdict"] == "verified_in_memory"
    in_memory = found["one/file0"]["bytes_from_memory"]
    assert 8192 <= in_memory < SIZE
    assert found["one/file0"]["bytes_from_disk"] == SIZE - in_memory
    assert found["two/file0"] == {
        "path": "two/file0", "verdict": "verified_on_disk",
        "bytes_from_disk": SIZE, "bytes_from_memory": 0,
    }  # fmt: skip


@pytest.mark.root
@pytest.mark.fs("ext4", "xfs")
def test_a_swap_file_is_no_alarm(tree: Path, scrub: Callable[..., Ran]) -> None:
    swap = tree / "one/swap file"
    swap.write_bytes(bytes(8 << 20))
    swap.chmod(0o600)
    subprocess.run(["mkswap", swap], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["swapon", swap], check=True)
    try:
        for _ in range(2):
            found = scrub()
            assert named(found) == {}
            assert counts(found)["swap_files"] == 1
            assert found.objects[-1]["files"] == 6
    finally:
        subprocess.run(["swapoff", swap], check=True)
    assert counts(scrub())["new"] == 1


@pytest.mark.root
def test_what_is_always_in_memory_is_read_from_the_disk_now_and_then(
    mounted: Mounted, tree: Path, scrub: Callable[..., Ran]
) -> None:
    victim = tree / "one/file0"
    content = victim.read_bytes()
    forget(*files(tree))
    scrub()
    with kept(victim):
        for _ in range(3):
            assert counts(scrub("--memory-passes", "3"))["verified_in_memory"] == 1
        assert counts(scrub("--memory-passes", "3")) == {"verified_on_disk": 6}
        turn_a_bit(mounted, content)
        for _ in range(3):
            assert counts(scrub("--memory-passes", "3"))["verified_in_memory"] == 1
        assert named(scrub("--memory-passes", "3")) == {"one/file0": "different"}


@pytest.mark.root
def test_bad_memory_is_told_from_a_bad_disk(
    mounted: Mounted, tree: Path, scrub: Callable[..., Ran]
) -> None:
    victim = tree / "one/file0"
    content = victim.read_bytes()
    scrub()
    turn_a_bit(mounted, content)
    forget(victim)
    with kept(victim):
        bad = victim.read_bytes()
        assert bad != content
        turn_a_bit(mounted, bad)  # the very same one, on the disk alone
        assert victim.read_bytes() == bad
        found = scrub()
    assert named(found) == {"one/file0": "different"}
    assert "from the disk itself, it is that of the last pass" in found.words
    forget(victim)
    assert named(scrub()) == {}


def test_a_write_through_a_mapping_is_a_change(tree: Path, scrub: Callable[..., Ran]) -> None:
    with (tree / "one/file0").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] ^= 1
        scrub()
        for number in range(1, 4):
            mapping[0] ^= number
            found = scrub()
            assert named(found) == {}
            assert counts(found)["changed"] == 1
        found = scrub()
        assert "changed" not in counts(found)


def test_who_writes_all_the_time_is_no_alarm(tree: Path, scrub: Callable[..., Ran]) -> None:
    """Through mappings and by write(2), at any moment of the passes."""
    stop = threading.Event()
    mapped, written = tree / "one/file0", tree / "two/file0"

    def write() -> None:
        with mapped.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
            fd = os.open(written, os.O_RDWR)
            number = 0
            while not stop.is_set():
                number += 1
                mapping[number * 4096 % SIZE] = number % 256
                os.pwrite(fd, b"%d" % number, number * 4096 % SIZE)
                if not number % 50:
                    stop.wait(0.3)  # that they can be processed at all, now and then
            os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(8):
            troubles = named(scrub())
            assert set(troubles.values()) <= {"unstable"}
            assert set(troubles) <= {"one/file0", "two/file0"}
    finally:
        stop.set()
        writer.join()
    assert named(scrub()) == {}
    found = scrub()
    assert named(found) == {}
    report = found.objects[-1]["report"]
    assert report["verified_on_disk"] + report["verified_in_memory"] == 6


def test_a_hole_costs_nothing(tree: Path, scrub: Callable[..., Ran]) -> None:
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 40)
        for place in (0, 1 << 30, (1 << 40) - 5):
            file.seek(place)
            file.write(b"data")
    for number in range(3):
        found = run_in_time(scrub)
        assert named(found) == {}
        assert counts(found).get("new", 0) == (0 if number else 7)
    with (tree / "sparse").open("r+b") as file:
        file.seek(1 << 39)
        file.write(b"x")
    found = run_in_time(scrub, "--from-disk")
    assert named(found) == {}
    assert counts(found)["changed"] == 1


def run_in_time(scrub: Callable[..., Ran], *options: str) -> Ran:
    begin = os.times()
    found = scrub(*options)
    end = os.times()
    spent = sum(end[2:4]) - sum(begin[2:4])
    assert spent < 10, f"{spent} s of processor"
    return found


@pytest.mark.root
def test_what_cannot_be_read_past_memory_is_not_said_to_be(
    new_mount: Callable[..., Mounted], tmp_path: Path
) -> None:
    place = new_mount("btrfs", "compress-force=zstd").path
    (place / "compressed").write_bytes(b"abcd" * 100_000)
    (place / "small").write_bytes(b"in a leaf of the tree")
    (place / "plain").write_bytes(os.urandom(SIZE))
    os.sync()
    report: dict[str, Any] = {}
    for _ in range(2):
        ran = run_duet(
            "run", "scrub", place, "--from-disk", "--json", "--state", tmp_path / "ledger"
        )
        assert named(ran) == {}
        report = ran.objects[-1]["report"]
        for name in ("compressed", "small", "plain"):
            (place / name).read_bytes()
    assert report["verified_in_memory"] == 2
    assert report["verified_on_disk"] == 1
    assert report["bytes_verified_on_disk"] == SIZE
