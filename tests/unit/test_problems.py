# SPDX-License-Identifier: MIT
"""Problems: each path once, all of them counted, and none in memory."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyduet.maintenance.frame import problems as problems_module
from pyduet.maintenance.frame.problems import Problems
from pyduet.maintenance.work import Problem, Trouble

PASSING = (Trouble.VANISHED, Trouble.UNSTABLE)
PATHS = st.sampled_from(
    ["", ".", "a", "b", "a/b", "b/a", "a/b/\udcff\n", "a/b/c", "/", "/a", "/a/b", "/a//b", "h:/a"]
)
PROBLEMS = st.builds(Problem, PATHS, st.sampled_from(Trouble), st.sampled_from(["x", "\udcff"]))
STEPS = st.one_of(
    st.tuples(st.sampled_from(["see", "name"]), PROBLEMS),
    st.tuples(st.just("forgive"), PATHS),
    st.just(("look_again",)),
    st.just(("clear",)),
)


@given(st.lists(STEPS))
def test_each_path_is_named_once(steps: list[tuple[object, ...]]) -> None:
    seen: dict[str, Problem] = {}
    named: dict[str, Problem] = {}
    problems = Problems()
    for step in steps:
        getattr(problems, str(step[0]))(*step[1:])
        match step:
            case "see", Problem() as one:
                if one.path not in named:
                    seen.setdefault(one.path, one)
            case "name", Problem() as one:
                seen.pop(one.path, None)
                named.setdefault(one.path, one)
            case "forgive", str() as path:
                for kept in (seen, named):
                    if path in kept and kept[path].trouble in PASSING:
                        del kept[path]
            case what, *_:
                seen.clear()
                if what == "clear":
                    named.clear()
        assert len(problems) == len(seen) + len(named)
        for path in {one.path for _, *some in steps for one in some if isinstance(one, Problem)}:
            is_final = path in named and named[path].trouble not in PASSING
            assert problems.is_final(path) == is_final
    listed = problems.first(100)
    assert sorted(listed) == sorted((*seen.values(), *named.values()))
    assert problems.first(2) == listed[:2]
    problems.close()


def test_many_with_long_paths_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As somebody makes them who wants them to: at the end of a path as long as may be."""
    monkeypatch.setattr(problems_module, "_BYTES", 1 << 20)
    directory = "/".join(["n" * 255] * 32)
    problems = Problems()
    tracemalloc.start()
    try:
        for number in range(20_000):
            problems.see(Problem(f"{directory}/{number}", Trouble.FAILED, "Input/output error"))
            problems.name(Problem(f"{directory}/{number}/b", Trouble.FAILED, "Input/output error"))
        some = problems.first(10_000)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert len(problems) == 40_000
    # Fewer than that, for their length.
    assert len(some) == (1 << 20) // (len(directory) + len("/1234/b") + len("Input/output error"))
    (pages,), (size,) = (
        problems._data.execute(f"pragma {name}").fetchone() for name in ("page_count", "page_size")
    )
    assert pages * size < 40_000 * 300
    problems.look_again()
    assert len(problems) == 20_000
    problems.close()
