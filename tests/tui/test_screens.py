# SPDX-License-Identifier: MIT
"""The five screens on a real recording, by their keys and by the mouse."""

import json
from pathlib import Path

import pytest
from duet_tui.app import DuetApp
from duet_tui.replay import Replay
from duet_tui.sample import BUDGET
from duet_tui.screens.base import TITLES, Cell, DuetScreen, number
from duet_tui.screens.buckets import BucketsScreen, OfRange
from duet_tui.screens.task import TaskScreen
from duet_tui.widgets.dialogs import AskExport, Confirm
from duet_tui.widgets.files import Files
from duet_tui.widgets.grid import Grid
from duet_tui.widgets.heat import Heat
from duet_tui.widgets.lines import Lines
from large import Large
from pilot import BUSY, in_loop, line_with, press, screen, text, until
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Input, Switch


@in_loop
async def test_digits_and_the_mouse_change_the_screen() -> None:
    async with screen() as (app, pilot):
        for number, name in enumerate(TITLES, 1):
            await press(pilot, str(number))
            assert isinstance(app.screen, DuetScreen)
            assert name == app.screen.MODE
        await pilot.click("#top", offset=(14, 0))
        await until(
            pilot, lambda: isinstance(app.screen, DuetScreen) and app.screen.MODE == "tasks"
        )


@in_loop
async def test_a_row_is_drawn_as_wide_as_it_is() -> None:
    """Also one that was drawn before the table had come to find out how wide."""
    path = "/mnt/duet/place/tree/file"

    class Table(App[None]):
        def compose(self) -> ComposeResult:
            yield Grid(["path"])

    async with Table().run_test(size=(60, 10)) as pilot:
        grid = pilot.app.query_one(Grid)
        grid.show({"row": (Cell(path),)})
        assert path not in grid.render_line(1).text
        await until(pilot, lambda: path in text(pilot.app))


@in_loop
async def test_the_cursor_is_on_top_until_somebody_moves_it() -> None:
    """However the rows change their order meanwhile; from then on it stays on its row."""

    class Table(App[None]):
        def compose(self) -> ComposeResult:
            yield Grid(["number"], reverse=True)

    def rows(*numbers: int) -> dict[str, tuple[Cell, ...]]:
        return {name: (number(one),) for name, one in zip("abc", numbers, strict=True)}

    async with Table().run_test(size=(60, 10)) as pilot:
        grid = pilot.app.query_one(Grid)
        grid.show(rows(1, 2, 3))
        assert grid.cursor_key == "c"
        grid.show(rows(9, 2, 3))
        assert grid.cursor_key == "a"
        grid.focus()
        await press(pilot, "down")
        assert grid.cursor_key == "c"
        grid.show(rows(9, 8, 1))
        assert grid.cursor_key == "c"


@in_loop
async def test_overview_says_what_is_so() -> None:
    async with screen() as (app, _):
        assert "on, 2 of 8 tasks" in line_with(app, "1 Overview")
        for said in (
            "30.2 MiB", "7 (752 bytes each)", "7 (392 bytes each)", "73 added", "alive: added",
            "6.12.117+deb12-amd64",
        ):  # fmt: skip
            line_with(app, said)
        # The whole of the recording is in the charts.
        assert app.history.module.series("added") != []
        assert max(app.history.module.series("added")) > 50


@in_loop
async def test_a_recording_cannot_be_changed() -> None:
    """Controls are disabled, say why in a tooltip and in words, and their keys do nothing."""
    async with screen() as (app, pilot):
        switch = app.screen.query_one("#switch", Switch)
        fields = list(app.screen.query("#settings Input").results(Input))
        assert len(fields) == 3
        for control in (switch, *fields):
            assert control.disabled
            assert control.tooltip == "this is a recording"
        line_with(app, "Nothing can be changed: this is")
        await press(pilot, "o", "a")
        assert app.view.on
        assert not isinstance(app.screen, Confirm)
        for keys in (["2", "d"], ["enter", "d"]):
            await press(pilot, *keys)
            assert not isinstance(app.screen, Confirm)
        await press(pilot, "escape", "1")
        await pilot.hover("#switch")
        await pilot.pause(0.6)
        line_with(app, "this is a recording")


