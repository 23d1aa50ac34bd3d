# SPDX-License-Identifier: MIT
"""The debug shell against the real driver.

Truth: what the library says of the same tasks, asked by this process.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import schema
from conftest import EVENTS, STATES, eventually
from ordinary import ANNA, as_user, device_for_group
from pseudoterminal import terminal
from test_life import file_system
from truth import fill, identity

from pyduet import Device, Mask
from pyduet._text.jsonable import to_jsonable
from pyduet.cli import main, parser
from pyduet.cli.shell import shell as _shell  # noqa: F401 -- likewise
from pyduet.cli.shell.grammar import COMMANDS

parser()  # imports all commands: another user cannot

DEBUG = (sys.executable, "-m", "pyduet", "debug")


def debug(*arguments: object, script: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script in a shell and return what became of it."""
    return subprocess.run(
        [*DEBUG, *map(str, arguments)],
        input=script, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


class Debug:
    """A shell that is asked line by line, and answers in JSON."""

    def __enter__(self) -> Self:
        """Start it; what it cannot do does not end it."""
        self._process = subprocess.Popen(
            [*DEBUG, "--json", "--keep-going"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, bufsize=1,
        )  # fmt: skip
        self.pid = self._process.pid
        self.asked: set[str] = set()
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and with it its tasks."""
        self._process.communicate(timeout=120)

    def _say(self, words: tuple[object, ...]) -> None:
        assert self._process.stdin
        self.asked.add(str(words[0]))
        self._process.stdin.write(" ".join(map(str, words)) + "\n")

    def ask(self, *words: object) -> Any:
        """Return the answer to a line."""
        assert self._process.stdout
        self._say(words)
        answer = json.loads(self._process.stdout.readline())
        schema.check("debug", {str(words[0]): answer})
        return answer

    def refused(self, *words: object) -> str:
        """Return what is said of a line that cannot be done, and that there is no answer."""
        assert self._process.stderr
        self._say(words)
        words_of_it = self._process.stderr.readline()
        self.ask("mask")  # an answer would come before this one
        return words_of_it


def rows_of(items: list[dict[str, Any]]) -> set[tuple[str, int, str]]:
    """Return path, page and states of each page that a shell told of."""
    return {
        (item["path"], page, ",".join(item["state"]))
        for item in items
        for page in range(item["index"], item["index"] + item["pages"])
    }


def told_of(task: Any) -> set[tuple[str, int, str]]:
    """Return the same of what is pending, as the library tells it."""
    items = list(task.pending())
    paths = task.paths_of({item.file for item in items})
    return {
        (paths[item.file], page, ",".join(item.state.names))
        for item in items
        for page in range(item.index, item.end)
    }


def marks_of(answer: list[dict[str, Any]]) -> set[tuple[int, int]]:
    """Return the files of an answer."""
    return {(row["ino"], row["generation"]) for row in answer}


def test_every_command(device: Device, place: Path) -> None:
    """A script that uses each, and the library's own answers beside it."""
    tree = place / "tree"
    paths = [fill(tree / f"file {i}", 1 + 3 * i, sync=False) for i in range(4)]
    numbers = ["{}:{}".format(*identity(path)) for path in paths]
    device.stop()
    with Debug() as shell:
        assert shell.ask("status") == {"on": False, "tasks": 0, "max_tasks": 8}
        assert shell.ask("start", 5) == {"on": True, "max_tasks": 5}
        assert device.is_on()
        assert device.info().max_tasks == 5
        assert shell.ask("list") == []
        one = shell.ask("register", tree)
        assert one == {"id": 1, "name": "duet debug", "mask": STATES.names, "path": str(tree)}
        two = shell.ask("register", tree, "added,dirty", "two", "--ranges", "--no-scan")
        three = shell.ask("register", "--snapshot", tree, hex(Mask.EXISTS), "'the third'")
        listed = shell.ask("list")
        tasks = device.tasks()
        assert [row["id"] for row in (one, two, three)] == [task.id for task in tasks] == [1, 2, 3]
        for row, task in zip(listed, tasks, strict=True):
            assert row.pop("own") is True
            assert row.pop("age") < task.age
            assert row == {key: value for key, value in to_jsonable(task).items() if key != "age"}
            assert task.pid == shell.pid
        assert [task.name for task in tasks] == ["duet debug", "two", "the third"]
        assert [task.mask for task in tasks] == [STATES, Mask.ADDED | Mask.DIRTY, Mask.EXISTS]
        assert [(task.ranges, task.no_scan, task.snapshot) for task in tasks] == [
            (False, False, False), (True, True, False), (False, False, True)
        ]  # fmt: skip

        pages = {
            (str(path), page, "added,dirty")
            for i, path in enumerate(paths)
            for page in range(1 + 3 * i)
        }
        # Looking consumes nothing.
        for _ in range(2):
            assert rows_of(shell.ask("items", 1)) == told_of(device.task(1)) == pages
        some = shell.ask("read", 1, 2)
        assert shell.ask("read", 2, 10**30) == []
        assert len(rows_of(some)) == 2
        assert rows_of(some) | rows_of(shell.ask("read", 1)) == pages
        assert shell.ask("read", 1) == shell.ask("items", 1) == []
        assert rows_of(shell.ask("read", 3)) == {(path, page, "added") for path, page, _ in pages}
        assert device.tasks()[0].delivered == len(pages)

        marks = {tuple(map(int, number.split(":"))) for number in numbers[:3]}
        for answer in (
            shell.ask("set", 1, f"'{paths[0]}'", numbers[1]),
            shell.ask("set", 1, *numbers[2].split(":")),
        ):
            assert all(row["marked"] for row in answer)
        assert set(device.task(1).marked()) == marks
        assert [(row["path"], row["ino"]) for row in sorted(
            shell.ask("bitmap", 1), key=lambda row: str(row["path"])
        )] == [(str(path), path.stat().st_ino) for path in paths[:3]]  # fmt: skip
        assert shell.ask("bitmap", 2) == []
        outside = fill(place / "out/file", 1)
        checked = shell.ask("check", 1, *numbers, outside)
        assert [(row["done"], row["marked"]) for row in checked] == [
            (True, True), (True, True), (True, True), (False, False), (True, False)
        ]  # fmt: skip
        assert marks_of(shell.ask("reset", 1, numbers[0], numbers[1])) == {
            identity(paths[0]), identity(paths[1])
        }  # fmt: skip
        assert set(device.task(1).marked()) == {identity(paths[2])}
        for arguments in ((numbers[3],), numbers[3].split(":"), (f'"{paths[3]}"',)):
            assert shell.ask("getpath", 1, *arguments) == {
                "ino": identity(paths[3])[0],
                "generation": identity(paths[3])[1],
                "path": str(paths[3]),
            }

        shell.ask("read", 1)
        assert shell.ask("rescan", 2) == {"id": 2}
        assert rows_of(shell.ask("read", 2)) == pages
        assert shell.ask("table") == to_jsonable(device.table())
        nodes = shell.ask("table", 0)
        assert nodes == [to_jsonable(node) for node in device.nodes()]
        first = nodes[0]["bucket"]
        assert shell.ask("table", first, first + 1) == [
            row for row in nodes if row["bucket"] == first
        ]
        cached = {
            (node["ino"], node["index"] + bit)
            for node in nodes
            for bit in range(64)
            if node["task"] == 1 and node["cached"] >> bit & 1
        }
        assert cached == {
            (os.stat(path).st_ino, page) for path, page, _ in pages if path != str(paths[2])
        }  # a task knows nothing of a file that it marked done
        assert shell.ask("info") == to_jsonable(device.info())
        assert shell.ask("hooks") == device.hooks()
        assert shell.ask("deregister", 2) == {"id": 2}
        assert [task.id for task in device.tasks()] == [1, 3]
        assert shell.ask("stop") == {"on": False}
        assert not device.is_on()
        # The shell holds nothing of its tasks any more.
        assert not [
            fd for fd in Path(f"/proc/{shell.pid}/fd").iterdir() if "duet-task" in os.readlink(fd)
        ]
        assert shell.asked | {"mask", "help", "quit", "exit", "EOF"} == set(COMMANDS)


def test_words_for_people(device: Device, place: Path) -> None:
    """The same as lines: data on stdout, words on stderr."""
    tree = place / "tree"
    path = fill(tree / "file\x1b", 3, sync=False)
    number = "{}:{}".format(*identity(path))
    script = f"""
        register {tree}
        list
        items 1
        read 1
        read 1
        set 1 {number}
        check 1 {number} 7:7
        bitmap 1
        getpath 1 {number}
        reset 1 {number}
        read 1
        table
        table 0
        info
        hooks
        status
        stop
        status
    """
    done = debug(script=script)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "1"
    assert lines[1].split() == "id owner mask flags pending done told name path".split()
    assert re.fullmatch(
        rf" 1 +root:[0-9]+ +modified,exists +own +[0-9]+ +0 +0 +duet debug +{tree}", lines[2]
    )
    shown = rf"added,dirty +0-2  {tree}/file\\x1b"
    assert re.fullmatch(shown, lines[3])
    assert lines[4] == lines[3]
    assert lines[5:7] == [f"{number}  done", "7:7  not marked, but of no interest to the task"]
    assert lines[7:9] == [f"{number}  {tree}/file\\x1b", f"{tree}/file\\x1b"]
    assert lines[9] == lines[3]
    rest = "\n".join(lines[10:])
    assert re.search(r"^nodes +[0-9]+$", rest, re.M)
    assert re.search(r"^buckets with 1 nodes: [0-9]+$", rest, re.M)
    assert re.search(rf"^ +[0-9]+  {number}  from 0  task 1 .* cached 0-2  dirty 0-2 ", rest, re.M)
    assert re.search(r"^max_tasks +8$", rest, re.M)
    assert re.search(r"^hooks_alive +added,removed,dirty,flushed$", rest, re.M)
    assert re.search(r"^dirtied +alive$", rest, re.M)
    assert lines[-2:] == ["on, 1 of 8 tasks", "off"]
    assert "\x1b" not in done.stdout
    assert done.stderr.splitlines() == [
        "nothing is pending",
        f"inode {number.split(':')[0]} (generation {number.split(':')[1]}): marked done",
        f"inode {number.split(':')[0]} (generation {number.split(':')[1]}): not marked any more",
        "off",
    ]


def test_another_processes_task(device: Device, place: Path) -> None:
    """It is looked into and acted on by its number; to read it is its process's."""
    tree = place / "tree"
    path = fill(tree / "file", 5, sync=False)
    with device.register(tree, STATES, name="ours") as task, Debug() as shell:
        [row] = shell.ask("list")
        assert (row["own"], row["pid"], row["name"]) == (False, os.getpid(), "ours")
        assert rows_of(shell.ask("items", task.id)) == told_of(task)
        words = shell.refused("read", task.id)
        name = Path("/proc/self/comm").read_text().strip()
        assert f"task {task.id} (ours) is of process {os.getpid()} ({name}); " in words
        assert len(told_of(task)) == 5
        shell.ask("set", task.id, path)
        assert list(task.marked()) == [identity(path)]
        assert task.read() == []
        assert marks_of(shell.ask("bitmap", task.id)) == {identity(path)}
        assert shell.ask("check", task.id, path)[0]["marked"]
        assert shell.ask("getpath", task.id, path)["path"] == str(path)
        shell.ask("reset", task.id, path)
        assert {item.file.ino for item in task.read()} == {path.stat().st_ino}
        assert shell.ask("rescan", task.id) == {"id": task.id}
        assert shell.ask("deregister", task.id) == {"id": task.id}
    assert device.tasks() == []


def test_the_tasks_end_with_the_shell(device: Device, place: Path) -> None:
    """When its script ends, and when it is killed."""
    assert debug("-c", f"register {place}/tree", "-c", "list").returncode == 0
    assert device.tasks() == []
    shell = Debug().__enter__()
    shell.ask("register", place / "tree")
    assert len(device.tasks()) == 1
    os.kill(shell.pid, 9)
    assert eventually(lambda: device.tasks() == [])
    shell.__exit__()


def test_a_number_that_became_anothers(device: Device, place: Path) -> None:
    """Switched off and on by somebody else: the shell does not take a new task for its own."""
    with Debug() as shell:
        assert shell.ask("register", place / "tree")["id"] == 1
        device.stop()
        assert "no task 1" in shell.refused("read", 1)
        device.start()
        with device.register(place / "tree", STATES, name="new") as task:
            assert task.id == 1
            assert "task 1 (new) is of process" in shell.refused("read", 1)
            assert shell.ask("list")[0]["own"] is False
        assert shell.ask("register", place / "tree")["id"] == 1
        assert shell.ask("read", 1) == []
        assert shell.ask("deregister", 1) == {"id": 1}
    assert device.tasks() == []


def test_errors_change_nothing(device: Device, place: Path) -> None:
    """One line each, that names the thing; no task, no mark, nothing read."""
    tree = place / "tree"
    path = fill(tree / "file", 3, sync=False)
    pipe = place / "pipe"
    os.mkfifo(pipe)
    task = device.register(tree, EVENTS)
    before = told_of(task)
    lines = {
        f"register {place}/none": f"{place}/none",
        f"register {pipe}": str(pipe),
        "register /proc": "/proc",
        f"register {tree} 0x21": "exists excludes added",
        "set 7 7:7": "task 7",
        "items 7": "task 7",
        "bitmap 9": "task 9",
        "rescan 300": "task 300",
        "deregister 9": "task 9",
        f"set {task.id} {path} {place}/none": f"{place}/none",
        f"set {task.id} {path} {pipe}": str(pipe),
        f"set {task.id} {path} {tree}": str(tree),
        f"set {task.id} {path} 7:{2**32}": f"7:{2**32}",
        f"set {task.id} {path} {2**64 - 1}:0": f"{2**64 - 1}:0",
        f"set {task.id} {path} /proc/self/status": "/proc/self/status",
        f"getpath {task.id} 7:7 7:8": "one file",
        f"getpath {task.id} 7:7": "inode 7 (generation 7)",
        "start": "already on",
    }
    with Debug() as shell:
        for number, (line, words) in enumerate(lines.items()):
            said = shell.refused(line)
            assert words in said, line
            assert said.startswith(f"duet: line {2 * number + 1}: "), line
            assert len(said.splitlines()) == 1
    assert told_of(task) == before
    assert list(task.marked()) == []
    assert [one.id for one in device.tasks()] == [task.id]
    task.close()


def here(*lines: object) -> tuple[int, str, str]:
    """Execute lines in a shell in this process: another user cannot start the interpreter."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        arguments = [word for line in lines for word in ("-c", str(line))]
        code = main(["debug", "--json", "--keep-going", *arguments])
    return code, out.getvalue(), err.getvalue()


def test_exit_codes(device: Device, place: Path) -> None:
    """Those that the other commands have."""
    refused = "duet: -c 1: not permitted to look into the table; it needs root (CAP_SYS_ADMIN)\n"
    with device_for_group():
        assert as_user(ANNA, lambda: here("table")) == (4, "", refused)
    device.stop()
    done = debug("--keep-going", "-c", "list", "-c", f"register {place}/tree", "-c", "stop")
    assert done.returncode == 5
    assert [line[:12] for line in done.stderr.splitlines()[-2:]] == ["duet: -c 2: ", "duet: -c 3: "]


def test_an_ordinary_user(device: Device, place: Path) -> None:
    """Has tasks of one's own; those of others are not there."""
    tree = place / "tree"
    path = fill(tree / "file", 2)
    os.chown(path, ANNA, ANNA)
    root = device.register(tree, STATES)

    lines = (
        "list",
        f"register {tree}",
        "read 2",
        f"set 2 {path}",
        "bitmap 2",
        "info",
        f"items {root.id}",
        f"set {root.id} {path}",
        "items 2",
        "table 0",
    )
    with device_for_group():
        code, out, err = as_user(ANNA, lambda: here(*lines))
    listed, registered, items, _, bitmap, info = map(json.loads, out.splitlines())
    assert code == 1
    assert listed == []
    assert registered["id"] == 2
    assert rows_of(items) == {(str(path), page, "added") for page in range(2)}
    assert marks_of(bitmap) == {identity(path)}
    assert info["nodes"] == 0
    others, again, pending, nodes = err.splitlines()
    assert f"-c 7: there is no task {root.id} that you may see" in others
    assert f"-c 8: there is no task {root.id} that you may see" in again
    assert "-c 9: not permitted to look into what is pending of task 2" in pending
    assert "-c 10: not permitted to look into the nodes" in nodes
    assert list(root.marked()) == []
    root.close()


def test_a_file_of_another_file_system(device: Device, place: Path) -> None:
    """Its numbers would mean another file."""
    with (
        file_system(place, "other") as other,
        device.register(place / "tree", STATES) as task,
        Debug() as shell,
    ):
        path = fill(other / "file", 1)
        for word in ("set", "reset", "check", "getpath"):
            said = shell.refused(word, task.id, path)
            assert f"{path} is on another file system" in said
            assert f"{place}/tree, which task {task.id} watches" in said
        assert list(task.marked()) == []


def test_on_a_terminal(device: Device, place: Path, tmp_path: Path) -> None:
    """Tab completes what the driver knows, lines come back, and errors do not end it."""
    path = fill(place / "tree/one file", 3)
    prompt = "duet> "
    with device.register(place / "tree", STATES) as task:
        with terminal(*DEBUG, XDG_STATE_HOME=str(tmp_path)) as there:
            there.until(prompt)
            there.type(f"set \t{place}/tree/o\t\n")
            assert f"set {task.id} {place}/tree/one\\ file" in there.until("marked done")
            there.until(prompt)
            assert list(task.marked()) == [identity(path)]
            there.type("read \t\n")
            assert f"read {task.id}" in there.until("only who holds its descriptor can read it")
            there.until(prompt)
            there.type("stop")
            there.until("stop")  # readline has it
            there.interrupt()
            there.until(prompt)
            there.type(f"register {place}/t\t exi\t\n")
            assert f"register {place}/tree/ exists" in there.until("\n2")
            there.until(prompt)
            assert [one.id for one in device.tasks()] == [1, 2]
            there.type("\x04")
            assert there.wait() == 0
        assert [one.id for one in device.tasks()] == [1]
        with terminal(*DEBUG, XDG_STATE_HOME=str(tmp_path)) as there:
            there.until(prompt)
            there.type("\x10\n")
            there.until(f"register {place}/tree/ exists")
            there.until("\n2")
            there.type("quit\n")
            assert there.wait() == 0
    assert (tmp_path / "duet/history").stat().st_mode & 0o777 == 0o600
