# SPDX-License-Identifier: MIT
"""Send streams with Duet: btrfs receive makes of them what the snapshot is, whatever was cached.

Truth: the snapshot itself, as stat, read and listxattr tell it.
"""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from actions import allocate, map_write, punch, read_page, reflink, sync_file, write_at
from conftest import eventually, mount_of
from truth import drop_caches

from pyduet import Device, cached_pages
from pyduet.maintenance import Frame, Ledger, Options, Progress, TargetError, Use
from pyduet.maintenance.btrfs.sendstream import Attr, Cmd, Command, read
from pyduet.maintenance.tasks import send
from pyduet.maintenance.tasks.send import Send

pytestmark = pytest.mark.fs("btrfs")

PAGE = os.sysconf("SC_PAGESIZE")
CALM = Options(duet=Use.REQUIRED, give_way=False)
LONG = 300
#: struct vfs_cap_data of linux/capability.h, version 2: CAP_NET_RAW, permitted and effective.
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def subvolume(*arguments: object) -> None:
    """Make, copy or delete a subvolume."""
    subprocess.run(
        ["btrfs", "-q", "subvolume", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL
    )


def snapshot(live: Path, name: str) -> Path:
    """Make a read-only snapshot beside a subvolume, with nothing cached afterwards."""
    subvolume("snapshot", "-r", live, live.parent / name)
    drop_caches()
    return live.parent / name


@pytest.fixture
def live(place: Path) -> Iterator[Path]:
    """A subvolume with all that a stream has to keep; what is made of it goes with the test."""
    live = place / "live"
    subvolume("create", live)
    for number in range(30):
        (live / f"file{number:02}").write_bytes(os.urandom(64 * PAGE))
    (live / "deep/er").mkdir(parents=True)
    (live / "void").mkdir(mode=0o700)
    for number in range(20):
        (live / f"deep/small{number}").write_bytes(os.urandom(50 * number))
    (live / "deep/odd").write_bytes(os.urandom(5 * PAGE + 123))
    (live / os.fsdecode(b"deep/er/no\xffutf8")).write_text("x")
    with (live / "sparse").open("wb") as file:
        file.truncate(64 * PAGE)
        file.seek(30 * PAGE)
        file.write(b"in the middle")
    (live / "ahead").write_bytes(b"z" * 3 * PAGE)
    allocate(live / "ahead", 0, 0, 32 * PAGE)
    subprocess.run(["cp", "--reflink=always", live / "file03", live / "deep/er/copy"], check=True)
    (live / "deep/part").write_bytes(os.urandom(16 * PAGE))
    sync_file(live / "file04")
    reflink(live / "file04", live / "deep/part", 8, at=4)
    (live / "hard").hardlink_to(live / "file05")
    (live / "soft").symlink_to("file06")
    os.mkfifo(live / "pipe")
    os.setxattr(live / "file07", "user.note", b"kept\0\xff")
    os.setxattr(live / "deep", "user.note", b"too")
    (live / "file08").chmod(0o6755)
    os.chown(live / "file09", 1, 2)
    os.setxattr(live / "file09", "security.capability", CAPABILITY)
    (live / "squeezed").touch()
    subprocess.run(
        ["btrfs", "property", "set", live / "squeezed", "compression", "zstd"], check=True
    )
    (live / "squeezed").write_bytes(b"".join(bytes([n % 250]) * 1000 for n in range(1000)))
    (live / "in-place").touch()
    subprocess.run(["chattr", "+C", live / "in-place"], check=True)
    (live / "in-place").write_bytes(os.urandom(16 * PAGE))
    for number, path in enumerate([*sorted(live.rglob("*"), reverse=True), live]):
        moment = time.time_ns() - 86400 * 10**9 - number * 1_234_567_891
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
    os.sync()
    yield live
    for path in [*place.glob("received/*"), *place.glob("s[0-9]"), live]:
        subvolume("delete", path)


def listing(tree: Path) -> dict[str, tuple[Any, ...]]:
    """What is to be the same in the snapshot and in what is received."""
    found: dict[str, tuple[Any, ...]] = {}
    links: dict[int, str] = {}
    for path in sorted([tree, *tree.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(tree))
        plain = stat.S_ISREG(status.st_mode)
        found[name] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_rdev,
            status.st_mtime_ns, status.st_size if plain else 0,
            links.setdefault(status.st_ino, name),
            path.read_bytes() if plain else None,
            os.readlink(path) if path.is_symlink() else None,
            {
                one: os.getxattr(path, one, follow_symlinks=False)
                for one in os.listxattr(path, follow_symlinks=False)
            },
        )  # fmt: skip
    return found


def received(place: Path, stream: Path) -> Path:
    """Have a stream received beside what it is of."""
    (place / "received").mkdir(exist_ok=True)
    subprocess.run(
        ["btrfs", "-q", "receive", "-f", stream, place / "received"], check=True, timeout=LONG
    )
    with stream.open("rb") as file:
        name = next(read(file))[0][Attr.PATH]
    return place / "received" / os.fsdecode(name)


def run(task: Send, live: Path, *, anew: bool = False) -> Progress:
    state = str(live.parent / "out" / live.name)
    with Ledger(state, task.kind, str(live), anew=anew) as ledger:
        return Frame(task, str(live), ledger, CALM).run()


def commands(stream: Path) -> list[Command]:
    with stream.open("rb") as file:
        return [command for command, _ in read(file)]


def written(stream: Path) -> dict[str, int]:
    """Return of which files data are in a stream, in its order, and how many bytes."""
    found: dict[str, int] = {}
    for command in commands(stream):
        if command.number == Cmd.WRITE:
            path = os.fsdecode(command[Attr.PATH])
            found[path] = found.get(path, 0) + len(command[Attr.DATA])
    return found


def read_from_disk() -> int:
    """Bytes that were read of the disk of /mnt/duet."""
    disk = Path(mount_of()[0]).name
    return int(Path(f"/sys/class/block/{disk}/stat").read_text().split()[2]) * 512


@pytest.fixture
def from_snapshot(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that are read of snapshots' files, by their names."""
    found: dict[str, int] = {}

    def counted(fd: int, part: range) -> Iterator[bytes]:
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        found[name] = found.get(name, 0) + len(part)
        return pieces(fd, part)

    pieces = send._pieces
    monkeypatch.setattr(send, "_pieces", counted)
    return found


def test_a_full_stream(
    device: Device, place: Path, live: Path, from_snapshot: dict[str, int]
) -> None:
    """What is cached comes first and is not read again; what changed since is the snapshot's."""
    whole = snapshot(live, "s1")
    expected = listing(whole)
    write_at(live / "file20", 7)
    sync_file(live / "file20")
    map_write(live / "file21", 3)
    write_at(live / "in-place", 2)
    os.truncate(live / "file22", 1000)
    (live / "file23").unlink()
    (live / "file24").rename(live / "deep/renamed")
    (live / "file25").unlink()
    (live / "file25").write_bytes(b"another file")
    os.sync()
    drop_caches()
    for number in (29, 11, 17, 13):
        (live / f"file{number}").read_bytes()
    for page in range(32):
        read_page(live / "file15", page)
    for number in (20, 21):
        (live / f"file{number}").read_bytes()
    write_at(live / "file29", 0)  # dirty in memory alone
    stream = place / "out/full"
    before = read_from_disk()
    progress = run(Send(str(whole), str(stream)), live)
    took = read_from_disk() - before
    assert progress.problems == []
    assert progress.blind is None
    data = written(stream)
    print(f"read {took / 2**20:.2f} MiB of {sum(data.values()) / 2**20:.2f}; {progress}")
    first = [name for name in data if name.startswith("file")]
    assert set(first[:6]) == {f"file{number}" for number in (11, 13, 17, 20, 21, 29)}
    assert first[6] == "file15"
    assert sorted(first) == [f"file{number:02}" for number in range(30)]
    assert "deep/er/copy" not in data
    # What was changed, where it was, what is gone, and what lies among the metadata.
    small = {name: size for name, size in from_snapshot.items() if size < PAGE}
    assert sorted(small) == sorted({Path(name).name for name, size in data.items() if size < PAGE})
    assert {name: size // PAGE for name, size in from_snapshot.items() if size >= PAGE} == {
        "file20": 1, "file21": 1, "file22": 64, "file23": 64, "file25": 64, "file29": 1,
        "in-place": 16,
    }  # fmt: skip
    # Three files come from memory as a whole, one by half, and two but for a page.
    saved = (3 * 64 + 32 + 2 * 63) * PAGE
    wanted = sum(data.values()) - saved - data["squeezed"]
    assert 0.95 * wanted <= took <= 1.1 * wanted + (1 << 20)
    # Nothing of the snapshot stays in memory, nor of the files that were not there before.
    assert not [path for path in expected if path.startswith("file") and cached_pages(whole / path)]
    assert cached_pages(live / "file15") == set(range(32))
    assert cached_pages(live / "file02") == set()
    assert listing(received(place, stream)) == expected


def test_an_incremental_stream(device: Device, place: Path, live: Path) -> None:
    """Of what changed, only the parts that did; wherever it has been moved to."""
    first = snapshot(live, "s1")
    full = place / "out/full"
    run(Send(str(first), str(full)), live)
    (live / "void").rename(live / "deep/void")
    (live / "deep/er").rename(live / "er")
    (live / "deep").rename(live / "er/deeper")
    (live / "file00").rename(live / "er/deeper/void/moved")
    write_at(live / "er/deeper/void/moved", 20, 3)
    (live / "file01").rename(live / "file02")
    (live / "file03").unlink()
    (live / "file03").mkdir()
    (live / "file04").rename(live / "file03/file04")
    os.truncate(live / "file05", 1000)  # and its hard link
    (live / "hard").rename(live / "er/hard")
    (live / "file03/hard").hardlink_to(live / "file06")
    write_at(live / "file06", 5)
    (live / "soft").unlink()
    os.truncate(live / "file07", 70 * PAGE + 5)
    punch(live / "file10", 8 * PAGE, 16 * PAGE)
    os.removexattr(live / "file07", "user.note")
    write_at(live / "file09", 3)
    os.setxattr(live / "file09", "security.capability", CAPABILITY)
    (live / "file11").chmod(0o4700)
    write_at(live / "sparse", 50)
    (live / "new").write_bytes(os.urandom(10 * PAGE + 7))
    subprocess.run(["cp", "--reflink=always", live / "new", live / "newer"], check=True)
    subprocess.run(["cp", "--reflink=always", live / "file12", live / "older"], check=True)
    (live / "file13").write_bytes(os.urandom(30 * PAGE))
    (live / "file14").rename(live / "swap")
    (live / "file15").rename(live / "file14")
    (live / "swap").rename(live / "file15")
    os.sync()
    second = snapshot(live, "s2")
    expected = listing(second)
    for name in ("file06", "new"):
        (live / name).read_bytes()
    write_at(live / "file13", 2)
    stream = place / "out/incremental"
    progress = run(Send(str(second), str(stream), parent=str(first)), live)
    assert progress.problems == []
    assert progress.again == 0
    data = written(stream)
    print(data, progress)
    assert set(list(data)[:2]) <= {"file06", "file03/hard", "new"}
    assert data["er/deeper/void/moved"] == 3 * PAGE
    assert sum(data.values()) < 130 * PAGE
    assert listing(received(place, full)) == listing(first)
    assert listing(received(place, stream)) == expected


class Meddled(Send):
    """Has somebody write to a file of the subvolume while it is being read."""

    def meddle(self, path: bytes, how: Callable[[], object]) -> None:
        self._victim, self._how = path, how
        self.calls = 0

    def _write(self, path: bytes, part: range, pieces: Iterable[bytes]) -> bool:
        if path == self._victim:
            self.calls += 1
            if self.calls == 1:
                self._how()
        return super()._write(path, part, pieces)


@pytest.mark.parametrize("back", [False, True])
def test_a_file_that_is_written_meanwhile(
    device: Device, place: Path, live: Path, back: bool
) -> None:
    """Also where the old blocks are put back afterwards, after what was there has been read."""
    whole = snapshot(live, "s1")

    def how() -> None:
        write_at(live / "file02", 3)
        if back:
            # It is read in between.
            data = (live / "file02").read_bytes()
            reflink(whole / "file02", live / "file02", 64)
            assert data != (live / "file02").read_bytes()

    task = Meddled(str(whole), str(place / "out/full"))
    task.meddle(b"file02", how)
    progress = run(task, live)
    assert progress.problems == []
    assert task.calls == 2
    assert written(place / "out/full")["file02"] == 64 * PAGE
    assert listing(received(place, place / "out/full")) == listing(whole)


def test_it_goes_on_after_a_kill(device: Device, place: Path, live: Path) -> None:
    whole = snapshot(live, "s1")
    stream = place / "out/full"
    program = [
        sys.executable, "-m", "pyduet", "run", "send", live, whole, stream,
        "--state", place / "out/ledger", "--no-idle", "--no-give-way",
    ]  # fmt: skip
    with subprocess.Popen([*program, "--rate", "300K"]) as slow:
        assert eventually(lambda: stream.exists() and stream.stat().st_size > 4 << 20, LONG)
        slow.send_signal(signal.SIGKILL)
    kept = stream.stat().st_size
    done = subprocess.run(program, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr
    assert "going on where the last run was ended" in done.stderr
    print(kept, done.stderr)
    files = int(done.stderr.splitlines()[-1].split()[0])
    assert 0 < files < len(written(stream))
    assert listing(received(place, stream)) == listing(whole)


def test_it_does_not_go_on_with_another_stream(device: Device, place: Path, live: Path) -> None:
    class Broken(Send):
        def finish(self, found: object) -> None:
            raise KeyboardInterrupt

    first = snapshot(live, "s1")
    stream = place / "out/full"
    with pytest.raises(KeyboardInterrupt):
        run(Broken(str(first), str(stream)), live)
    size = stream.stat().st_size
    write_at(live / "file00", 0)
    os.sync()
    second = snapshot(live, "s2")
    with pytest.raises(TargetError, match="--anew"):
        run(Send(str(second), str(stream)), live)
    assert stream.stat().st_size == size
    run(Send(str(second), str(stream)), live, anew=True)
    assert listing(received(place, stream)) == listing(second)


def test_what_is_no_snapshot_is_refused(device: Device, place: Path, live: Path) -> None:
    whole = snapshot(live, "s1")
    subvolume("snapshot", live, place / "s2")
    subvolume("create", place / "s3")
    stream = place / "out/full"
    for path, parent, words in (
        (place / "s2", None, "not read-only"),
        (live, None, "not read-only"),
        (whole / "deep", None, "no btrfs subvolume"),
        (Path("/proc"), None, "no btrfs subvolume"),
        (whole, place / "s3", "not read-only"),
        (whole, place / "s4", "No such file"),
    ):
        with pytest.raises(OSError, match=words):
            run(Send(str(path), str(stream), parent=parent and str(parent)), live)
    with pytest.raises(OSError, match="no snapshot of"):
        run(Send(str(whole), str(stream)), place / "s3")
    assert not stream.exists()
