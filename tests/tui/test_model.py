# SPDX-License-Identifier: MIT
"""What the screens are built on, without a screen."""

import dataclasses
import sys
import time

import pytest
from duet_tui.backend import parse_uuid
from duet_tui.changes import Drops, beginning, changes
from duet_tui.cost import cost_of
from duet_tui.live import Live
from duet_tui.plan import Plan, ends
from duet_tui.replay import Replay, items_of
from duet_tui.sample import BUDGET, Node, nodes_of, sample, search
from duet_tui.track import History, Track
from duet_tui.view import View, is_same
from duet_tui.widgets.bars import bar, columns, rate
from large import Large
from pilot import BUSY, FIRST_LIGHT

from pyduet import FileId, Item, NodeInfo, State
from pyduet.info import EventCounts

NOTHING = EventCounts(0, 0, 0, 0)


@pytest.fixture
def replay() -> Replay:
    return Replay(str(FIRST_LIGHT), speed=0)


@pytest.fixture
def view(replay: Replay) -> View:
    return replay.look()


# What it costs


def test_cost_is_that_of_the_documentation(view: View) -> None:
    """docs/limits.md has the sizes; the driver's own, for 64 tasks, are compared in the lab."""
    assert view.info is not None
    # The recording is of a driver whose sizes were others.
    four_gigabytes = dataclasses.replace(
        view.info, node_bytes=400, file_bytes=520, limit=(4 << 30) // 32
    )
    for tasks, node, file in ((1, 120, 312), (8, 400, 520), (64, 2640, 1864), (255, 10280, 6448)):
        cost = cost_of(four_gigabytes, tasks)
        assert (cost.node, cost.file) == (node, file)
    assert cost_of(four_gigabytes, 8).now == 7 * 520
    assert cost_of(four_gigabytes, 8).tables == 8 << 20


# Settings that were typed


def test_a_plan_is_what_differs(view: View) -> None:
    assert view.info is not None
    plan = Plan.of(view.info, "8", "31696000", "7924000")
    assert not plan
    assert plan.words(view) == ""
    plan = Plan.of(view.info, "64", "24M", "0")
    assert plan == Plan(64, 24 << 20, 0)
    assert plan.needs_restart(view.info)
    words = plan.words(view)
    for said in (
        "2,632 B",
        "All tasks may take 24.0 MiB",
        "the driver's default unread",
        "ends 2 tasks",
    ):
        assert said in words
    assert not Plan(limit=1).needs_restart(view.info)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("0", "1M", "1M"), "tasks at a time: 0 is not within 1 to 255"),
        (("many", "1M", "1M"), "tasks at a time: 'many' is no whole number"),
        (("8", "1 furlong", "1M"), "limit of all tasks: '1 furlong' is no size"),
        (("8", "1M", ""), "limit of a task: '' is no size"),
    ],
)
def test_what_cannot_be_is_refused(view: View, texts: tuple[str, str, str], said: str) -> None:
    assert view.info is not None
    with pytest.raises(ValueError, match=said):
        Plan.of(view.info, *texts)


def test_ends_names_the_tasks(view: View) -> None:
    assert "task 1, recorded, of root:191\n  task 2, backup" in ends(view)
    many = dataclasses.replace(view, tasks=view.tasks * 5)
    assert ends(many).endswith("and 4 more")


# Rates


def test_rates() -> None:
    track = Track(("one", "two"), 3)
    track.take(0, (0, 10))
    track.take(1, (5, 10))
    track.take(1.1, (500, 10))  # too soon
    track.take(3, (9, 20))
    assert track.series("one") == [5, 2]
    assert track.series("two") == [0, 5]
    track.take(4, (0, 0))  # loaded anew
    track.take(5, (7, 0))
    assert track.series("one") == [5, 2, 7]


