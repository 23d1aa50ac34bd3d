# SPDX-License-Identifier: MIT
"""Send streams: btrfs receive makes of them what the snapshot is, whatever happens meanwhile."""

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest
from command import run_duet, start_duet
from places import Mounted
from snapshots import PAGE, delete, fill, listing, received, share, subvolume, written

from pyduet.maintenance import Frame, Ledger, Options, Progress, Reading, Record, Use
from pyduet.maintenance.tasks.send import Send

pytestmark = [pytest.mark.fs("btrfs"), pytest.mark.root]

CALM = Options(duet=Use.NEVER, give_way=False)


@pytest.fixture
def place(mounted: Mounted) -> Iterator[Path]:
    """A btrfs."""
    yield mounted.path
    delete(mounted.path)


@pytest.fixture
def live(place: Path) -> Path:
    """A subvolume with all that a stream has to keep."""
    live = place / "live"
    subvolume("create", live)
    fill(live)
    return live


def snapshot(live: Path, name: str) -> Path:
    subvolume("snapshot", "-r", live, live.parent / name)
    return live.parent / name


def write_at(path: Path, page: int, pages: int = 1) -> None:
    with path.open("r+b") as file:
        file.seek(page * PAGE)
        file.write(b"w" * PAGE * pages)


def run(task: Send, live: Path, ledger: Path) -> Progress:
    with Ledger(str(ledger), task.kind, str(live)) as kept:
        return Frame(task, str(live), kept, CALM).run()


def test_it_is_received(live: Path, place: Path, tmp_path: Path) -> None:
    """Full and incremental, as the command writes it; all was changed meanwhile."""
    first = snapshot(live, "s1")
    full, incremental = tmp_path / "full", tmp_path / "incremental"
    write_at(live / "file20", 7)
    os.truncate(live / "file22", 1000)
    (live / "file23").unlink()
    (live / "deep").rename(live / "elsewhere")
    (live / "file24").rename(live / "elsewhere/renamed")
    (live / "file25").unlink()
    (live / "file25").mkdir()
    ran = run_duet("run", "send", live, first, full, "--state", tmp_path / "ledger")
    assert ran.status == 0, ran.words
    os.sync()
    second = snapshot(live, "s2")
    shutil.rmtree(live / "elsewhere")
    ran = run_duet(
        "run", "send", live, second, incremental, "--parent", first,
        "--state", tmp_path / "ledger",
    )  # fmt: skip
    assert ran.status == 0, ran.words
    assert listing(received(place, full)) == listing(first)
    assert listing(received(place, incremental)) == listing(second)
    assert sum(written(incremental).values()) < 130 * PAGE


