# SPDX-License-Identifier: MIT
"""Driving the screen by keys, without a terminal: on a recording, or in the lab."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from duet_tui.app import DuetApp
from duet_tui.backend import Backend
from duet_tui.replay import Replay
from textual.app import App
from textual.pilot import Pilot

_DATA = Path(__file__).parent / "data"
FIRST_LIGHT, BUSY = _DATA / "first_light.jsonl", _DATA / "busy.jsonl"

# The clock on the screen is that of the machine.
os.environ["TZ"] = "UTC"
time.tzset()

# A machine that is emulated, and shares its processors, may take long for anything.
_PATIENCE = 60.0
Pilot._wait_for_screen.__defaults__ = (_PATIENCE,)

_P = ParamSpec("_P")


def in_loop(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Run a test that awaits in an event loop of its own."""

    @wraps(test)
    def run(*arguments: _P.args, **named: _P.kwargs) -> None:
        asyncio.run(test(*arguments, **named))

    return run


@asynccontextmanager
async def screen(
    backend: Backend | None = None, size: tuple[int, int] = (80, 24)
) -> AsyncIterator[tuple[DuetApp, Pilot[None]]]:
    """Run the screen without a terminal: on a backend, or on the end of the recording."""
    app = DuetApp(backend or Replay(str(FIRST_LIGHT), speed=0))
    async with app.run_test(size=size, tooltips=True, notifications=True) as pilot:
        await until(pilot, lambda: bool(app.view.kernel))
        await pilot.pause()
        yield app, pilot


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    """Wait for a condition; fail when it does not come true in time."""
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, f"it did not come true in time:\n{text(pilot.app)}"
        await pilot.pause(0.02)
    await pilot.pause()


async def press(pilot: Pilot[None], *keys: str) -> None:
    """Press keys, one after the other, each taken before the next."""
    for key in keys:
        await pilot.press(key)
        await pilot.pause()


def text(app: App[None]) -> str:
    """Return what is on the screen, as lines."""
    width, height = app.size
    rows = app.screen._compositor.render_strips()
    return "\n".join(strip.text[:width] for strip in rows[:height])


async def said(app: DuetApp, pilot: Pilot[None], *parts: str) -> None:
    """Wait until some texts are all on the screen."""
    await until(pilot, lambda: all(part in text(app) for part in parts))


def line_with(app: DuetApp, part: str) -> str:
    """Return the first line on the screen with some text; fails when there is none."""
    found = [line for line in text(app).splitlines() if part in line]
    assert found, f"{part!r} is not on the screen:\n{text(app)}"
    return found[0]
