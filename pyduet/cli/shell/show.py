# SPDX-License-Identifier: MIT
"""Answers: what JSON has of them, and the lines for people."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar

from pyduet import FileId, Item, NodeInfo, State
from pyduet._text.names import printable

Row = Mapping[str, object]
_Thing = TypeVar("_Thing")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command answers; one of ``data`` and ``show`` is used, and once.

    Attributes:
        data: for JSON: an object, or several.
        show: prints the same for people.
        note: words for people, for stderr.

    """

    data: Row | Iterable[object]
    show: Callable[[], None] = lambda: None
    note: str = ""

    @classmethod
    def lines(cls, data: Row | Iterable[object], lines: Iterable[str], note: str = "") -> Self:
        """Return the answer that is shown as some lines."""
        return cls(data, lambda: _print(lines), note)

    @classmethod
    def of(
        cls,
        things: Iterable[_Thing],
        row: Callable[[_Thing], Row],
        line: Callable[[_Thing], str],
        note: str = "",
    ) -> Self:
        """Return the answer that is shown one thing a line, as they come."""
        return cls.lines(map(row, things), map(line, things), note)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def pairs(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the attributes of an object, one a line."""
    width = max(map(len, row))
    for name, value in row.items():
        yield f"{name:{width}}  {_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def file_row(file: FileId, path: str | None) -> Row:
    """Return a file as JSON has it; the path is null when there is none to be found."""
    return {"path": path, "ino": file.ino, "generation": file.generation}


def file_line(file: FileId, path: str | None) -> str:
    """Return a file as a line: its numbers, and its path if it has one."""
    return f"{file.ino}:{file.generation}  {printable(path or '')}".rstrip()


def item_row(item: Item, path: str | None) -> Row:
    """Return an item as JSON has it."""
    pages = {"index": item.index, "pages": item.pages, "state": item.state.names}
    return {**file_row(item.file, path), **pages}


def item_line(item: Item, path: str | None) -> str:
    """Return an item as a line: state, pages, and the path or else the numbers of its file."""
    pages = "?" if item.state & State.OVERFLOW else _run(item.index, item.end)
    where = f"({item.file.ino}:{item.file.generation})" if path is None else printable(path)
    return f"{','.join(item.state.names):16}  {pages:>13}  {where}"


def node_line(node: NodeInfo) -> str:
    """Return a node as a line; words without a bit are left out."""
    whose = f"task {node.task}" if node.task else "no task"
    queued = ["queued"] if node.queued else []
    words = {"cached": node.cached, "dirty": node.dirty, **node.bits._asdict()}
    runs = [f"{name} {_runs(node.index, word)}" for name, word in words.items() if word]
    start = f"{node.bucket:>8}  {node.ino}:{node.generation}  from {node.index}  {whose}"
    return "  ".join([start, *queued, *runs])


def _runs(first: int, word: int) -> str:
    """Return the runs of pages whose bits are set."""
    pages = {first + bit for bit in range(word.bit_length()) if word >> bit & 1}
    starts = sorted(page for page in pages if page - 1 not in pages)
    ends = sorted(page + 1 for page in pages if page + 1 not in pages)
    return ",".join(_run(*run) for run in zip(starts, ends, strict=True))


def _run(first: int, end: int) -> str:
    return f"{first}" if end == first + 1 else f"{first}-{end - 1}"
