# SPDX-License-Identifier: MIT
"""The model that docs/cluster.md is of: it is a cache, and the policy is worth something in it."""

import pytest
from clusterbench.simulate import SCHEDULERS, Shape, simulate


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_every_block_is_read_once_by_each_job(name: str, overlap: float) -> None:
    shape = Shape(blocks=60, overlap=overlap, jobs=3, second=0.5)
    result = simulate(shape, name)
    assert result.reads == 180
    # The first who reads a block, of which some are of all three jobs, finds it nowhere.
    assert result.hits <= 2 * 60 * overlap


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_fits_is_read_once(name: str) -> None:
    assert simulate(Shape(blocks=60, ratio=0.5), name).rate == 0.5


@pytest.mark.parametrize("name", ["default", "hash"])
def test_what_does_not_fit_is_gone_when_it_is_read_again(name: str) -> None:
    assert simulate(Shape(ratio=2), name).hits == 0


@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("second", [1.0, 0.5, 0.25])
def test_the_policy_gets_what_who_knows_all_gets(second: float, replicas: int) -> None:
    """Nine tenths of what the oracle gains over the default, with data of twice the memory."""
    default, late, oracle = (
        simulate(Shape(second=second, replicas=replicas), name).hits
        for name in ("default", "late", "oracle")
    )
    assert late - default >= 0.9 * (oracle - default) > 0


@pytest.mark.parametrize("second", [1.0, 0.25, 0.0])
def test_without_overlap_it_costs_nothing(second: float) -> None:
    default, late = (
        simulate(Shape(overlap=0, second=second), name) for name in ("default", "late")
    )
    assert (late.reads, late.hits) == (default.reads, default.hits) == (480, 0)
    assert late.seconds <= 1.02 * default.seconds


def test_the_longest_held_first_would_chase_what_is_evicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why the policy picks what was held last: news of a memory is a moment old."""
    monkeypatch.setattr("pyduet.cluster.pick.reversed", iter, raising=False)
    assert simulate(Shape(), "late").hits == 0
    monkeypatch.undo()
    assert simulate(Shape(), "late").rate == 0.25
