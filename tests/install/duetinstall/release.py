# SPDX-License-Identifier: MIT
"""The releases of releases.toml."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

_LIST = Path(__file__).resolve().parent.parent / "releases.toml"


@dataclass(frozen=True)
class Release:
    """A Debian release: a line of releases.toml."""

    name: str
    suites: tuple[str, ...]
    first: str
    next: str
    works: bool


def releases() -> dict[str, Release]:
    """All of them, by name."""
    lines = tomllib.loads(_LIST.read_text())["release"]
    return {line["name"]: Release(**{**line, "suites": tuple(line["suites"])}) for line in lines}
