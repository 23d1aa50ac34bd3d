# SPDX-License-Identifier: MIT
"""How long a task waits for its neighbours; time goes on here when somebody waits."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from pyduet import Device, DropCounts, FileId, Mask, Task, TaskInfo
from pyduet.maintenance import Tree, Work
from pyduet.maintenance.files.page_cache import Footprint
from pyduet.maintenance.files.statx import status_of
from pyduet.maintenance.frame.order import Order
from pyduet.maintenance.sharing import holding, last_turn, neighbours
from pyduet.maintenance.sharing.holding import Held
from pyduet.maintenance.sharing.last_turn import LastTurn
from pyduet.maintenance.sharing.neighbours import Neighbours

PATIENCE, FILES, PAGE = 30.0, 20, os.sysconf("SC_PAGESIZE")
OWN = 1


@dataclass
class Machine:
    """The tasks that are registered, and what they have marked done."""

    path: str
    tasks_of: dict[int, TaskInfo] = field(default_factory=dict)
    marks: dict[int, set[FileId]] = field(default_factory=dict)

    def register(self, number: int, uid: int) -> None:
        self.marks[number] = set()
        self.tasks_of[number] = TaskInfo(
            number, 3, "duet-run/other", Mask.EXISTS, self.path, True, False, False, 1, uid, 1,
            False, 0.0, 0, 0, 0, 0, 0, DropCounts(*[0] * len(DropCounts._fields)), 0,
        )  # fmt: skip

    def tasks(self) -> list[TaskInfo]:
        return [
            replace(task, done=len(self.marks[number])) for number, task in self.tasks_of.items()
        ]

    def task(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(are_done=lambda files: [one in self.marks[number] for one in files])


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (holding, last_turn, neighbours):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def held_tree(tmp_path: Path) -> Iterator[Tree]:
    for number in range(FILES):
        (tmp_path / f"file{number:02}").write_bytes(b"x" * PAGE)
    with Tree(str(tmp_path)) as tree:
        yield tree


@pytest.fixture
def works(held_tree: Tree) -> list[Work]:
    found = []
    for number in range(FILES):
        with held_tree.opened(f"file{number:02}") as fd:
            found.append(Work.of(f"file{number:02}", status_of(fd), 5, number * PAGE))
    return found


@pytest.fixture
def machine(held_tree: Tree, clock: Clock) -> Machine:
    machine = Machine(held_tree.path)
    machine.register(OWN, os.getuid())
    return machine


@pytest.fixture
def others(machine: Machine) -> Neighbours:
    own = cast(Task, SimpleNamespace(id=OWN, path=machine.path))
    return Neighbours(cast(Device, machine), own)


def hold_all(held: Held, works: Sequence[Work], clock: Clock, machine: Machine, slow: int) -> float:
    """Take all files in turn, as the frame does; returns for how long that was waited."""
    begin = clock.now
    for number, work in enumerate(works):
        while not held.room(PAGE):
            clock.now += 1
            if slow:
                # It gets done with one file in ten seconds.
                count = int(clock.now - begin) // 10
                machine.marks[slow].update(one.identity for one in works[: min(count, number)])
        held.add(Footprint(work, [range(1)]))
    return clock.now - begin


def test_who_does_nothing_is_waited_for_once(
    held_tree: Tree, works: list[Work], clock: Clock, machine: Machine, others: Neighbours
) -> None:
    machine.register(2, os.getuid())
    held = Held(held_tree, others, 4 * PAGE, PATIENCE)
    assert hold_all(held, works, clock, machine, 0) <= PATIENCE + 2
    # Who gets done with something after all counts again, and so does who is new.
    assert not any(others.wanted(works))
    machine.marks[2].add(works[3].identity)
    clock.now += 1
    assert others.wanted(works) == [work is not works[3] for work in works]
    machine.register(3, 0)
    clock.now += 1
    assert others.ids() == [2, 3]


def test_who_is_slow_is_waited_for(
    held_tree: Tree, works: list[Work], clock: Clock, machine: Machine, others: Neighbours
) -> None:
    """Though another does nothing."""
    machine.register(2, os.getuid())
    machine.register(3, os.getuid())
    held = Held(held_tree, others, 4 * PAGE, PATIENCE)
    waited = hold_all(held, works, clock, machine, 2)
    assert 10 * (FILES - 5) <= waited <= 10 * FILES + PATIENCE


def test_a_user_does_not_hold_up_root(
    works: list[Work], machine: Machine, others: Neighbours
) -> None:
    machine.register(2, os.getuid() + 12345)
    assert others.ids() == []
    assert not any(others.wanted(works))


def test_a_last_turn_comes_after_one_wait(
    works: list[Work], clock: Clock, machine: Machine, others: Neighbours
) -> None:
    machine.register(2, os.getuid())
    begin = clock.now
    with Order(iter(works)) as order:
        turn = LastTurn(others, PATIENCE)
        taken = 0
        while taken < FILES:
            if turn.next(order) is None:
                clock.now += 1
            else:
                taken += 1
    assert PATIENCE <= clock.now - begin <= PATIENCE + 2
