# SPDX-License-Identifier: MIT
"""pyduet.cluster.pick: each block once, for the best reason there is, at a flat cost."""

import random
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyduet.cluster.pick import Choice, Picker, Why

HOSTS = ("a", "b", "c")


def picker(blocks: int = 6, places: int = 1, hosts: tuple[str, ...] = HOSTS) -> Picker[str]:
    """Return one whose block `n` has replicas at the nth host and the next."""
    replicas = {
        str(number): (hosts[number % len(hosts)], hosts[(number + 1) % len(hosts)])
        for number in range(blocks)
    }
    return Picker(replicas, dict.fromkeys(hosts, places))


def test_what_is_resident_comes_first_the_last_held_before_the_others() -> None:
    """What is held longest may be gone by now, and is picked last."""
    one = picker()
    one.gained("b", ["5", "2"])
    one.gained("b", ["0"])
    assert [one.pick("b") for _ in range(3)] == [
        Choice(block, Why.RESIDENT) for block in ("0", "2", "5")
    ]


def test_what_has_no_replica_there_may_be_resident_there() -> None:
    one = picker()
    one.gained("c", ["0"])
    assert one.pick("c") == ("0", Why.RESIDENT)


def test_cold_blocks_come_in_their_order_where_they_are_on_a_disk() -> None:
    one = picker(60)
    for host in HOSTS:
        choices = [one.pick(host) for _ in range(10)]
        blocks = [int(choice.block) for choice in choices if choice and choice.why is Why.LOCAL]
        assert len(blocks) == 10
        assert blocks == sorted(blocks)
        assert all(host in (HOSTS[block % 3], HOSTS[(block + 1) % 3]) for block in blocks)


def test_two_jobs_that_know_nothing_meet_at_the_same_hosts() -> None:
    """Whatever their other blocks are, and though neither has asked a directory."""
    one, other = picker(90), picker(60)
    homes = [{}, {}]
    for home, of in zip(homes, (one, other), strict=True):
        for _ in range(15):
            for host in HOSTS:
                choice = of.pick(host)
                assert choice
                home[choice.block] = host
    both = homes[0].keys() & homes[1].keys()
    assert len(both) > 30
    assert {block: homes[0][block] for block in both} == {block: homes[1][block] for block in both}


def test_without_a_replica_the_first_that_no_memory_holds() -> None:
    one = Picker({"x": ["a"], "y": ["a"], "z": ["a"]}, {"a": 1, "b": 1})
    one.gained("a", ["x"])
    assert one.pick("b") == ("y", Why.COLD)


def test_what_another_holds_is_left_to_it_while_it_comes_to_it_soon() -> None:
    one = Picker({str(number): ["a"] for number in range(9)}, {"a": 1, "b": 1})
    one.gained("a", map(str, range(9)))
    one.took(Why.RESIDENT, 1.0)
    one.took(Why.LOCAL, 4.0)
    assert one.patience == 4
    # a has nine to do: b helps with its last, until a needs no longer than b would for one.
    assert [one.pick("b") for _ in range(6)] == [
        *(Choice(str(number), Why.HELP) for number in range(5)), None,
    ]  # fmt: skip
    assert [one.pick("a") for _ in range(5)] == [
        *(Choice(str(number), Why.RESIDENT) for number in (8, 7, 6, 5)), None,
    ]  # fmt: skip


def test_what_was_lost_is_cold_again() -> None:
    one = picker(1)
    one.gained("a", ["0"])
    one.gained("b", ["0"])
    one.lost("a", ["0", "no block", "0"])
    assert one.pick("c") is None
    one.lost("b", ["0"])
    assert one.pick("c") == ("0", Why.COLD)


def test_a_list_of_all_takes_the_place_of_what_was_said() -> None:
    one = picker()
    one.holds("a", ["3", "4"])
    one.holds("a", ["4", "1"])
    assert one.pick("a") == ("1", Why.RESIDENT)
    assert one.pick("a") == ("4", Why.RESIDENT)
    assert one.pick("a") != ("3", Why.RESIDENT)


def test_a_host_that_is_gone_holds_nothing_and_has_nothing() -> None:
    one = Picker({"x": ["a"], "y": ["a", "b"]}, {"a": 1, "b": 1})
    one.gained("a", ["x", "y"])
    one.joined("a", 0)
    one.gained("a", ["x"])
    with pytest.raises(KeyError):
        one.pick("a")
    assert [one.pick("b") for _ in range(3)] == [("y", Why.LOCAL), ("x", Why.COLD), None]


