# SPDX-License-Identifier: MIT
"""pyduet.cluster.news: who listens knows what a host holds, or knows that he does not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyduet.cluster.blocks import Blocks
from pyduet.cluster.news import Announcer, Directory, Message
from pyduet.cluster.pick import Picker, Why


def host(name: str = "a") -> tuple[Blocks, Announcer]:
    blocks = Blocks(0)
    return blocks, Announcer(name, blocks)


def hold(blocks: Blocks, *names: str) -> None:
    for name in names:
        blocks.hold(name, name, 1, [range(1)])


def test_all_at_first_and_then_what_changed() -> None:
    blocks, announcer = host()
    hold(blocks, "x")
    first = announcer.message()
    hold(blocks, "y")
    blocks.gone("x")
    second = announcer.message()
    assert (first["whole"], first["gained"], first["lost"]) == (True, ["x"], [])
    assert (second["whole"], second["gained"], second["lost"]) == (False, ["y"], ["x"])
    assert (first["run"], first["number"]) == (second["run"], second["number"] - 1)
    directory = Directory()
    for message in (first, second):
        directory.hear(json.loads(json.dumps(message)))
    assert (directory.hosts, directory.held("a"), directory.held("b")) == (("a",), ("y",), ())


def test_who_missed_something_knows_nothing_until_all_is_said() -> None:
    blocks, announcer = host()
    directory = Directory()
    hold(blocks, "x")
    directory.hear(announcer.message())
    announcer.message()
    directory.hear(announcer.message())
    assert directory.hosts == ()
    while not directory.hosts:
        message = announcer.message()
        directory.hear(message)
        assert message["whole"] == bool(directory.hosts)
    assert directory.held("a") == ("x",)


def test_an_old_message_changes_nothing() -> None:
    blocks, announcer = host()
    directory = Directory()
    first = announcer.message()
    hold(blocks, "x")
    directory.hear(first)
    directory.hear(announcer.message())
    directory.hear(first)
    assert directory.held("a") == ("x",)


def test_a_program_that_began_anew_says_all() -> None:
    blocks, announcer = host()
    hold(blocks, "x")
    directory = Directory()
    directory.hear(announcer.message())
    again, other = host()
    hold(again, "y")
    directory.hear(other.message())
    assert directory.held("a") == ("y",)


def test_who_is_silent_for_too_long_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    blocks, announcer = host()
    hold(blocks, "x")
    directory = Directory(patience=3)
    picker = Picker({"x": ["b"]}, {"a": 1, "b": 1})
    directory.attach(picker)
    directory.hear(announcer.message())
    now += 3
    directory.expire()
    assert directory.held("a") == ("x",)
    now += 1
    directory.expire()
    assert directory.hosts == ()
    assert picker.pick("b") == ("x", Why.LOCAL)


def test_who_listens_is_told_what_is_known_and_no_more_when_he_went() -> None:
    blocks, announcer = host()
    hold(blocks, "x")
    directory = Directory()
    directory.hear(announcer.message())
    one, other = (Picker({"x": [], "y": []}, {"a": 1}) for _ in range(2))
    directory.attach(one)
    directory.attach(other)
    directory.detach(other)
    hold(blocks, "y")
    directory.hear(announcer.message())
    assert [one.pick("a") for _ in range(2)] == [("y", Why.RESIDENT), ("x", Why.RESIDENT)]
    assert [other.pick("a") for _ in range(2)] == [("x", Why.RESIDENT), ("y", Why.COLD)]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(("gain", "lose", "say", "miss", "say"))),
        max_size=80,
    )
)
def test_what_is_known_is_what_was_said_last(steps: list[tuple[str, str]]) -> None:
    """However much is missed: a host is known as it was when it last spoke, or not at all."""
    blocks, announcer = host("h")
    directory, last = Directory(), tuple[str, ...]()
    for block, what in steps:
        if what == "gain":
            hold(blocks, block)
        elif what == "lose":
            blocks.gone(block)
        else:
            message: Message = announcer.message()
            if what == "say":
                directory.hear(message)
                last = blocks.resident
        if directory.hosts and what == "say":
            assert set(directory.held("h")) == set(last)
