# SPDX-License-Identifier: MIT
"""The frame's rounds and passes: nothing is left out without a word, nothing is done for ever."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pyduet import NotLoadedError
from pyduet.maintenance import (
    Frame,
    Ledger,
    Maintenance,
    Options,
    Problem,
    Progress,
    Reading,
    Record,
    Trouble,
    Use,
)
from pyduet.maintenance.frame import frame

BLIND = Options(duet=Use.NEVER, give_way=False)


class Seen(Maintenance):
    """Notes what it has read, and lets somebody come in between."""

    kind = "seen"

    def __init__(self, meddle: Callable[[str], object] = lambda _: None) -> None:
        self.meddle = meddle
        self.seen: list[tuple[str, bytes]] = []

    def process(self, reading: Reading, before: Record | None) -> None:
        content = b"".join(reading.pieces())
        reading.check()
        self.seen.append((reading.work.path, content))
        self.meddle(reading.work.path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in "abc":
        (tree / name).write_text(name)
        os.utime(tree / name, (1, 1))
    return tree


def run(task: Maintenance, root: Path, options: Options = BLIND) -> Progress:
    with Ledger(f"{root}.ledger", task.kind, str(root)) as ledger:
        return Frame(task, str(root), ledger, options).run()


def test_a_file_that_is_replaced_in_every_round_is_named(tree: Path) -> None:
    """As a status file is that is written anew whenever a log was read."""
    (tree / "c").unlink()
    roles: list[str] = []

    def meddle(path: str) -> None:
        if not roles:
            roles[:] = [path, "b" if path == "a" else "a"]
        log, status = roles
        if path == log:
            with (tree / log).open("a") as file:
                file.write("more")
            (tree / "new").write_text("another")
            (tree / "new").rename(tree / status)

    progress = run(Seen(meddle), tree)
    _, status = roles
    assert [(one.path, one.trouble) for one in progress.problems] == [(status, Trouble.UNSTABLE)]


def test_what_has_changed_again_since_it_was_done_is_no_problem(tree: Path) -> None:
    """A log is in the archive as it was at a moment."""

    def meddle(path: str) -> None:
        with (tree / "a").open("a") as log:
            log.write("more")

    task = Seen(meddle)
    progress = run(task, tree)
    assert progress.problems == []
    assert progress.again >= 3
    assert {name for name, _ in task.seen} == {"a", "b", "c"}


def test_what_comes_after_the_last_look_is_younger_than_the_run(tree: Path) -> None:
    def meddle(path: str) -> None:
        (tree / f"new{len(task.seen)}").write_text("x")

    task = Seen(meddle)
    progress = run(task, tree)
    assert progress.problems == []


class Touched(Frame):
    """Of a tree in which somebody touches all files, whenever the task sleeps or reads one."""

    slept = 0.0

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.touch()

    def touch(self) -> None:
        for path in Path(self._root).iterdir():
            os.utime(path)


@pytest.mark.parametrize("together", [10_000, 1], ids=["together", "alone"])
def test_who_touches_files_all_the_time_is_not_waited_for(
    tree: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """However many files they are; and when it was waited long enough, no more at all."""
    monkeypatch.setattr(frame, "_YOUNG", together)
    for number in range(400):
        (tree / f"file{number}").write_text("x")
    task = Seen()
    state = f"{tree}.ledger"
    with Ledger(state, task.kind, str(tree)) as ledger:
        one = Touched(task, str(tree), ledger, BLIND)
        task.meddle = lambda _: one.touch()
        progress = one.run()
    # Four waits in each of four rounds; or as long as a run waits in all.
    assert one.slept <= (16 * 0.1 if together > 1 else 30) + 1e-6
    assert progress.problems == []
    assert len({name for name, _ in task.seen}) == 403
    with Ledger(state, task.kind, str(tree)) as ledger:
        restless = {record.path for record in ledger.files() if not record.settled}
    # The next run takes those for changed, whatever their times say then.
    calm = Seen()
    calm.always = False  # type: ignore[misc]
    run(calm, tree)
    assert restless
    assert restless <= {name for name, _ in calm.seen}


def test_a_file_that_came_back_is_done_and_not_named(tree: Path) -> None:
    away = tree.parent / "away"

    def meddle(path: str) -> None:
        others = {"a", "b", "c"} - {name for name, _ in task.seen}
        if len(others) == 2:
            (tree / min(others)).rename(away)
        elif away.exists():
            away.rename(tree / "back")

    task = Seen(meddle)
    progress = run(task, tree)
    assert "back" in dict(task.seen)
    # Where it was, nothing is any more: that is said.
    assert {one.trouble for one in progress.problems} == {Trouble.VANISHED}


def test_hard_links_are_done_once(tree: Path) -> None:
    (tree / "d").mkdir()
    for name in "xyz":
        (tree / "d" / name).hardlink_to(tree / "a")
    task = Seen()
    progress = run(task, tree)
    assert (progress.files, progress.files_done, len(task.seen)) == (3, 3, 3)


def test_without_duet_the_work_is_done_and_that_is_said(tree: Path) -> None:
    options = Options(device=str(tree.parent / "no-device"), give_way=False)
    task = Seen()
    progress = run(task, tree, options)
    assert len(task.seen) == 3
    assert progress.blind is not None
    assert "modprobe duet" in progress.blind


def test_duet_may_be_required(tree: Path) -> None:
    options = Options(device=str(tree.parent / "no-device"), duet=Use.REQUIRED)
    task = Seen()
    with pytest.raises(NotLoadedError):
        run(task, tree, options)
    assert task.seen == []


def test_the_callers_classes_stay_as_they_are(tree: Path) -> None:
    before = os.sched_getscheduler(0), os.nice(0)
    run(Seen(), tree)
    assert (os.sched_getscheduler(0), os.nice(0)) == before


def test_many_problems_are_listed_once(tree: Path) -> None:
    class Failing(Seen):
        def process(self, reading: Reading, before: Record | None) -> None:
            raise OSError(5, "Input/output error")

    progress = run(Failing(), tree)
    assert sorted(progress.problems) == [
        Problem(name, Trouble.DAMAGED, "Input/output error") for name in "abc"
    ]
    assert progress.named == 3


def test_a_problem_too_many_is_counted(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its file is not tried again in each round, though it is not listed."""

    class Failing(Seen):
        def process(self, reading: Reading, before: Record | None) -> None:
            super().process(reading, before)
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(frame, "NAMED", 2)
    task = Failing()
    progress = run(task, tree)
    assert len(task.seen) == 3
    assert (progress.named, len(progress.problems)) == (3, 2)
