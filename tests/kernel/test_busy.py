# SPDX-License-Identifier: MIT
"""The end of ``make run``: the administrator's screen, on a workload that goes on."""

import os
import sys
from pathlib import Path

from conftest import eventually
from pseudoterminal import terminal
from truth import fill

from pyduet import Device

EXAMPLES = Path(__file__).parents[2] / "examples"
OFFER = """
import sys
sys.path.insert(0, sys.argv[1])
import first_light
first_light.offer_the_screen(first_light.Screen(), sys.argv[2])
"""


def test_the_screen_that_is_offered(device: Device, place: Path) -> None:
    """It shows the tasks of the workload, which ends with it."""
    root = place / "tree"
    fill(root / "file", 20)
    offer = (sys.executable, "-c", OFFER, EXAMPLES, root)
    with terminal(*offer, TERM="xterm-256color", COLUMNS="120", LINES="40") as there:
        there.until("Open it?")
        there.type("y\n")
        there.until("Overview")
        assert eventually(lambda: len(device.tasks()) == 3)
        names = {task.name: task.path for task in device.tasks()}
        assert names == {
            "indexer": str(root), "backup": f"{root}/busy", "scrub, which sleeps": str(root),
        }  # fmt: skip
        there.type("2")
        there.until("scrub, which sleeps")
        assert eventually(lambda: any(task.done for task in device.tasks()))
        there.type("q")
        assert there.wait() == 0
    assert device.tasks() == []
    assert os.listdir(root) == ["file"]


def test_no_is_an_answer(device: Device, place: Path) -> None:
    with terminal(sys.executable, "-c", OFFER, EXAMPLES, place / "tree") as there:
        there.until("Open it?")
        there.type("n\n")
        assert there.wait() == 0
    assert device.tasks() == []