def test_a_task_that_got_anothers_identity_has_no_past(view: View) -> None:
    history = History()
    [first, *_] = view.tasks
    for seconds, delivered, age in ((0, 0, 1.0), (1, 10, 2.0), (2, 20, 3.0), (3, 25, 0.1)):
        now = dataclasses.replace(first, delivered=delivered, age=age)
        history.take(dataclasses.replace(view, time=float(seconds), tasks=(now,)))
        if seconds == 2:
            assert history.of(now).series("delivered") == [10, 10]
            assert view.find(now) is None, "it is younger there: another"
    assert history.of(now).series("delivered") == []
    assert is_same(first, dataclasses.replace(first, age=first.age + 1, delivered=99))
    assert not is_same(first, dataclasses.replace(first, pid=1))


# The log


def test_changes_in_words(view: View) -> None:
    assert view.info is not None
    off = dataclasses.replace(view.info, on=False, tasks=0, max_tasks=9, limit=1 << 20)
    for now, said in (
        (dataclasses.replace(view, info=off, tasks=()), [
            "switched off", "limit of all tasks: 1.0 MiB, was 30.2 MiB",
            "task 1, recorded, of root:191, ended", "task 2, backup, of root:191, ended",
        ]),
        (View(1.0, problem="gone", kernel="k"), [
            "the module was unloaded", "gone",
            "task 1, recorded, of root:191, ended", "task 2, backup, of root:191, ended",
        ]),
        (dataclasses.replace(view, hooks={**view.hooks, "added": "silent"}), [
            "hook added is silent",
        ]),
        (view, []),
    ):  # fmt: skip
        assert list(changes(view, now)) == said
    assert "task 2, backup, of root:191, was registered on /mnt/duet/library/maps" in changes(
        dataclasses.replace(view, tasks=view.tasks[:1]), view
    )
    assert beginning(view) == "Duet is on, for 8 tasks; 2 tasks registered"


def test_drops_are_said_twice_not_each_second(view: View) -> None:
    assert view.info is not None
    drops, said = Drops(), {}
    for second, limit in enumerate([3, 3, 5, 9, 9, 11, *[11] * 8, 12]):
        info = dataclasses.replace(view.info, drops=view.info.drops._replace(limit=limit))
        if words := drops.take(dataclasses.replace(view, time=float(second), info=info)):
            said[second] = words
    assert said == {
        2: "events are being dropped",
        11: "8 events dropped in 4s",
        14: "events are being dropped",
    }


# The table


def test_a_million_nodes_are_sampled() -> None:
    """A pass reads some thousand nodes, of each part of the table, at each turn others."""
    large = Large()
    assert large.table().nodes > 900_000
    begin = time.process_time()
    picture = sample(large, 800, 0, lambda: False)
    seconds = time.process_time() - begin
    assert picture is not None
    assert large.read < 2 * BUDGET
    assert seconds < 1
    assert len(picture.cells) == 800
    assert all(cell >= 0 for cell in picture.cells)
    assert abs(sum(picture.cells) / 800 - 0.9) < 0.1
    assert picture.read * 800 < BUDGET + 800 < picture.per_cell * 800
    again = sample(large, 800, 1, lambda: False)
    assert again is not None
    assert again.cells != picture.cells
    assert sample(large, 800, 2, lambda: True) is None


def test_the_whole_of_a_small_table_is_read(replay: Replay) -> None:
    picture = sample(replay, 1000, 0, lambda: False)
    assert picture is not None
    assert picture.read == picture.per_cell == 132
    assert round(sum(picture.cells) * picture.per_cell) == 7


def test_a_search_looks_everywhere_and_stops_when_told() -> None:
    large, found, seen = Large(), [], 0

    def progress(done: int, buckets: int, nodes: list[Node]) -> None:
        nonlocal seen
        assert done <= buckets
        seen = done
        found.extend(nodes)

    search(large, lambda node: node.bucket == 1_000_000, progress, lambda: False)
    assert seen == large.buckets
    assert len(found) == large.lengths[1_000_000]
    search(large, lambda _: False, progress, lambda: seen < large.buckets)
    assert seen < large.buckets


