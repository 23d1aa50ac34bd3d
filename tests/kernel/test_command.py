# SPDX-License-Identifier: MIT
"""The duet command against the real driver."""

import contextlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import prometheus_client.core  # noqa: F401 -- for duet_here
import pytest
import schema
from asleep import wait_until_asleep
from conftest import SYSFS, counter, eventually, settings
from ordinary import ANNA, as_user, device_for_group
from truth import PAGE, drop_caches, fill, identity

from pyduet import Device, Mask, TaskEndedError
from pyduet.cli import Exit, main, parser
from pyduet.recording import Recording, ReplayedDevice, ReplayedStream

parser()  # imports all commands, for duet_here


def duet(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command and return what became of it."""
    return subprocess.run(
        [sys.executable, "-m", "pyduet", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def duet_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command in this process: an ordinary user may not read the lab's Python."""
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*map(str, arguments)])
    out.seek(0)
    return subprocess.CompletedProcess(arguments, code, out.read(), err.getvalue())


def objects(done: subprocess.CompletedProcess[str], kind: str) -> list[Any]:
    """Return the lines of JSON that a command printed, each of the schema."""
    assert (done.returncode, done.stderr) == (0, "")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for one in found:
        schema.check(kind, one)
    return found


def test_on_off_and_list(device: Device, place: Path, restored: object) -> None:
    """Start, status, list and stop do what they say, on the real device."""
    device.stop()
    [status] = objects(duet("status", "--json"), "status")
    assert (status["on"], status["tasks"]) == (False, 0)
    assert duet("watch", place / "tree").returncode == Exit.OFF
    assert duet("start", "-n", 3).returncode == 0
    assert counter("max_tasks") == 3
    again = duet("start")
    assert again.returncode == Exit.ALREADY
    assert len(again.stderr.splitlines()) == 1
    assert counter("max_tasks") == 3
    with device.register(place / "tree", Mask.DIRTY, name="lister") as task:
        [rows] = objects(duet("list", "--json"), "list")
        [row] = rows
        assert (row["name"], row["mask"], row["path"]) == ("lister", ["dirty"], str(place / "tree"))
        assert (row["id"], row["pid"], row["uid"]) == (task.id, os.getpid(), 0)
        [header, line] = duet("list").stdout.splitlines()
        assert header.split()[:4] == ["id", "age", "owner", "mask"]
        assert line.split()[2:4] == [f"root:{os.getpid()}", "dirty"]
        assert line.endswith(f"lister  {place}/tree")
        [status] = objects(duet("status", "--json"), "status")
        assert (status["on"], status["tasks"], status["hooks"]["dirtied"]) == (True, 1, "alive")
        text = duet("status").stdout
        assert "tasks    1 of 3" in text
        off = duet("stop")
        assert (off.returncode, off.stderr) == (0, "Duet is off; 1 task ended\n")
    assert not device.is_on()
    assert duet("stop").returncode == Exit.ALREADY


def test_set(device: Device, place: Path, restored: dict[str, int]) -> None:
    """All or nothing, with the driver's own refusals."""
    assert duet("set", "--limit", "64M", "--task-limit", "2M").returncode == 0
    assert settings() == {
        **restored, "limit_bytes": 64 << 20, "task_limit_bytes": 2 << 20,
    }  # fmt: skip
    fill(place / "tree/file", 4)
    with device.register(place / "tree", Mask.EXISTS):
        before = settings()
        for arguments, words in (
            (("--limit", "64"), "more is in use"),
            (("--max-tasks", "9"), "duet stop"),
            (("--task-limit", "1M", "--max-tasks", "9"), "duet stop"),
        ):
            refused = duet("set", *arguments)
            assert refused.returncode == Exit.IN_USE, arguments
            assert words in refused.stderr
            assert refused.stderr.count("\n") == 1
            assert settings() == before
    device.stop()
    assert duet("set", "--max-tasks", 5, "--limit", 0, "--task-limit", 0).returncode == 0
    assert settings() == {**restored, "max_tasks": 5}


