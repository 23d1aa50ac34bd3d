# SPDX-License-Identifier: MIT
"""What the screens look like, character by character, on a recording of the real driver.

After a change that is meant, look at the difference (snapshot_report.html) and take the new ones:

    .venv/bin/pytest tests/tui/test_pictures.py --snapshot-update
"""

from collections.abc import Callable
from typing import Any

import pytest
from duet_tui.app import DuetApp
from duet_tui.replay import Replay
from pilot import BUSY, press, text, until
from textual.pilot import Pilot

#: Keys that lead to a picture, and words that are there when it is complete.
PICTURES = {
    "overview": ([], "Folios a second"),
    "tasks": (["2"], "4 tasks"),
    "table": (["3"], "27 nodes in 131,072 buckets"),
    "watch": (["4"], "has ended"),
    "log": (["5"], "Duet is on"),
}
OF_A_TASK = {
    "rates": (["2", "down", "down", "down", "enter"], "task 4  small"),
    "cached": (["2", "enter", "f6"], "pages cached"),
    "pending": (["2", "down", "down", "enter", "f7"], "novels/3.txt"),  # the last of the rows
    "bitmap": (["2", "down", "enter", "f8"], "2 done; 17 seen"),
    "buckets": (["3", "n", "enter"], "The node at the cursor"),
    "help": (["3", "f1"], "The whole table, from"),
}

Compare = Callable[..., bool]


def picture(keys: list[str], words: str, **options: Any) -> tuple[DuetApp, dict[str, Any]]:
    """Return the application, and how it gets to its picture."""

    async def go(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: pilot.app.view.kernel)
        for key in keys:
            if key == "n":
                await until(pilot, lambda: "·" in text(pilot.app))
            await press(pilot, key)
        await until(pilot, lambda: words in text(pilot.app))
        before = ""
        while (now := text(pilot.app)) != before:  # until nothing more comes
            before = now
            await pilot.pause(0.3)

    return DuetApp(Replay(str(BUSY), speed=0)), {"run_before": go, **options}


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize("name", PICTURES)
def test_screen(name: str, size: tuple[int, int], snap_compare: Compare) -> None:
    app, how = picture(*PICTURES[name], terminal_size=size)
    assert snap_compare(app, **how)


@pytest.mark.parametrize("name", OF_A_TASK)
def test_opened(name: str, snap_compare: Compare) -> None:
    app, how = picture(*OF_A_TASK[name], terminal_size=(80, 24))
    assert snap_compare(app, **how)


@pytest.mark.parametrize("name", PICTURES)
def test_without_colours(name: str, snap_compare: Compare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app, how = picture(*PICTURES[name], terminal_size=(80, 24))
    assert app.no_color
    assert snap_compare(app, **how)


@pytest.mark.parametrize("name", ["overview", "table"])
def test_light(name: str, snap_compare: Compare) -> None:
    keys, words = PICTURES[name]
    app, how = picture(["f2", *keys], words, terminal_size=(120, 40))
    assert snap_compare(app, **how)