def test_shares_of_a_node_are_put_together() -> None:
    one = NodeInfo(1, 2, 3, 4, 64, 1, False, 1, 0, NOTHING)
    nodes = list(
        nodes_of([one, dataclasses.replace(one, task=2), dataclasses.replace(one, index=0)])
    )
    assert [[share.task for share in node.shares] for node in nodes] == [[1, 2], [1]]
    assert nodes[0].file == FileId(2, 3)


# Recordings and the driver


def test_what_a_recording_says_is_pending() -> None:
    """Of the busy recording: one task has read all, one nothing, one some."""
    replay = Replay(str(BUSY), speed=0)
    counts = {}
    for task in replay.look().tasks:
        items = list(replay.pending(task.id))
        assert all(isinstance(item, Item) and item.pages >= 1 for item in items)
        counts[task.name] = sum(item.pages for item in items)
        told = [node.bits for node in replay.nodes() if node.task == task.id and node.queued]
        pages = sum((bits.added | bits.removed).bit_count() for bits in told)
        assert counts[task.name] == pages
    assert counts["indexer"] == counts["backup"] == 0
    assert counts["scrub, which sleeps"] > counts["small"] > 0


def test_news_are_ranges_of_pages() -> None:
    news = {State.ADDED: 0b0111 | 1 << 63, State.DIRTY: 0b1100}
    file = FileId(1, 2)
    assert [(item.index, item.pages, item.state) for item in items_of(file, 640, news)] == [
        (640, 2, State.ADDED),
        (642, 1, State.ADDED | State.DIRTY),
        (643, 1, State.DIRTY),
        (703, 1, State.ADDED),
    ]


def test_a_recording_is_not_acted_on(replay: Replay, view: View) -> None:
    [task, *_] = view.tasks
    file = FileId(1, 2)
    for call in (
        lambda: replay.start(1),
        replay.stop,
        lambda: replay.set_limits(limit=1),
        lambda: replay.is_done(1, file),
        lambda: replay.mark(1, file, done=True),
        lambda: replay.rescan(1),
        lambda: replay.end(task),
        lambda: list(replay.marked(1)),
    ):
        with pytest.raises(ValueError, match="recording"):
            call()


def test_a_recording_runs_like_the_driver_did() -> None:
    replay = Replay(str(FIRST_LIGHT), speed=1000)
    time.sleep(0.01)
    assert replay.look().info == replay.recording.samples[-1][1].info
    assert len(replay.past()) == len(replay.recording.samples)
    assert replay.now() > replay.recording.time + replay.recording.duration


def test_without_the_module() -> None:
    live = Live("/nonexistent/duet")
    view = live.look()
    assert (view.info, view.on, view.tasks) == (None, False, ())
    assert "/nonexistent/duet does not exist" in view.problem
    assert view.refusal
    assert any(finding.name == "loaded" for finding in live.findings())
    for call in (live.table, lambda: live.start(1), lambda: list(live.nodes())):
        with pytest.raises(OSError, match="does not exist"):
            call()


def test_uuids() -> None:
    assert parse_uuid(" 12:34 ") == FileId(12, 34)
    for text in ("12", "12:", ":12", "a:1", "1:a", f"{1 << 64}:1", f"1:{1 << 32}", "/1:2", "-1:2"):
        assert parse_uuid(text) is None


# Drawing


def test_bars_and_columns() -> None:
    assert bar(0, 10, 4) == "░░░░"
    assert bar(1, 1000, 4) == "█░░░", "some of it for any part"
    assert bar(20, 10, 4) == "████"
    assert bar(1, 0, 4) == "█░░░"
    assert columns([0, 1, 2, 4], 4, 5, 2) == ["    █", "  ▄██"]
    assert columns([1, 2, 3], 3, 2, 1) == ["▅█"]
    assert columns([], 0, 3, 1) == ["   "]
    assert [rate(value) for value in (0, 1.25, 12.5, 12345)] == ["0", "1.2", "12", "12,345"]


# The command


def test_nothing_of_textual_is_imported_before_it_is_wanted() -> None:
    import subprocess

    code = "import sys, pyduet.cli, duet_tui; print(*(m for m in sys.modules if 'textual' in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
