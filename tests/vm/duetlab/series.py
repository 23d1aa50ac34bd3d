# SPDX-License-Identifier: MIT
"""The list of kernels, kernels.toml."""

import tomllib
from dataclasses import dataclass
from typing import Any

from .errors import UsageError
from .host import LAB_DIR


@dataclass(frozen=True)
class Series:
    """One line of kernels.toml."""

    name: str
    suites: tuple[str, ...]
    package: str
    build: str | None = None
    config: tuple[str, ...] = ()
    make: tuple[str, ...] = ()
    append: str = ""


def stock_series() -> list[Series]:
    """The series of Debian's own kernels, in the list's order."""
    return [
        Series(line["series"], tuple(line["suites"]), line["image"], line.get("build"))
        for line in _list("kernel")
    ]


def all_series() -> list[Series]:
    """Every series of the list, those that the lab builds last."""
    return stock_series() + [
        Series(
            line["series"],
            tuple(line["suites"]),
            line["source"],
            config=tuple(line["config"]),
            make=tuple(line["make"]),
            append=line["append"],
        )
        for line in _list("built")
    ]


def _list(name: str) -> list[dict[str, Any]]:
    """One of the lists of kernels.toml."""
    with open(LAB_DIR / "kernels.toml", "rb") as handle:
        lines: list[dict[str, Any]] = tomllib.load(handle)[name]
    return lines


def find_series(name: str | None) -> Series:
    """The series of that name, or the default one."""
    known = all_series()
    if name is None:
        return known[0]
    for series in known:
        if series.name == name:
            return series
    raise UsageError(
        f"unknown kernel series {name!r}; known: {', '.join(s.name for s in known)} "
        "(tests/vm/kernels.toml)"
    )