@in_loop
async def test_tasks_are_searched_and_sorted() -> None:
    async with screen(size=(160, 24)) as (app, pilot):
        await press(pilot, "2")
        grid = app.screen.query_one(Grid)
        assert [grid.get_row_at(row)[1].plain for row in range(2)] == ["recorded", "backup"]
        await press(pilot, "s")
        assert [grid.get_row_at(row)[1].plain for row in range(2)] == ["backup", "recorded"]
        assert grid.cursor_row == 1, "the cursor stays on its task"
        await press(pilot, "S")
        assert [grid.get_row_at(row)[1].plain for row in range(2)] == ["recorded", "backup"]
        await press(pilot, "slash", *"MAPS")
        assert [row[1].plain for row in grid.found.values()] == ["backup"]
        line_with(app, "1 task of 2")
        await press(pilot, "enter", "enter")
        assert isinstance(app.screen, TaskScreen)
        line_with(app, "task 2  backup")
        await press(pilot, "escape")
        line_with(app, "/mnt/duet/library/maps")


@in_loop
async def test_a_head_that_is_clicked_sorts() -> None:
    async with screen(size=(160, 24)) as (app, pilot):
        await press(pilot, "2")
        await pilot.click(Grid, offset=(10, 0))
        await pilot.pause()
        grid = app.screen.query_one(Grid)
        assert [grid.get_row_at(row)[1].plain for row in range(2)] == ["backup", "recorded"]


@in_loop
async def test_a_task_has_its_files() -> None:
    async with screen() as (app, pilot):
        await press(pilot, "2", "enter", "f6")
        files = app.screen.query_one("#cached_files", Files)
        await until(pilot, lambda: files.found)
        assert [files.get_row_at(row)[0].plain for row in range(3)] == ["26", "17", "10"]
        line_with(app, "/mnt/duet/library/novels/5.txt")
        line_with(app, "7 files, 63 pages cached")
        await press(pilot, "f8")
        line_with(app, "0 done; 7 seen by Duet, 8 of interest to the task")


@in_loop
async def test_what_is_pending_is_looked_at() -> None:
    """The third task of the busy recording reads nothing."""
    async with screen(Replay(str(BUSY), speed=0)) as (app, pilot):
        await press(pilot, "2", "down", "down", "enter", "f7")
        files = app.screen.query_one("#pending_files", Files)
        await until(pilot, lambda: "32 items, looked at and left pending" in text(app))
        assert len(files.found) == 32
        line_with(app, "added")


async def to_bucket_of_first_file(app: DuetApp, pilot: Pilot[None]) -> BucketsScreen:
    await press(pilot, "2", "enter", "f6")
    await until(pilot, lambda: app.screen.query_one("#cached_files", Files).found)
    app.screen.query_one("#cached_files").focus()
    await press(pilot, "b")
    found = app.screen
    assert isinstance(found, BucketsScreen)
    await until(pilot, lambda: "all of the table" in text(app))
    return found


@in_loop
async def test_from_a_file_to_its_bucket_and_back() -> None:
    async with screen() as (app, pilot):
        found = await to_bucket_of_first_file(app, pilot)
        assert len(found.nodes) == 1
        [node] = found.nodes
        assert node.first.cached.bit_count() == 26
        line_with(app, f"{node.first.bucket:,}")
        assert "█" * 26 + "·" * 38 in line_with(app, "cached   ")
        await press(pilot, "t")
        assert isinstance(app.screen, TaskScreen)
        field = app.screen.query_one("#file", Input)
        assert field.value == f"{node.first.ino}:{node.first.generation}"
        await press(pilot, "escape")
        assert app.screen is found
        await press(pilot, "escape")
        assert isinstance(app.screen, TaskScreen)