def test_it_says_how_far_the_computation_is(
    live: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A btrfs send that computes for long."""
    whole = snapshot(live, "s1")
    program = tmp_path / "bin/btrfs"
    program.parent.mkdir()
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    real = shutil.which("btrfs")
    program.write_text(f'#!/bin/sh\nread line < {gate}\nexec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    steps: list[str] = []

    def open_gate() -> None:
        gate.write_text("go\n")

    def tell(progress: Progress) -> None:
        if "btrfs send computes" in progress.step and not steps:
            threading.Thread(target=open_gate).start()
        steps.extend([progress.step] * ("computes" in progress.step))

    task = Send(str(whole), str(tmp_path / "full"))
    with Ledger(":memory:", task.kind, str(live)) as ledger:
        Frame(task, str(live), ledger, CALM, tell).run()
    assert steps


@pytest.mark.parametrize("where", ["file02", "deep"])
def test_nothing_of_the_outside_is_sent(
    where: str, live: Path, place: Path, tmp_path: Path
) -> None:
    """Whoever may write in the subvolume puts a link in the way while it is sent."""
    whole = snapshot(live, "s1")
    secret = tmp_path / "secret"
    secret.mkdir()
    for path in (live / "deep").rglob("*"):
        if path.is_file():
            (secret / path.name).write_bytes(b"secret" * PAGE)

    class Swapped(Send):
        def process(self, *arguments: object) -> object:
            if not (live / where).is_symlink():
                (live / where).rename(live / "away")
                (live / where).symlink_to(secret / ("odd" if where == "file02" else "."))
            return super().process(*arguments)  # type: ignore[arg-type]

    stream = tmp_path / "full"
    run(Swapped(str(whole), str(stream)), live, tmp_path / "ledger")
    assert b"secretsecret" not in stream.read_bytes()
    assert listing(received(place, stream)) == listing(whole)


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
    live: Path, place: Path, tmp_path: Path, back: bool
) -> None:
    """Also where the old blocks are put back afterwards, after what was there has been read."""
    whole = snapshot(live, "s1")

    def how() -> None:
        write_at(live / "file02", 3)
        if back:
            # It is read in between.
            data = (live / "file02").read_bytes()
            share(whole / "file02", live / "file02", 64)
            assert data != (live / "file02").read_bytes()

    task = Meddled(str(whole), str(tmp_path / "full"))
    task.meddle(b"file02", how)
    progress = run(task, live, tmp_path / "ledger")
    assert progress.problems == []
    assert task.calls == 2
    assert written(tmp_path / "full")["file02"] == 64 * PAGE
    assert listing(received(place, tmp_path / "full")) == listing(whole)


def test_it_goes_on_after_a_kill(live: Path, place: Path, tmp_path: Path) -> None:
    whole = snapshot(live, "s1")
    for path in live.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    stream = tmp_path / "full"
    arguments = ("run", "send", live, whole, stream, "--state", tmp_path / "ledger")
    # It takes longer than the ledger waits with what was done.
    slow = start_duet(*arguments, "--rate", "600K", "--json")
    output: IO[bytes] = slow.stdout  # type: ignore[assignment]
    for line in output:
        if stream_size(stream) > 4 << 20:
            break
        assert line
    slow.send_signal(signal.SIGKILL)
    slow.communicate()
    ran = run_duet(*arguments)
    assert ran.status == 0, ran.words
    assert "going on where the last run was ended" in ran.words
    files = int(ran.words.splitlines()[-1].split()[0])
    assert 0 < files < len(written(stream))
    assert listing(received(place, stream)) == listing(whole)


def stream_size(stream: Path) -> int:
    """Return how much there is of a stream that is being written, wherever that is."""
    return max((path.stat().st_size for path in stream.parent.glob(f"{stream.name}*")), default=0)


def test_it_does_not_go_on_with_another_stream(live: Path, place: Path, tmp_path: Path) -> None:
    class Broken(Send):
        def finish(self, found: object) -> None:
            raise KeyboardInterrupt

    first = snapshot(live, "s1")
    stream, ledger = tmp_path / "full", tmp_path / "ledger"
    with pytest.raises(KeyboardInterrupt):
        run(Broken(str(first), str(stream)), live, ledger)
    write_at(live / "file00", 0)
    os.sync()
    second = snapshot(live, "s2")
    ran = run_duet("run", "send", live, second, stream, "--state", ledger)
    assert ran.status == 0, ran.words
    assert "another stream than for the run that was broken off" in ran.words
    assert "going on" not in ran.words
    assert listing(received(place, stream)) == listing(second)


def test_another_name_is_another_stream(live: Path, place: Path, tmp_path: Path) -> None:
    class Broken(Send):
        def finish(self, found: object) -> None:
            raise KeyboardInterrupt

    whole = snapshot(live, "s1")
    first, stream, ledger = (tmp_path / name for name in ("first", "stream", "ledger"))
    with pytest.raises(KeyboardInterrupt):
        run(Broken(str(whole), str(first)), live, ledger)
    ran = run_duet("run", "send", live, whole, stream, "--state", ledger)
    assert ran.status == 0, ran.words
    assert f"was writing {first}; {first}.partial is left over" in ran.words
    assert listing(received(place, stream)) == listing(whole)


class Told(Send):
    """Says which files it has written, and may end before the rest."""

    def __init__(self, *arguments: str, parent: str | None = None, after: int = -1) -> None:
        super().__init__(*arguments, parent=parent)
        self.done: list[str] = []
        self._after = after

    def process(self, reading: Reading, before: Record | None) -> object:
        if len(self.done) == self._after:
            raise KeyboardInterrupt
        self.done.append(reading.work.path)
        return super().process(reading, before)


def tell(task: Told, live: Path, ledger: Path, *, dry_run: bool) -> tuple[str, Sequence[str]]:
    """Return which files a run does, or would, and with what warnings, or why it refuses."""
    with Ledger(str(ledger), task.kind, str(live), read_only=dry_run) as kept:
        frame = Frame(task, str(live), kept, CALM)
        try:
            if dry_run:
                task.done = [work.path for work, _ in frame.plan()]
            else:
                frame.run()
        except OSError as error:
            return str(error), frame.progress.warnings
    return f"did {sorted(task.done)}", frame.progress.warnings


@pytest.mark.parametrize("state", ["fresh", "half", "gone", "in the way"])
@pytest.mark.parametrize("wanted", ["same", "later", "parent", "name", "no snapshot"])
def test_a_dry_run_tells_what_a_run_does(
    live: Path, tmp_path: Path, state: str, wanted: str
) -> None:
    """Of a full stream and of one since another snapshot; or why it refuses."""
    first = snapshot(live, "s1")
    for name in ("file02", "file03"):
        write_at(live / name, 0)
    os.sync()
    second = snapshot(live, "s2")
    stream, ledger = tmp_path / "stream", tmp_path / "ledger"
    half = tmp_path / "stream.partial"
    if state in ("half", "gone"):
        with pytest.raises(KeyboardInterrupt):
            run(Told(str(first), str(stream), after=3), live, ledger)
    if state == "gone":
        half.unlink()
    if state == "in the way":
        half.write_bytes(b"somebody's")
    name = str(tmp_path / "other") if wanted == "name" else str(stream)
    path = {"same": first, "name": first, "no snapshot": live}.get(wanted, second)
    parent = str(first) if wanted == "parent" else None
    before = {one.name: one.stat() for one in tmp_path.iterdir()}
    planned = tell(Told(str(path), name, parent=parent), live, ledger, dry_run=True)
    now = {one.name: one.stat() for one in tmp_path.iterdir()}
    assert {(key, one.st_ino, one.st_ctime_ns) for key, one in now.items()} == {
        (key, one.st_ino, one.st_ctime_ns) for key, one in before.items()
    }
    assert planned == tell(Told(str(path), name, parent=parent), live, ledger, dry_run=False)
    if (state, wanted) == ("fresh", "parent"):
        assert planned[0] == "did ['file02', 'file03']"


def test_what_is_no_snapshot_is_refused(live: Path, place: Path, tmp_path: Path) -> None:
    whole = snapshot(live, "s1")
    subvolume("snapshot", live, place / "s2")
    subvolume("create", place / "s3")
    stream = tmp_path / "full"
    for path, parent, words in (
        (place / "s2", None, "not read-only"),
        (live, None, "not read-only"),
        (whole / "deep", None, "no btrfs subvolume"),
        (Path("/proc"), None, "no btrfs subvolume"),
        (whole, place / "s3", "not read-only"),
        (whole, place / "s4", "No such file"),
    ):
        with pytest.raises(OSError, match=words):
            run(Send(str(path), str(stream), parent=parent and str(parent)), live, tmp_path / "a")
    with pytest.raises(OSError, match="no snapshot of"):
        run(Send(str(whole), str(stream)), place / "s3", tmp_path / "b")
    assert not list(tmp_path.glob("full*"))
