#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Take the pictures of the administrator's screen: of a real run, on a workload, in the lab.

usage: make pictures
"""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]
sys.path.insert(0, str(PROJECT / "tests"))

from duet_tui.live import Live  # noqa: E402
from pilot import press, screen, text, until  # noqa: E402
from textual.widgets import Input  # noqa: E402

import pyduet  # noqa: E402

#: Seconds of the workload before the first picture: the charts want some past.
PAST = 100
#: Keys that lead to a picture, and what is to be read when it is complete.
PICTURES = {
    "overview": ("1", "alive"),
    "tasks": ("2", "sleeps"),
    "task": ("2 home enter f6", "pages cached"),
    "table": ("3", "nodes in"),
    "watch": ("4", "added"),
    "log": ("5", "registered"),
}


def self_contained(svg: str) -> str:
    """Take out the fonts that a picture would load from elsewhere; any of a fixed width will do."""
    svg = re.sub(r"\s*@font-face \{.*?\}\n", "\n", svg, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


async def take(root: Path, directory: Path) -> None:
    """Watch the workload on the screen for a while, and take the pictures."""
    async with screen(Live(pyduet.DEFAULT_DEVICE), (120, 36)) as (app, pilot):
        await until(pilot, lambda: len(app.view.tasks) == 3)
        await press(pilot, "4", "p")
        app.screen.query_one("#path", Input).value = str(root)
        await press(pilot, "enter")
        await until(pilot, lambda: len(app.view.tasks) == 4)
        for second in range(0, PAST, 10):
            print(f"pictures: {second} of {PAST} seconds of work", file=sys.stderr)
            await pilot.pause(10)
        for name, (keys, words) in PICTURES.items():
            await press(pilot, *keys.split())
            await until(pilot, lambda words=words: words in text(app))
            await pilot.pause(2)
            svg = self_contained(app.export_screenshot(title="duet tui"))
            (directory / f"{name}.svg").write_text(svg, encoding="utf-8")
            print(f"pictures: {name}.svg", file=sys.stderr)
            if name == "task":
                await press(pilot, "escape")


def main() -> None:
    """Run the workload meanwhile."""
    root, directory = Path(sys.argv[1]), Path(sys.argv[2])
    with pyduet.Device() as device:
        if not device.is_on():
            device.start()
    with subprocess.Popen([sys.executable, PROJECT / "examples/busy.py", root]) as workload:
        try:
            asyncio.run(take(root, directory))
        finally:
            workload.terminate()


if __name__ == "__main__":
    main()
