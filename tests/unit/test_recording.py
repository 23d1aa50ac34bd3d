# SPDX-License-Identifier: MIT
"""Recordings: a real one, made in the lab by tests/data/make_recording.py, and broken ones."""

import asyncio
import dataclasses
import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schema
from asleep import wait_until_asleep

from pyduet import (
    DriverInfo,
    FileId,
    Mask,
    NodeInfo,
    PathNotFoundError,
    State,
    TableInfo,
    Tally,
    TaskInfo,
)
from pyduet._driver import abi
from pyduet._text.jsonable import from_jsonable, to_jsonable
from pyduet.recording import (
    RecordedStream,
    Recorder,
    Recording,
    RecordingError,
    ReplayedDevice,
    ReplayedStream,
)

FILE = Path(__file__).parents[1] / "data/first_light.jsonl"
LINES = FILE.read_text().splitlines()
RECORDING = Recording.load(FILE)


@pytest.mark.parametrize("number", range(len(LINES)))
def test_the_real_one_is_of_the_schema(number: int) -> None:
    schema.check("recording", json.loads(LINES[number]))


def test_the_schema_refuses_what_is_none() -> None:
    for line in ({}, {"t": 1}, {"t": 1, "items": [[1, 2, 3]]}, {"t": -1, "paths": []}):
        with pytest.raises(jsonschema.ValidationError):
            schema.check("recording", line)


def test_what_it_tells() -> None:
    """At its end the sums are what make_recording.py did."""
    assert (RECORDING.name, RECORDING.path) == ("recorded", "/mnt/duet/library")
    assert RECORDING.mask == Mask.EXISTS | Mask.MODIFIED
    stream, tally = ReplayedStream(RECORDING, speed=0), Tally(RECORDING.mask, pages=True)
    tally.apply(stream.events())
    cached = {stream.path_of(file): len(tally.cached(file)) for file in tally.cached_files()}
    assert cached == {
        "/mnt/duet/library/novels/0.txt": 1,
        "/mnt/duet/library/novels/1.txt": 2,
        "/mnt/duet/library/novels/2.txt": 5,
        "/mnt/duet/library/novels/4.txt": 17,  # moved later: the path it had first
        "/mnt/duet/library/novels/5.txt": 26,
        "/mnt/duet/library/maps/5.txt": 2,
        "/mnt/duet/library/ünïcode/2.txt": 10,
    }
    dirty = {stream.path_of(file): tally.dirty(file) for file in tally.cached_files()}
    assert dirty["/mnt/duet/library/maps/5.txt"] == set()
    assert dirty["/mnt/duet/library/ünïcode/2.txt"] == set(range(5, 15))


def test_the_state_of_the_driver() -> None:
    device = ReplayedDevice(RECORDING, speed=0)
    assert {task.name: task.path for task in device.tasks()} == {
        "recorded": "/mnt/duet/library",
        "backup": "/mnt/duet/library/maps",
    }
    assert device.info().on
    assert device.hooks() == dict.fromkeys(
        ("added", "removed", "dirtied", "flushed", "evicted"), "alive"
    )
    nodes = list(device.nodes())
    assert nodes
    assert device.table().nodes == device.info().nodes
    for node in nodes:
        assert [one for one in device.nodes(node.bucket, node.bucket + 1) if one == node]
    # The first sample, at its pace: the second comes after a day.
    assert ReplayedDevice(RECORDING, speed=1e-5).info().files == 0


def test_it_keeps_its_pace() -> None:
    begin = time.monotonic()
    stream = ReplayedStream(RECORDING, speed=4)
    assert len([*stream.events()]) == len([*ReplayedStream(RECORDING, speed=0).events()])
    assert time.monotonic() - begin >= RECORDING.batches[-1][0] / 4


def test_it_ends_with_the_timeout() -> None:
    assert [*ReplayedStream(RECORDING, speed=0.001).events(timeout=0.1)] == []


def test_a_part_of_a_batch() -> None:
    whole = [row for _, batch in RECORDING.batches for row in batch.rows()]
    for size in (1, 2, 1000):
        stream = ReplayedStream(RECORDING, speed=0)
        batches = list(stream.batches(max_items=size))
        assert max(map(len, batches)) <= size
        assert [row for batch in batches for row in batch.rows()] == whole


def test_close_wakes_who_waits() -> None:
    stream = ReplayedStream(RECORDING, speed=1e-6)
    thread = threading.Thread(target=lambda: list(stream.events()))
    thread.start()
    assert thread.native_id
    wait_until_asleep(thread.native_id)
    stream.close()
    thread.join(60)
    assert not thread.is_alive()
    with pytest.raises(ValueError, match="the recording of /mnt/duet/library is closed"):
        stream.read()


def test_async_for() -> None:
    async def main() -> int:
        return sum([item.pages async for item in ReplayedStream(RECORDING, speed=20)])

    assert asyncio.run(main()) == sum(
        item.pages for item in ReplayedStream(RECORDING, speed=0).events()
    )