def test_a_host_that_joins_is_picked_for() -> None:
    one = Picker({"x": ["a"], "y": ["b"]}, {"a": 1})
    one.joined("b", 2)
    assert one.pick("b") == ("y", Why.LOCAL)
    one.gained("b", ["x"])
    assert one.pick("b") == ("x", Why.RESIDENT)


def test_a_block_that_failed_comes_again() -> None:
    one = picker(1)
    choice = one.pick("a")
    assert choice
    assert (len(one), list(one), one.pick("b")) == (0, [], None)
    one.again(choice.block)
    one.again(choice.block)
    assert (len(one), list(one)) == (1, ["0"])
    assert one.pick("b") == ("0", Why.LOCAL)
    assert one.pick("b") is None


@st.composite
def stories(draw: st.DrawFn) -> list[tuple[str, str, list[str]]]:
    """Return what is told and asked: what, of which host, and blocks."""
    blocks = st.lists(st.integers(0, 14).map(str), max_size=6)
    step = st.tuples(
        st.sampled_from(("gained", "lost", "holds", "pick", "pick", "again", "joined", "gone")),
        st.sampled_from((*HOSTS, "stranger")),
        blocks,
    )
    return draw(st.lists(step, max_size=60))


@given(stories())
def test_each_block_is_picked_once_for_the_best_reason(
    steps: list[tuple[str, str, list[str]]],
) -> None:
    """Against a model that looks at everything."""
    one = picker(12)
    todo, held = {str(number) for number in range(12)}, {host: set[str]() for host in HOSTS}
    here = set(HOSTS)
    replicas = {str(n): {HOSTS[n % 3], HOSTS[(n + 1) % 3]} for n in range(12)}

    def check(host: str) -> None:
        choice = one.pick(host)
        anywhere = set().union(*(held[each] for each in here)) & todo
        cold = todo - anywhere
        local = {block for block in cold if host in replicas[block]}
        if choice is None:
            assert not cold
            assert not held[host] & todo
            return
        best = {
            Why.RESIDENT: held[host] & todo, Why.LOCAL: local, Why.COLD: cold, Why.HELP: anywhere,
        }  # fmt: skip
        assert choice.why is next(why for why, blocks in best.items() if blocks)
        assert choice.block in best[choice.why]
        todo.remove(choice.block)

    tell: dict[str, Callable[[str, list[str]], None]] = {
        "gained": one.gained, "lost": one.lost, "holds": one.holds,
    }  # fmt: skip
    for what, host, blocks in steps:
        known = host in here
        if what in tell:
            tell[what](host, blocks)
            if known:
                now = {block for block in blocks if block in todo}
                if what == "gained":
                    held[host] |= now
                elif what == "lost":
                    held[host] -= set(blocks)
                else:
                    held[host] = now
        elif what == "pick" and known:
            check(host)
        elif what == "again":
            for block in blocks:
                if block in replicas and block not in todo:
                    one.again(block)
                    todo.add(block)
                    for each in HOSTS:
                        held[each].discard(block)
        elif what == "joined" and host != "stranger":
            one.joined(host, 2)
            here.add(host)
        elif what == "gone" and host != "stranger" and len(here) > 1:
            one.joined(host, 0)
            here.discard(host)
            held[host] = set()
    assert set(one) == todo
    for _ in range(len(todo)):
        before = len(todo)
        for host in sorted(here):
            check(host)
        assert not before or len(todo) < before, "all hosts wait, and there is something to read"
    assert not todo


def steps_of(blocks: int, hosts: int) -> float:
    """Return how many lines of Python a pick runs, with all said of residency that there is."""
    names = tuple(f"h{number}" for number in range(hosts))
    rng = random.Random(7)
    one = picker(blocks, 4, names)
    for host in names:
        one.gained(host, [str(rng.randrange(blocks)) for _ in range(blocks // hosts // 2)])
    lines = picks = 0

    def trace(*_: object) -> Callable[..., object]:
        nonlocal lines
        lines += 1
        return trace

    sys.settrace(trace)
    try:
        for host in names * 3:
            picks += one.pick(host) is not None
    finally:
        sys.settrace(None)
    return lines / picks


def test_a_pick_costs_the_same_for_hundreds_of_hosts_and_many_blocks() -> None:
    assert steps_of(20_000, 400) < 1.5 * steps_of(200, 4)
