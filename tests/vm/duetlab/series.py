# SPDX-License-Identifier: GPL-2.0-only
"""The list of kernels, kernels.toml."""

import tomllib
from dataclasses import dataclass

from .errors import UsageError
from .host import LAB_DIR


@dataclass(frozen=True)
class Series:
    """One line of kernels.toml."""

    name: str
    suites: tuple[str, ...]
    image: str
    build: str | None = None


def all_series() -> list[Series]:
    """Every series of the list, in its order."""
    with open(LAB_DIR / "kernels.toml", "rb") as handle:
        lines = tomllib.load(handle)["kernel"]
    return [
        Series(line["series"], tuple(line["suites"]), line["image"], line.get("build"))
        for line in lines
    ]


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
