# SPDX-License-Identifier: MIT
"""The library's frozen objects as what JSON knows, and back."""

import contextlib
import dataclasses
import enum
import functools
import json
import re
import types
import typing
from typing import Any, TypeVar

from pyduet._text.names import text_of
from pyduet.events import Mask, State

_Kind = TypeVar("_Kind")


def to_jsonable(value: Any) -> Any:
    """Return a value as dictionaries, lists, strings and numbers.

    Masks and states become lists of names, a string that is no UTF-8 keeps its
    bytes as lone surrogates, which JSON escapes.

    Args:
        value: an object of the library, or a container of such.

    """
    if isinstance(value, Mask | State):
        return value.names
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        return {name: to_jsonable(getattr(value, name)) for name in names}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: to_jsonable(one) for name, one in value._asdict().items()}
    if isinstance(value, dict):
        return {key: to_jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(one) for one in value]
    return value


def json_of(value: Any) -> str:
    """Return a value as a line of JSON, with paths that are the same in each locale.

    They are the UTF-8 of their bytes, see :func:`text_of`. Who reads the line does not know what
    else a locale has made of them.

    Args:
        value: as of :func:`to_jsonable`.

    """
    line = json.dumps(to_jsonable(value), ensure_ascii=False)
    with contextlib.suppress(UnicodeEncodeError):  # it has words that the locale has not
        line = text_of(line)
    return re.sub(r"[^\x00-\x7f]", lambda found: json.dumps(found[0])[1:-1], line)


def from_jsonable(kind: type[_Kind], data: Any) -> _Kind:
    """Return the object that :func:`to_jsonable` made ``data`` of.

    Args:
        kind: its class: a frozen dataclass, a NamedTuple or an enum of flags
            of this library, or a type of JSON.
        data: what JSON gave.

    Raises:
        ValueError: ``data`` is not of such an object; says which part of it.

    """
    return typing.cast(_Kind, _build(kind, data, kind.__name__))


def _build(kind: Any, data: Any, where: str) -> Any:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType or origin is typing.Union:
        known = [part for part in parts if part is not type(None)]
        return None if data is None else _build(known[0], data, where)
    if origin in (list, tuple):
        _expect(list, data, where)
        items = [_build(parts[0], one, f"{where}[{i}]") for i, one in enumerate(data)]
        return tuple(items) if origin is tuple else items
    if origin is dict:
        _expect(dict, data, where)
        return {key: _build(parts[1], one, f"{where}.{key}") for key, one in data.items()}
    if issubclass(kind, enum.Flag):
        _expect(list, data, where)
        return _flags(kind, data, where)
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        _expect(dict, data, where)
        hints = _hints(kind)
        if missing := hints.keys() - data.keys() - _optional(kind):
            raise ValueError(f"{where} lacks {', '.join(sorted(missing))}")
        values = {
            name: _build(hint, data[name], f"{where}.{name}")
            for name, hint in hints.items()
            if name in data
        }
        return kind(**values)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    _expect(kind, data, where)
    return data


@functools.cache
def _optional(kind: type) -> frozenset[str]:
    """Return the fields of a class that are said by no recording from before they were there."""
    if not dataclasses.is_dataclass(kind):
        return frozenset()
    given = (one for one in dataclasses.fields(kind) if one.default is not dataclasses.MISSING)
    return frozenset(one.name for one in given)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the types of a class's fields: to find them out costs more than to build it."""
    return typing.get_type_hints(kind)


def _flags(kind: type[enum.Flag], names: list[Any], where: str) -> enum.Flag:
    flags = kind(0)
    for name in names:
        try:
            flags |= kind[str(name).upper()]
        except KeyError:
            raise ValueError(f"{where}: {name!r} is no {kind.__name__.lower()}") from None
    return flags


def _expect(kind: type, data: Any, where: str) -> None:
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise ValueError(f"{where} is {data!r}, and should be a {kind.__name__}")
