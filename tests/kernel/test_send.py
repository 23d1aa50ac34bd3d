# SPDX-License-Identifier: MIT
"""Send streams with Duet: btrfs receive makes of them what the snapshot is, whatever was cached.

Truth: the snapshot itself, as stat, read and listxattr tell it.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from actions import map_write, punch, read_page, sync_file, write_at
from conftest import mount_of
from snapshots import CAPABILITY, PAGE, delete, fill, listing, received, subvolume, written
from truth import drop_caches

from pyduet import Device, cached_pages
from pyduet.maintenance import Frame, Ledger, Options, Progress, Use
from pyduet.maintenance.files.reading import pieces_of
from pyduet.maintenance.tasks import send
from pyduet.maintenance.tasks.send import Send

pytestmark = pytest.mark.fs("btrfs")

CALM = Options(duet=Use.REQUIRED, give_way=False)


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
    fill(live)
    yield live
    delete(place)


def run(task: Send, live: Path) -> Progress:
    state = str(live.parent / "out" / live.name)
    with Ledger(state, task.kind, str(live)) as ledger:
        return Frame(task, str(live), ledger, CALM).run()


def read_from_disk() -> int:
    """Bytes that were read of the disk of /mnt/duet."""
    disk = Path(mount_of()[0]).name
    return int(Path(f"/sys/class/block/{disk}/stat").read_text().split()[2]) * 512


@pytest.fixture
def from_snapshot(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes that are read of snapshots' files, by their names."""
    found: dict[str, int] = {}

    def counted(fd: int, offset: int, length: int, *rest: Any) -> Iterator[bytes]:
        name = Path(os.readlink(f"/proc/self/fd/{fd}")).name
        found[name] = found.get(name, 0) + length
        return pieces_of(fd, offset, length, *rest)

    monkeypatch.setattr(send, "pieces_of", counted)
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
