# SPDX-License-Identifier: MIT
"""The administrator's screen on the real driver; what it does is asked of the driver again."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import STATES, SYSFS, counter
from duet_tui.app import DuetApp
from duet_tui.cost import cost_of
from duet_tui.live import Live
from duet_tui.screens.base import DuetScreen
from duet_tui.screens.buckets import BucketsScreen
from duet_tui.screens.task import TaskScreen
from duet_tui.widgets.dialogs import Confirm
from duet_tui.widgets.files import Files
from duet_tui.widgets.grid import Grid
from ordinary import ANNA, as_user, device_for_group
from pilot import in_loop, line_with, press, said, screen, text, until
from textual.pilot import Pilot
from textual.widgets import Input
from truth import drop_caches, fill, identity

from pyduet import DEFAULT_DEVICE, Device, FileId, Mask, OffError

MODULE = "/run/duet-lab/duet.ko"

#: Registers a task on a directory, and waits to be ended.
OWNER = """
import sys, time
from pyduet import Device, Mask
with Device() as device, device.register(sys.argv[1], Mask.EXISTS, name="the other"):
    print("registered", flush=True)
    time.sleep(600)
"""


@asynccontextmanager
async def live(size: tuple[int, int] = (120, 40)) -> AsyncIterator[tuple[DuetApp, Pilot[None]]]:
    """Run the screen on the driver."""
    async with screen(Live(DEFAULT_DEVICE), size) as (app, pilot):
        yield app, pilot


async def within_a_second(pilot: Pilot[None], what: str, condition: Callable[[], object]) -> None:
    """Wait for what the screen has to follow; emulated processors are given more time for it."""
    begin = time.monotonic()
    await until(pilot, condition)
    print(f"{what}: after {time.monotonic() - begin:.2f} s", file=sys.stderr)


@pytest.fixture
def settings(device: Device) -> Iterator[Device]:
    """Duet, whose settings are put back."""
    before = device.info()
    yield device
    if device.is_on():
        device.stop()
    device.set_limits(limit=before.limit, task_limit=before.task_limit, max_tasks=before.max_tasks)


@in_loop
async def test_switch_off_and_on(device: Device, place: Path) -> None:
    async with live() as (app, pilot):
        await press(pilot, "o")
        await until(pilot, lambda: not app.view.on)
        assert not device.is_on()
        # What is told pops up, and goes: the log keeps it.
        await until(pilot, lambda: any(words == "Duet is off" for _, _, words in app.records))
        await press(pilot, "o")
        await until(pilot, lambda: app.view.on)
        assert device.is_on()
        with device.register(place / "tree", STATES, name="to be ended") as task:
            await within_a_second(pilot, "a task appeared", lambda: app.view.tasks)
            await press(pilot, "o")
            await until(pilot, lambda: isinstance(app.screen, Confirm))
            whose = f"task {task.id}, to be ended, of root:{os.getpid()}"
            await said(app, pilot, "1 task will end", whose)
            await press(pilot, "escape")
            assert device.is_on()
            await press(pilot, "o", "y")
            await until(pilot, lambda: not app.view.on)
            assert not device.is_on()
            with pytest.raises(OffError):
                task.read()
        await press(pilot, "5")
        event = "uevent change /devices/virtual/misc/duet DUET_ENABLED=0"
        await said(app, pilot, "switched off", event)
        # Somebody else switches it on.
        device.start()
        await within_a_second(pilot, "it was switched on", lambda: app.view.on)


@in_loop
async def test_settings(settings: Device, place: Path) -> None:
    """Another number of tasks restarts Duet; what that costs is what was said before."""
    device = settings
    fill(place / "tree/file", 100)
    with device.register(place / "tree", STATES) as task:
        async with live() as (app, pilot):
            before = device.info()
            foreseen = cost_of(before, 64)
            await press(pilot, "s", *["backspace"] * 3, *"300")
            await said(app, pilot, "300 is not within")
            await press(pilot, *["backspace"] * 3, *"64")
            await until(pilot, lambda: f"{foreseen.node:,} B" in text(app))
            assert device.info().max_tasks == 8, "nothing was done yet"
            await press(pilot, "enter")
            await said(app, pilot, "1 task will end")
            await press(pilot, "y")
            # It is off for a moment.
            await until(pilot, lambda: app.view.on and app.view.info.max_tasks == 64)
            after = device.info()
            assert (after.on, after.max_tasks, after.tasks) == (True, 64, 0)
            assert (after.node_bytes, after.file_bytes) == (foreseen.node, foreseen.file)
            field = app.screen.query_one("#limit", Input)
            assert field.value
            field.value = "24M"
            field.focus()
            await press(pilot, "enter")
            await until(pilot, lambda: app.view.info and app.view.info.limit == 24 << 20)
            assert counter("limit_bytes") == 24 << 20
            assert device.info().on
        with pytest.raises(OffError):
            task.read()
    with device.register(place / "tree", STATES):
        assert device.table().buckets * 8 < cost_of(device.info(), 64).tables


@in_loop
async def test_a_task_appears_and_dies(device: Device, place: Path) -> None:
    async with live() as (app, pilot):
        await press(pilot, "2")
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, place / "tree"], stdout=subprocess.PIPE, text=True
        )
        try:
            await asyncio.to_thread(owner.stdout.readline)
            await within_a_second(pilot, "a task appeared", lambda: "the other" in text(app))
            assert f"root:{owner.pid} (python" in line_with(app, "the other")
            [task] = device.tasks()
            assert task.pid == owner.pid
            await press(pilot, "enter")
            assert isinstance(app.screen, TaskScreen)
            await press(pilot, "d")
            assert isinstance(app.screen, Confirm)
            line_with(app, "Its process goes on")
            await press(pilot, "n")
            assert [one.pid for one in device.tasks()] == [owner.pid]
            await press(pilot, "d", "y")
            await within_a_second(pilot, "it was ended", lambda: "has ended" in text(app))
            assert device.tasks() == []
            assert owner.poll() is None, "its process goes on"
            with Device() as again, again.register(place / "tree", STATES, name="dies"):
                await until(pilot, lambda: app.view.tasks)
            await within_a_second(pilot, "another died", lambda: not app.view.tasks)
        finally:
            owner.kill()
            owner.wait()
        await press(pilot, "escape")
        await until(pilot, lambda: "the other" not in text(app))


@in_loop
async def test_from_a_file_to_its_bucket_and_its_mark(device: Device, place: Path) -> None:
    for number in range(20):
        fill(place / f"tree/{number}", 3)
    path = fill(place / "tree/wanted", 200)
    drop_caches()
    with device.register(place / "tree", STATES, name="marks") as task, path.open("rb") as file:
        file.seek(70 * 4096)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        file.read(4096)
        ino, generation = identity(path)
        wanted = FileId(ino, generation)
        async with live() as (app, pilot):
            await press(pilot, "3", "f")
            app.screen.query_one(Input).value = str(path)
            await press(pilot, "enter")
            await until(pilot, lambda: isinstance(app.screen, BucketsScreen))
            await until(pilot, lambda: "all of the table" in text(app))
            shown = app.screen
            assert isinstance(shown, BucketsScreen)
            [node] = shown.nodes
            assert (node.first.index, node.first.cached) == (64, 1 << 6)
            bucket = node.first.bucket
            assert [
                (one.ino, one.generation, one.index, one.cached)
                for one in device.nodes(bucket, bucket + 1)
                if one.ino == ino
            ] == [(ino, generation, 64, 1 << 6)]
            await said(app, pilot, f"{bucket:,}", str(path))

            await press(pilot, "t")
            await until(pilot, lambda: isinstance(app.screen, TaskScreen))
            field = app.screen.query_one("#file", Input)
            await until(pilot, lambda: field.has_focus)
            assert field.value == f"{ino}:{generation}"
            await press(pilot, "enter")
            await until(pilot, lambda: "not done" in text(app))
            assert not task.is_done(wanted)
            await pilot.click("#set")
            await until(pilot, lambda: "marked done" in text(app))
            assert task.is_done(wanted)
            assert list(task.marked()) == [wanted]
            files = app.screen.query_one("#marked_files", Files)
            await until(pilot, lambda: len(files.found) == 1)
            await said(app, pilot, str(path))
            field.value = str(path)
            await pilot.click("#check")
            await until(pilot, lambda: ": done" in text(app))
            files.focus()
            await press(pilot, "u")
            await until(pilot, lambda: "not marked any more" in text(app))
            assert not task.is_done(wanted)
            assert list(task.marked()) == []


@in_loop
async def test_what_is_pending_stays(device: Device, place: Path) -> None:
    path = fill(place / "tree/file", 5)
    drop_caches()
    with device.register(place / "tree", Mask.ADDED | Mask.DIRTY, name="lazy") as task:
        path.read_bytes()
        async with live() as (app, pilot):
            await press(pilot, "2", "enter", "f7")
            await until(pilot, lambda: str(path) in text(app))
            line_with(app, "left pending")
            await press(pilot, "f6")
            await until(pilot, lambda: "1 file, 5 pages cached" in text(app))
        assert sum(item.pages for item in task.read()) == 5


@in_loop
async def test_watch(device: Device, place: Path) -> None:
    async with live() as (app, pilot):
        await press(pilot, "4")
        field = app.screen.query_one("#path", Input)
        await press(pilot, "p")
        field.value = str(place / "tree")
        await press(pilot, "enter")
        await until(pilot, lambda: device.tasks())
        path = fill(place / "tree/written", 7)
        await until(pilot, lambda: str(path) in text(app))
        grid = app.screen.query_one(Grid)
        # It may have been told of some pages before the others.
        await until(pilot, lambda: [row[0].value for row in grid.found.values()] == [7])
        await press(pilot, "space")
        path.unlink()
        await pilot.pause(1.5)
        assert "removed" not in text(app)
        await press(pilot, "space")
        await until(pilot, lambda: "removed" in text(app))
        await press(pilot, "backspace")
        await until(pilot, lambda: not device.tasks())
        # Switched off under it, it says so, and goes on.
        await press(pilot, "p")
        field.value = str(place / "tree")
        await press(pilot, "enter")
        await until(pilot, lambda: device.tasks())
        device.stop()
        await until(pilot, lambda: "switched off" in text(app))
    device.start()


@in_loop
async def test_the_module_comes_and_goes(device: Device, place: Path) -> None:
    """An idle screen does not keep the module; it says what is missing, and comes alive again."""
    device.stop()
    device.close()
    async with live() as (app, pilot):
        end = time.monotonic() + 60
        while subprocess.run(["rmmod", "duet"], check=False).returncode:
            assert time.monotonic() < end, "the screen keeps the module"
            await asyncio.sleep(0.05)  # it was looking just then
        await within_a_second(pilot, "it was unloaded", lambda: "not loaded" in text(app))
        await until(pilot, lambda: "insmod" in text(app) or "modprobe" in text(app))
        for key in "234":
            await press(pilot, key)
            assert isinstance(app.screen, DuetScreen)
        await press(pilot, "1")
        subprocess.run(["insmod", MODULE], check=True)
        await within_a_second(pilot, "it was loaded", lambda: app.view.info)
        await until(pilot, lambda: "Settings" in text(app))
        with Device() as again:
            again.start()
            await within_a_second(pilot, "it was switched on", lambda: app.view.on)
        await press(pilot, "5")
        await said(app, pilot, "the module was unloaded", "the module was loaded")
        await said(app, pilot, "uevent remove", "uevent add")


def test_an_ordinary_user(device: Device, place: Path) -> None:
    """Sees what there is to see; controls are disabled, and say why."""

    async def look(*words: str) -> None:
        async with live() as (app, pilot):
            await said(app, pilot, *words)
            switch = app.screen.query_one("#switch")
            if words:
                assert switch.disabled
                assert "CAP_SYS_ADMIN" in str(switch.tooltip)
                await press(pilot, "o")
            await press(pilot, "2", "3", "4", "5", "1")

    # An ordinary user may not read the lab's Python: what is needed is imported before.
    asyncio.run(look())
    with device.register(place / "tree", STATES, name="root's"):
        hidden = ("(only root is told)", "on, 1 of 8 tasks", "alive")
        as_user(ANNA, lambda: asyncio.run(look(*hidden)))
        with device_for_group():
            as_user(ANNA, lambda: asyncio.run(look(*hidden)))
    assert device.is_on()
    with contextlib.suppress(FileNotFoundError):
        assert (SYSFS / "enabled").read_text() == "1\n"
