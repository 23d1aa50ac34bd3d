# SPDX-License-Identifier: GPL-2.0-only
"""The duet command against the real driver."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from conftest import eventually
from truth import drop_caches, fill, identity

from pyduet import Device, Mask


def duet(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command and return what became of it."""
    return subprocess.run(
        [sys.executable, "-m", "pyduet", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_on_off_and_list(device: Device, place: Path) -> None:
    """Start, status, list and stop do what they say, on the real device."""
    device.stop()
    assert json.loads(duet("status", "--json").stdout) == {"on": False, "tasks": 0}
    assert duet("watch", place / "tree").returncode == 5
    assert duet("start", "-n", 3).returncode == 0
    assert Path("/sys/class/misc/duet/max_tasks").read_text() == "3\n"
    with device.register(place / "tree", Mask.DIRTY, name="lister"):
        [row] = json.loads(duet("list", "--json").stdout)
        assert (row["name"], row["mask"], row["path"]) == ("lister", ["dirty"], str(place / "tree"))
        assert json.loads(duet("status", "--json").stdout) == {"on": True, "tasks": 1}
    again = duet("start")
    assert again.returncode != 0
    assert len(again.stderr.splitlines()) == 1
    assert duet("stop").returncode == 0
    assert not device.is_on()


def test_watch(device: Device, place: Path) -> None:
    """Watch prints which pages of which file, as it happens, and Ctrl-C ends it."""
    path = fill(place / "tree/file", 3)
    other = fill(place / "tree/other", 1)
    drop_caches()
    path.read_bytes()
    with subprocess.Popen(
        [sys.executable, "-m", "pyduet", "watch", place / "tree", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        line = json.loads(process.stdout.readline())
        other.read_bytes()
        second = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert (line["path"], line["index"], line["pages"], line["state"]) == (
        str(path), 0, 3, ["added"],
    )  # fmt: skip
    assert (line["ino"], line["generation"]) == identity(path)
    assert (second["path"], second["index"], second["pages"]) == (str(other), 0, 1)
    assert eventually(lambda: device.tasks() == [])


def test_watch_one_file(device: Device, place: Path) -> None:
    """A file can be watched as well as a directory, and nothing beside it is told."""
    path, _ = fill(place / "tree/file", 3), fill(place / "tree/other", 1)
    done = duet("watch", path, "--json", "--timeout", "0")
    assert done.returncode == 0
    [line] = [json.loads(line) for line in done.stdout.splitlines()]
    assert (line["path"], line["index"], line["pages"]) == (str(path), 0, 3)


def test_bad_input_changes_nothing(device: Device, place: Path) -> None:
    """One line that names the thing, the status of the table, no task left."""
    pipe = place / "tree/pipe"
    os.mkfifo(pipe)
    for arguments in (("/nowhere",), (pipe,), ("/proc",), (place, "--mask", "exists,added")):
        result = duet("watch", *arguments)
        assert result.returncode in (1, 2)
        assert result.stdout == ""
        assert os.fspath(arguments[0]) in result.stderr or "exists" in result.stderr
    assert device.tasks() == []
