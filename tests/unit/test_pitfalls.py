# SPDX-License-Identifier: MIT
"""docs/pitfalls.md: the tests that it names exist, name a pitfall, and are all that do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).parents[2]


def listed() -> set[str]:
    """Return the tests that the document names, as file::function."""
    text = (TOP / "docs/pitfalls.md").read_text()
    return set(re.findall(r"`(test_\w+\.py::test_\w+)`", text))


def kernel_tests() -> Iterator[tuple[str, str]]:
    """Yield each test of the driver and its source."""
    for path in sorted((TOP / "tests/kernel").glob("test_*.py")):
        source = path.read_text()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.name}::{node.name}", ast.get_source_segment(source, node) or ""


def test_each_row_names_a_test() -> None:
    rows = [
        line
        for line in (TOP / "docs/pitfalls.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith(("| the defect", "| the demand"))
    ]
    assert len(rows) > 50
    assert [row for row in rows if not re.search(r"`test_\w+\.py::test_\w+`", row)] == []


def test_the_tests_exist_and_say_so() -> None:
    tests = dict(kernel_tests())
    assert listed() - tests.keys() == set()
    assert {name for name in listed() if "Pitfall" not in tests[name]} == set()


def test_no_test_is_left_out() -> None:
    assert {name for name, source in kernel_tests() if "Pitfall" in source} - listed() == set()