@in_loop
async def test_the_whole_table_is_drawn_and_a_cell_opens() -> None:
    async with screen() as (app, pilot):
        await press(pilot, "3")
        heat = app.screen.query_one(Heat)
        await until(pilot, lambda: "7 nodes in 131,072 buckets" in text(app))
        drawn = "\n".join(heat.render_line(y).text for y in range(heat.size.height))
        assert drawn.count("·") == 7
        line_with(app, "all of them were read")
        line_with(app, "131k 7   0")
        await press(pilot, "n")
        assert heat.render_line(0).text[heat.cursor] == "·"
        await press(pilot, "enter")
        opened = app.screen
        assert isinstance(opened, BucketsScreen)
        await until(pilot, lambda: opened.nodes)
        await press(pilot, "p")
        await until(pilot, lambda: "0 nodes" in text(app))
        await press(pilot, "escape", "g", *"131072", "enter")
        line_with(app, "no bucket")


@in_loop
async def test_a_large_table_is_read_in_pieces() -> None:
    """More than 100,000 nodes: little is read for a look, and shown some rows at a time."""
    large = Large(1 << 17)
    assert large.count > 100_000
    async with screen(large) as (app, pilot):
        await press(pilot, "3")
        await until(pilot, lambda: "a cell is" in text(app))
        assert large.read < 2 * BUDGET
        # Nothing changes in the table: it is not read again.
        read, calls = large.read, len(large.calls)
        app.screen.refresh_view(app.view)
        assert (large.read, len(large.calls)) == (read, calls)
        line_with(app, "of them were read, others next time")
        await press(pilot, "enter")
        opened = app.screen
        assert isinstance(opened, BucketsScreen)
        await until(pilot, lambda: opened.nodes)
        assert len(large.calls) == calls + 1, "the buckets of the cell, and no others"
        assert large.read - read == len(opened.nodes) < 300
        await press(pilot, "escape")
        del large.calls[:]
        added = []
        show = Grid.extend

        def extend(grid: Grid, rows: dict[str, tuple[Cell, ...]]) -> None:
            added.append(len(rows))
            show(grid, rows)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Grid, "extend", extend)
            await press(pilot, "f", *"7:1", "enter")
            await until(pilot, lambda: isinstance(app.screen, BucketsScreen))
            await until(pilot, lambda: "all of the table" in text(app))
        assert large.calls == [(first, first + 4096) for first in range(0, 1 << 17, 4096)]
        expected = sum(large.lengths[bucket] for bucket in range(6, 1 << 17, 1000))
        assert isinstance(app.screen, BucketsScreen)
        assert sum(added) == len(app.screen.nodes) == expected
        assert max(added) <= 100


@in_loop
async def test_many_nodes_of_a_cell_are_cut_off() -> None:
    """A screen of rows is enough to look at; it says that there are more."""
    large = Large(1 << 17)
    async with screen(large) as (app, pilot):
        opened = BucketsScreen(OfRange(0, 1 << 17), "table")
        app.push_screen(opened)
        await until(pilot, lambda: len(opened.nodes) == 1000)
        line_with(app, "the first 1000 of more nodes")
        assert large.read < 2000
        # Another reading begins while one is on its way.
        await press(pilot, "r", "r", "n", "p")
        await until(pilot, lambda: len(opened.nodes) == 1000)
        assert len(opened.query_one(Grid).found) == 1000


@in_loop
async def test_a_file_is_found_by_its_path() -> None:
    async with screen() as (app, pilot):
        await press(pilot, "3", "f", *"/mnt/duet/library/maps/5.txt", "enter")
        await until(pilot, lambda: isinstance(app.screen, BucketsScreen))
        await until(pilot, lambda: "all of the table" in text(app))
        line_with(app, "1 node; ")
        await press(pilot, "escape", "f", *"/nowhere", "enter")
        await until(pilot, lambda: "does not know /nowhere" in text(app))


@in_loop
async def test_watch_streams_pauses_and_filters() -> None:
    async with screen() as (app, pilot):
        await press(pilot, "4")
        await until(pilot, lambda: "has ended" in text(app))
        lines = app.screen.query_one(Lines)
        assert len(lines.shown) == 10
        line_with(app, lines.shown[-1][2])
        assert "added,dirty" in line_with(app, "ünïcode/2.txt")
        await press(pilot, "slash", *"novels", "enter")
        assert len(lines.shown) == 7
        assert len(app.screen.query_one(Grid).found) == 5
        lines.paused = True
        lines.add([("now", "added", "novels")])
        assert len(lines.shown) == 7
        lines.paused = False
        assert len(lines.shown) == 8


