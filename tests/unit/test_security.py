# SPDX-License-Identifier: MIT
"""SECURITY.md: each sentence has a test, which exists, and the documents lead to it."""

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
NAME = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def rows() -> list[tuple[str, str]]:
    """Return the sentences and what is said of their tests."""
    lines = (TOP / "SECURITY.md").read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return [(sentence, tests) for sentence, tests in cells if sentence != "what is so"]


def functions(name: str) -> set[str]:
    """Return the functions of a file of the driver's tests."""
    tree = ast.parse((TOP / "tests/kernel" / name).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_each_sentence_has_a_test_that_exists() -> None:
    assert len(rows()) > 20
    for sentence, tests in rows():
        assert sentence.endswith("."), sentence
        named = NAME.findall(tests)
        assert named, sentence
        assert tests == ", ".join(f"`{file}::{function}`" for file, function in named), sentence
        for file, function in named:
            assert function in functions(file), f"{file}::{function}"


@pytest.mark.parametrize("document", ["README.md", "docs/administration.md", "docs/limits.md"])
def test_it_can_be_found(document: str) -> None:
    place = "SECURITY.md" if document == "README.md" else "../SECURITY.md"
    assert f"]({place})" in (TOP / document).read_text()


def test_it_names_nobody() -> None:
    text = (TOP / "SECURITY.md").read_text()
    assert "@" not in text
    assert "http" not in text