def test_recording_a_recording_gives_the_same() -> None:
    file = io.StringIO()
    stream = ReplayedStream(RECORDING, speed=0)
    recorder = Recorder(file, stream)
    recorded = RecordedStream(stream, recorder)
    told = [*recorded.events()]
    recorder.sample(ReplayedDevice(RECORDING, speed=0))
    again = Recording(io.StringIO(file.getvalue()))
    assert [*ReplayedStream(again, speed=0).events()] == told
    assert again.paths == RECORDING.paths
    assert again.samples[-1][1] == RECORDING.samples[-1][1]
    for line in file.getvalue().splitlines():
        schema.check("recording", json.loads(line))


def test_an_unknown_path() -> None:
    stream = ReplayedStream(RECORDING, speed=0)
    with pytest.raises(PathNotFoundError, match="no path of inode 1 "):
        stream.path_of(FileId(1, 2))
    assert stream.paths_of([FileId(1, 2)]) == {}


def test_lines_of_a_later_library_are_left_out() -> None:
    lines = [LINES[0], '{"t": 1, "weather": "fine"}', *LINES[1:]]
    assert len(Recording(lines).batches) == len(RECORDING.batches)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "line 1 .*empty"),
        (["nonsense"], "line 1 "),
        (["[]"], "line 1 "),
        (["{}"], "line 1 .*lacks 'duet'"),
        (['{"duet":"soup"}'], "line 1 .*something else"),
        (['{"duet":"recording","version":9}'], "version 9; this library reads 1"),
        ([LINES[0], "{}"], "line 2 .*lacks 't'"),
        ([LINES[0], '{"t":"noon"}'], "line 2 "),
        ([LINES[0], '{"t":1,"items":[[1,2]]}'], "line 2 "),
        ([LINES[0], '{"t":1,"items":[[1,2,3,4,5,["eaten"]]]}'], "'eaten' is no state"),
        ([LINES[0], '{"t":1,"items":[[1,2,300,4,5,["added"]]]}'], "is no item"),
        ([LINES[0], '{"t":1,"sample":{}}'], "Sample lacks hooks, info, nodes"),
        ([LINES[0], LINES[1][:50]], "line 2 "),
    ],
)
def test_what_is_no_recording(lines: list[str], words: str) -> None:
    with pytest.raises(RecordingError, match=words):
        Recording(lines)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecordingError, match=str(path)):
        Recording.load(path)


def test_without_samples_there_is_no_device() -> None:
    with pytest.raises(RecordingError, match="as root"):
        ReplayedDevice(Recording([LINES[0]]))


@pytest.mark.parametrize("kind", [DriverInfo, TaskInfo, TableInfo, NodeInfo])
def test_objects_and_json(kind: type[Any]) -> None:
    """Every field of every object of the real recording survives, and is in the schema."""
    names = {DriverInfo: "info", TaskInfo: "task", TableInfo: "table", NodeInfo: "node"}
    found = [
        value
        for _, sample in RECORDING.samples
        for value in (sample.info, sample.table, *sample.tasks, *sample.nodes)
        if isinstance(value, kind)
    ]
    assert found
    for value in found:
        data = json.loads(json.dumps(to_jsonable(value)))
        assert set(data) == {field.name for field in dataclasses.fields(value)}
        schema.check(names[kind], data)
        assert from_jsonable(kind, data) == value


def test_states_and_bytes() -> None:
    assert to_jsonable({"a": (State.ADDED | State.DIRTY, "\udcff")}) == {
        "a": [["added", "dirty"], "\udcff"]
    }
    assert json.loads(json.dumps(to_jsonable("\udcff"))) == "\udcff"


def test_what_an_old_recording_does_not_say() -> None:
    """It is of a driver that had less to say: what is new since then is 0 or empty."""
    data = to_jsonable(DriverInfo.of(abi.Info(max_tasks=8, page_shift=12, masks=1)))
    new = from_jsonable(DriverInfo, data)
    assert (new.max_tasks, new.page_size, new.masks) == (8, 4096, Mask.ADDED)
    for name in ("page_size", "features", "register_flags", "masks", "item_size"):
        del data[name]
    old = from_jsonable(DriverInfo, data)
    assert (old.max_tasks, old.page_size, old.features, old.masks) == (8, 0, (), Mask(0))


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (int, "1", "int is '1'"),
        (int, True, "int is True"),
        (Mask, ["added", "x"], "'x' is no mask"),
        (Mask, "added", "should be a list"),
        (TableInfo, {"buckets": 1}, "TableInfo lacks chains, longest, nodes"),
        (
            TableInfo,
            {"buckets": 1, "nodes": 1, "longest": 1, "chains": [1, "2"]},
            r"chains\[1\] is '2'",
        ),
    ],
)
def test_what_is_no_object(kind: type[Any], data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        from_jsonable(kind, data)