@pytest.mark.parametrize("kind", ["json", "txt"])
def test_what_is_on_the_screen_is_exported(kind: str, tmp_path: Path) -> None:
    @in_loop
    async def export() -> None:
        async with screen() as (app, pilot):
            await press(pilot, "4")
            await until(pilot, lambda: "has ended" in text(app))
            await press(pilot, "slash", *"ünïcode", "enter", "x")
            assert isinstance(app.screen, AskExport)
            if kind == "txt":
                await press(pilot, "shift+tab", "down", "enter", "tab")
            app.screen.query_one(Input).value = str(tmp_path / f"out.{kind}")
            await press(pilot, "enter")
            await until(pilot, lambda: (tmp_path / f"out.{kind}").exists())
            await press(pilot, "x")
            app.screen.query_one(Input).value = str(tmp_path / f"out.{kind}")
            await press(pilot, "enter")
            await until(pilot, lambda: "File exists" in text(app))

    export()
    written = (tmp_path / f"out.{kind}").read_text()
    if kind == "txt":
        assert written.startswith("13:03:39  added,dirty ")
    else:
        data = json.loads(written)
        assert [item["state"] for item in data["items"]] == [["added", "dirty"]]
        assert [file["cached"] for file in data["most_cached"]] == [10]


@in_loop
async def test_help_explains_what_has_the_keyboard() -> None:
    async with screen(size=(120, 40)) as (app, pilot):
        await press(pilot, "3", "f1")
        await until(pilot, lambda: "The whole table, from" in text(app))
        await press(pilot, "f1")
        assert "The whole table, from" not in text(app)


@in_loop
async def test_the_palette_has_the_screens() -> None:
    async with screen() as (app, pilot):
        await press(pilot, "ctrl+p", *"hash")
        await until(pilot, lambda: "Screen: Hash table" in text(app))
        await press(pilot, "enter")
        await until(
            pilot, lambda: isinstance(app.screen, DuetScreen) and app.screen.MODE == "table"
        )


@in_loop
async def test_light_and_dark() -> None:
    async with screen() as (app, pilot):
        assert app.current_theme.dark
        await press(pilot, "f2")
        assert not app.current_theme.dark
        line_with(app, "on, 2 of 8 tasks")


@in_loop
async def test_the_log_begins_with_what_is_so() -> None:
    async with screen() as (app, pilot):
        await press(pilot, "5")
        assert "change" in line_with(app, "Duet is on, for 8 tasks; 2 tasks registered")
        app.note("error", "something\x1b[2J")
        await pilot.pause()
        line_with(app, "something\\x1b[2J")


@in_loop
async def test_the_last_line_stays_in_sight() -> None:
    """Whatever becomes of the window, until somebody scrolls up, and again at its end."""

    class Only(App[None]):
        def compose(self) -> ComposeResult:
            yield Lines()

    def add(first: int, end: int) -> None:
        app.query_one(Lines).add(
            ("12:00:00", "added", f"line {n} " + "." * 60) for n in range(first, end)
        )

    app = Only()
    async with app.run_test(size=(80, 24)) as pilot:
        add(0, 10)
        await pilot.pause()
        await pilot.resize_terminal(80, 8)
        await until(pilot, lambda: "line 9 " in text(app))
        await pilot.resize_terminal(40, 8)  # and a scroll bar takes a line
        add(10, 200)
        await until(pilot, lambda: "line 199 " in text(app))
        app.query_one(Lines).focus()
        await press(pilot, "pageup")
        await until(pilot, lambda: "line 199 " not in text(app))
        before = text(app)
        add(200, 300)
        await pilot.pause(0.3)
        assert text(app).splitlines()[0] == before.splitlines()[0]
        await press(pilot, "end")
        await until(pilot, lambda: "line 299 " in text(app))
        add(300, 400)
        await until(pilot, lambda: "line 399 " in text(app))
