# SPDX-License-Identifier: MIT
"""Who writes a task of their own meets no type in a signature that is not exported."""

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pyduet
from pyduet import maintenance

PUBLIC = {getattr(maintenance, name) for name in maintenance.__all__}
EXPORTED = PUBLIC | {getattr(pyduet, name) for name in pyduet.__all__}


def types_in(annotation: object) -> Iterator[type]:
    """Yield the classes that an annotation names, however deep."""
    parts = typing.get_args(annotation)
    if isinstance(annotation, type) and not parts:
        yield annotation
    for part in parts:
        # Of a Callable the arguments are a list.
        for one in part if isinstance(part, list) else [part]:
            yield from types_in(one)


def members(one: type) -> Iterator[tuple[str, type | Callable[..., Any]]]:
    """Yield what of a class is public and has annotations, itself and what it inherits too."""
    yield one.__name__, one
    for name, member in inspect.getmembers_static(one):
        if isinstance(member, property):
            member = member.fget
        elif isinstance(member, classmethod | staticmethod):
            member = member.__func__
        if inspect.isfunction(member) and (not name.startswith("_") or name.startswith("__")):
            yield f"{one.__name__}.{name}", member


def met() -> Iterator[tuple[str, type]]:
    """Yield the types of this project that signatures and attributes have, and where."""
    for one in PUBLIC:
        for where, member in members(one):
            for name, annotation in typing.get_type_hints(member).items():
                for found in types_in(annotation):
                    if found.__module__.partition(".")[0] == "pyduet":
                        yield f"{where}: {name}", found


def test_what_is_met_in_signatures_is_exported() -> None:
    assert {(where, found.__name__) for where, found in met() if found not in EXPORTED} == set()


def test_arguments_results_properties_and_attributes_are_looked_at() -> None:
    assert {
        ("Tree.is_gone: expected", maintenance.Identity),
        ("Tree.walk: trouble", maintenance.Problem),
        ("Tree.walk: return", maintenance.Found),
        ("Work.inode: return", maintenance.Identity),
        ("Progress: left_out", maintenance.LeftOut),
        ("Frame.__init__: ledger", maintenance.Ledger),
    } <= set(met())
