# SPDX-License-Identifier: MIT
"""pyduet.cluster.dask on a real scheduler and real workers, which are threads of this process."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, LocalCluster, get_worker
from kept import kept

from pyduet.cluster.dask import TOPIC, ResidencyPlugin, opportunistic_map
from pyduet.cluster.news import Message
from pyduet.cluster.pick import Why
from pyduet.cluster.stores import Plain

WORKERS = 3


@pytest.fixture
def client() -> Iterator[Client]:
    """Three workers with a thread each."""
    with (
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=False,
            dashboard_address=None,
            silence_logs=40,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def addresses(client: Client) -> list[str]:
    return sorted(client.scheduler_info(n_workers=-1)["workers"])


def say(client: Client, host: str, number: int, gained: list[str], lost: list[str]) -> None:
    """Say it as a worker does."""
    message = Message(host=host, run="r", number=number, whole=not number, gained=gained, lost=lost)
    client.log_event(TOPIC, message)


#: What note() and at_the_second_time() ran for: the workers are threads of this process.
RAN: list[str] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


def note(block: str) -> str:
    time.sleep(0.05)
    RAN.append(block)
    return block


def at_the_second_time(block: str) -> str:
    RAN.append(block)
    if RAN.count(block) < 2:
        raise OSError("not yet")
    return block


def where(block: str) -> tuple[str, str]:
    return block, get_worker().address


def slowly(block: str) -> tuple[str, str]:
    time.sleep(0.05)
    return where(block)


def test_blocks_run_where_they_are_resident_and_first(client: Client) -> None:
    hosts = addresses(client)
    blocks = {str(number): [hosts[number % WORKERS]] for number in range(30)}
    # Each holds four of which others have the replicas, and that are the last of all.
    held = {hosts[n]: [str(26 + (n + 1) % WORKERS - 3 * k) for k in range(4)] for n in range(3)}
    for host, some in held.items():
        say(client, host, 0, some, [])
    done = list(opportunistic_map(client, slowly, blocks, depth=1))
    assert sorted(int(one.block) for one in done) == list(range(30))
    ran = dict(one.future.result() for one in done)
    assert {block: ran[block] for some in held.values() for block in some} == {
        block: host for host, some in held.items() for block in some
    }
    for host in hosts:
        own = [one for one in done if one.worker == host]
        # Its own first, and no other of which it has no replica while there are such.
        assert [one.why for one in own[:4]] == [Why.RESIDENT] * 4
        assert all(ran[one.block] == host for one in own)
    local = [one for one in done if one.why is Why.LOCAL]
    assert local
    assert all(one.worker == hosts[int(one.block) % WORKERS] for one in local)


def test_what_is_said_while_it_runs_counts(client: Client) -> None:
    hosts = addresses(client)
    blocks = {str(number): [hosts[0]] for number in range(40)}
    order = []
    for done in opportunistic_map(client, slowly, blocks, depth=1):
        order.append((done.block, done.why, done.worker))
        if len(order) == 3:
            # No task is given out meanwhile.
            say(client, hosts[1], 0, ["38", "39"], [])
            while not client.get_events(TOPIC):
                time.sleep(0.01)
            time.sleep(1)
    resident = [one for one in order if one[1] is Why.RESIDENT]
    assert {one[0] for one in resident} == {"38", "39"}
    assert {one[2] for one in resident} == {hosts[1]}


def test_a_worker_that_goes_has_its_blocks_read_by_others(client: Client) -> None:
    hosts = addresses(client)
    say(client, hosts[2], 0, [str(number) for number in range(40)], [])
    ran = {}
    for done in opportunistic_map(client, slowly, {str(n): [hosts[2]] for n in range(40)}):
        block, worker = done.future.result()
        ran[block] = worker
        if len(ran) == 5:
            client.retire_workers([hosts[2]])
    assert len(ran) == 40
    assert hosts[2] in ran.values()
    assert {*ran.values()} > {hosts[2]}


def test_a_task_that_fails_is_told_with_its_error(client: Client) -> None:
    hosts = addresses(client)

    def fail(block: str) -> str:
        if block == "3":
            raise ValueError("block 3 is bad")
        return block

    done = {
        one.block: one.future
        for one in opportunistic_map(client, fail, {str(n): hosts for n in range(6)})
    }
    assert [done[str(n)].result() for n in range(6) if n != 3] == ["0", "1", "2", "4", "5"]
    with pytest.raises(ValueError, match="block 3 is bad"):
        done["3"].result()


def test_a_task_is_tried_again(client: Client) -> None:
    [done] = opportunistic_map(client, at_the_second_time, {"b": []}, retries=1)
    assert done.future.result() == "b"
    assert RAN == ["b", "b"]


def test_names_that_match_no_worker_are_said(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Blocks named by one name of a host, and workers by another: nothing would be local."""
    done = list(opportunistic_map(client, where, {"b": ["dn1.example"]}))
    assert [one.why for one in done] == [Why.COLD]
    assert "no worker is named dn1.example" in caplog.text
    assert addresses(client)[0] in caplog.text


def test_who_stops_in_the_midst_cancels_the_rest(client: Client) -> None:
    blocks = {str(number): addresses(client) for number in range(50)}
    found = opportunistic_map(client, note, blocks)
    next(found)
    found.close()
    before = len(RAN)
    time.sleep(0.3)
    # What ran, or was just about to, goes on to its end.
    assert before <= len(RAN) <= before + 2 * WORKERS < 50


def test_no_depth(client: Client) -> None:
    with pytest.raises(ValueError, match="depth is 0"):
        opportunistic_map(client, where, {}, depth=0)


def test_workers_say_what_is_in_memory(client: Client, tmp_path: Path) -> None:
    """Without Duet: by looking."""
    for name in ("in", "out"):
        (tmp_path / name).write_bytes(bytes(40960))
    store = Plain(tmp_path, 40960)
    plugin = ResidencyPlugin(tmp_path, store, interval=0.1, look=0.1, device=tmp_path / "none")
    with kept(tmp_path / "in"):
        client.register_plugin(plugin)
        end = time.monotonic() + 60
        said: set[str] = set()
        while len(said) < WORKERS:
            assert time.monotonic() < end, said
            said = {
                message["host"]
                for _, message in client.get_events(TOPIC)
                if "in#0" in message["gained"]
            }
            time.sleep(0.05)
        done = next(opportunistic_map(client, where, {"out#0": [], "in#0": []}, depth=1))
    assert (done.block, done.why) == ("in#0", Why.RESIDENT)