def test_end(device: Device, place: Path) -> None:
    """A task ends, and the process that has it is told; the wrong number changes nothing."""
    with device.register(place / "tree", Mask.EXISTS) as task:
        for wrong, code in (
            ([task.id + 1], Exit.GONE), ([task.id, "--pid", 1], Exit.GONE), ([0], Exit.USAGE),
        ):  # fmt: skip
            refused = duet("end", *wrong)
            assert (refused.returncode, refused.stdout) == (code, "")
        assert len(device.tasks()) == 1
        done = duet("end", task.id, "--pid", os.getpid())
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == f"task {task.id} has ended\n"
        assert device.tasks() == []
        with pytest.raises(TaskEndedError, match="ended the task"):
            task.read()


def test_an_ordinary_user(device: Device, place: Path) -> None:
    """Sees his own, is told what is hidden, and may set nothing."""
    with device_for_group(), device.register(place / "tree", Mask.EXISTS):
        assert "(only root is told)" in as_user(ANNA, lambda: duet_here("status").stdout)
        [status] = as_user(ANNA, lambda: objects(duet_here("status", "--json"), "status"))
        assert (status["bytes"], status["drops"], status["tasks"]) == (None, None, 1)
        assert as_user(ANNA, lambda: objects(duet_here("list", "--json"), "list")) == [[]]
        for command in (("stop",), ("start",), ("set", "--limit", "1G"), ("set", "--max-tasks", 2)):
            refused = as_user(ANNA, lambda command=command: duet_here(*command))
            assert refused.returncode == Exit.NOT_PERMITTED, command
            assert "root" in refused.stderr
    outside = as_user(ANNA, lambda: duet_here("status"), groups=())
    assert outside.returncode == Exit.NOT_PERMITTED
    assert "group" in outside.stderr


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
        wait_until_asleep(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == Exit.INTERRUPTED
    for one in (line, second):
        schema.check("item", one)
    assert (line["path"], line["index"], line["pages"], line["state"]) == (
        str(path), 0, 3, ["added"],
    )  # fmt: skip
    assert (line["ino"], line["generation"]) == identity(path)
    assert (second["path"], second["index"], second["pages"]) == (str(other), 0, 1)
    assert eventually(lambda: device.tasks() == [])


def test_watch_one_file(device: Device, place: Path) -> None:
    """A file can be watched as well as a directory, and nothing beside it is told."""
    path, _ = fill(place / "tree/file", 3), fill(place / "tree/other", 5)
    [line] = objects(duet("watch", path, "--json", "--timeout", "0"), "item")
    assert (line["path"], line["index"], line["pages"]) == (str(path), 0, 3)


def test_watch_events_by_file(device: Device, place: Path) -> None:
    """What happened to each file, added up; states cannot be told of events."""
    path = fill(place / "tree/file", 4)
    drop_caches()
    command = [
        sys.executable, "-m", "pyduet", "watch", place / "tree", "--events", "--by-file", "--json",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert eventually(lambda: len(device.tasks()) == 1)
        path.read_bytes()
        with path.open("r+b") as file:
            file.write(b"x" * 2 * PAGE)
            file.flush()
            os.fsync(file.fileno())
        assert eventually(lambda: [task.pending for task in device.tasks()] == [0])
        wait_until_asleep(process.pid)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == Exit.INTERRUPTED
    [row] = [json.loads(line) for line in out.splitlines()]
    schema.check("by_file", row)
    assert (row["path"], row["cached"], row["dirty"]) == (str(path), None, None)
    assert (row["added"], row["removed"]) == (4, 0)
    assert row["dirtied"] >= 2
    assert row["flushed"] >= 2
    drop_caches()  # what is cached to begin with would be told
    quiet = subprocess.run([*command, "--timeout", "0.5"], capture_output=True, check=True)
    assert (quiet.stdout, quiet.stderr) == (b"", b"")


def test_watch_in_a_terminal(device: Device, place: Path) -> None:
    """A live table, which Ctrl-C in the terminal ends."""
    path = fill(place / "tree/file", 3)
    pid, terminal = pty.fork()
    if not pid:
        os.environ.update({"TERM": "xterm", "LINES": "24", "COLUMNS": "100"})
        command = [sys.executable, "-m", "pyduet", "watch", str(place / "tree")]
        os.execv(sys.executable, command)  # noqa: S606 -- no shell is meant
    written = b""
    end = time.monotonic() + 60
    while os.fsencode(path) not in written:
        assert time.monotonic() < end, written
        written += os.read(terminal, 65536)
    wait_until_asleep(pid)
    os.write(terminal, b"\x03")
    try:
        while data := os.read(terminal, 65536):
            written += data
    except OSError:
        pass  # EIO: the other end is closed
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == Exit.INTERRUPTED
    assert b"added" in written
    assert b"Traceback" not in written


def test_record_and_replay(device: Device, place: Path, tmp_path: Path) -> None:
    """What was told live is told again, with the state of the driver; the module can be off."""
    paths = [fill(place / f"tree/{number}", number + 1) for number in range(3)]
    file = tmp_path / "recording"
    live = objects(
        duet("watch", place / "tree", "--json", "--timeout", "0", "--record", file), "item"
    )
    assert {(line["path"], line["pages"]) for line in live} == {
        (str(path), number + 1) for number, path in enumerate(paths)
    }
    device.stop()
    again = objects(duet("watch", "--replay", file, "--json"), "item")
    assert [{**line, "time": 0} for line in again] == [{**line, "time": 0} for line in live]
    for line in file.read_text().splitlines():
        schema.check("recording", json.loads(line))
    recording = Recording.load(file)
    assert recording.path == str(place / "tree")
    [task] = ReplayedDevice(recording, speed=0).tasks()
    assert (task.path, task.pid) == (str(place / "tree"), task.pid)
    tree = [item.pages for item in ReplayedStream(recording, speed=0).events()]
    assert sorted(tree) == [1, 2, 3]


def test_top(device: Device, place: Path) -> None:
    """The files with most pages, and those of which most has changed since it began."""
    for number in range(5):
        fill(place / f"tree/{number}", 10 * number + 1)
    changing = place / "tree/2"
    dirtied: list[int] = []
    with subprocess.Popen(
        [sys.executable, "-m", "pyduet", "top", place / "tree", "--json", "--rows", "2",
         "--interval", "1", "--count", "60"],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout
        while sum(dirtied) < 7:  # the write may fall into two intervals
            line = json.loads(process.stdout.readline())
            schema.check("top", line)
            assert (line["files"], line["cached"]) == (5, 105)
            assert [(one["path"], one["cached"]) for one in line["most_cached"]] == [
                (str(place / "tree/4"), 41), (str(place / "tree/3"), 31),
            ]  # fmt: skip
            assert {one["path"] for one in line["most_changing"]} <= {str(changing)}
            if not dirtied:
                # Only now it is sure that what was cached to begin with is no change any more.
                assert line["most_changing"] == []
                with changing.open("r+b") as file:
                    file.write(b"x" * 7 * PAGE)
            dirtied.append(sum(one["dirtied"] for one in line["most_changing"]))
        wait_until_asleep(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == Exit.INTERRUPTED
    [line] = objects(
        duet("top", place / "tree", "--json", "--interval", "0.1", "--count", "1"), "top"
    )
    assert (line["files"], line["cached"], line["most_changing"]) == (5, 105, [])


def test_cached(device: Device, place: Path) -> None:
    """File by file, with the pages; the sum in words."""
    path = fill(place / "tree/file", 3)
    fill(place / "tree/other", 7)
    found = {
        one["path"]: one for one in objects(duet("cached", place / "tree", "--json"), "cached")
    }
    one = found[str(path)]
    assert (one["ino"], one["generation"]) == identity(path)
    assert (one["cached"], one["dirty"], one["ranges"]) == (3, 0, [[0, 3, False]])
    done = duet("cached", place / "tree", "--ranges")
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["pages", "size", "dirty", "file"],
        ["7", "28.0", "KiB", "0", str(place / "tree/other"), "[0-6]"],
        ["3", "12.0", "KiB", "0", str(path), "[0-2]"],
    ]
    assert done.stderr == "10 pages (40.0 KiB) of 2 files cached, 0 dirty\n"
    assert len(duet("cached", place / "tree", "--rows", 1).stdout.splitlines()) == 2


def test_metrics(device: Device, place: Path) -> None:
    """What sysfs counts, in Prometheus' format, and hidden from ordinary users."""
    path = fill(place / "tree/file", 3)
    with device.register(place / "tree", Mask.EXISTS, name='a "b"') as task:
        task.read()
        lines = dict(
            line.rsplit(" ", 1)
            for line in duet("metrics").stdout.splitlines()
            if not line.startswith("#")
        )
        assert path.exists()
        assert float(lines["duet_tasks"]) == 1
        assert float(lines["duet_files"]) == counter("files") == 1
        added = int((SYSFS / "events/added").read_text())
        assert float(lines['duet_events_total{event="added"}']) == added
        assert float(lines['duet_hook_state{hook="added",state="alive"}']) == 1
        labels = f'name="a \\"b\\"",path="{place}/tree",task="{task.id}",user="root"'
        assert float(lines[f"duet_task_items_total{{{labels}}}"]) == 3
        with device_for_group():
            told = as_user(ANNA, lambda: duet_here("metrics").stdout)
        assert "duet_on 1.0" in told
        assert "duet_files" not in told


def test_bad_input_changes_nothing(device: Device, place: Path) -> None:
    """One line that names the thing and the remedy, the status of the table, no task left."""
    pipe = place / "tree/pipe"
    os.mkfifo(pipe)
    file = fill(place / "tree/file", 1)
    before = settings()
    for command in ("watch", "top", "cached"):
        for path, code, words in (
            ("/nowhere", Exit.BAD_PATH, "does not exist; check the path"),
            (file / "below", Exit.BAD_PATH, "is not a directory; check the path"),
            (pipe, Exit.BAD_PATH, "neither a directory nor a regular file"),
            ("/proc", Exit.UNSUPPORTED, "does not support its file system"),
            ("/sys", Exit.UNSUPPORTED, "does not support its file system"),
        ):
            result = duet(command, path)
            assert (result.returncode, result.stdout) == (code, ""), (command, path, result.stderr)
            assert str(path) in result.stderr
            assert words in result.stderr
            assert result.stderr.count("\n") == 1
    assert duet("watch", place, "--mask", "exists,added").returncode == Exit.USAGE
    assert duet("watch", place, "--record", place / "none/x").returncode == Exit.BAD_PATH
    assert device.tasks() == []
    assert settings() == before


def test_no_task_is_free(device: Device, place: Path, restored: object) -> None:
    """The message says how to get one."""
    device.stop()
    device.start(1)
    with device.register(place / "tree", Mask.EXISTS):
        for command in ("watch", "cached"):
            refused = duet(command, place / "tree")
            assert refused.returncode == Exit.IN_USE
            assert "duet start -n" in refused.stderr


def test_where_sys_is_not_mounted(device: Device) -> None:
    """As in a chroot: all is told but what only sysfs tells, and why."""

    def there(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "--mount", "sh", "-c", 'umount -l /sys && exec "$@"', "sh",
             sys.executable, "-m", "pyduet", *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    words = "duet: nothing is told of the hooks: cannot open /sys/class/misc/duet/hooks: /sys is "
    for arguments in (["status"], ["status", "--json"], ["metrics"]):
        done = there(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        assert done.stderr.startswith(words)
        if "--json" in arguments:
            status = json.loads(done.stdout)
            schema.check("status", status)
            assert (status["on"], status["hooks"]) == (True, None)
        else:
            assert ("duet_loaded 1.0\n" if arguments == ["metrics"] else "\ntasks") in done.stdout
            assert "duet_hook_state" not in done.stdout
    limited = there("set", "--limit", "1G")
    assert limited.returncode == Exit.FAILED
    assert "/sys is not mounted; mount it: mount -t sysfs sys /sys" in limited.stderr


def test_a_task_says_when_duet_is_lost(device: Device, place: Path) -> None:
    """And goes on: here it waits for a neighbour, until Duet is switched off under both."""
    for number in range(20):
        fill(place / f"tree/{number}", 16)
    drop_caches()
    with device.register(place / "tree", Mask.EXISTS, name="duet-run/gate"):
        options = ["--window", str(16 * PAGE), "--patience", "3600", "--no-give-way", "-q"]
        with subprocess.Popen(
            [sys.executable, "-m", "pyduet", "run", "scrub", place / "tree",
             "--state", place / "ledger", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert eventually(lambda: any(task.done for task in device.tasks()))
            device.stop()
            out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, "")
    assert err.count("\n") == 1
    assert err.startswith("duet: going on without Duet, in the disk's order: ")
    refused = duet("run", "scrub", place / "tree", "--state", place / "ledger", "--require-duet")
    assert refused.returncode == Exit.OFF
    done = duet("run", "scrub", place / "tree", "--state", place / "ledger")
    assert done.returncode == Exit.OK
    assert "duet: working without Duet, in the disk's order: " in done.stderr
    device.start()
