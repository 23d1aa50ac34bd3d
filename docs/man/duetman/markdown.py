# SPDX-License-Identifier: MIT
"""The tree's documents, as parts of a man page: a template says which."""

import re
from pathlib import Path

from . import sysfs

TOP = Path(__file__).resolve().parents[3]

#: How a row of a table, by its headers, is said in a list: 80 columns are few for a table.
_LAYOUTS = {
    ("call", "what it does", "who may"): "{0}\n:   {1}\n\n    *Who may:* {2}\n",
    ("errno", "from", "what it means"): "{0} ({1})\n:   {2}\n",
    ("event", "when", "what it says"): "{0}\n:   When {1}: {2}\n",
    ("command", "what it answers"): "{0}\n:   {1}\n",
}

_INCLUDE = re.compile(r"^<!-- include (\S+?)(?:: (.+))? -->$", re.MULTILINE)
_TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
_RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]*\)")


def filled(template: Path) -> str:
    """Return a template with what it includes of the tree.

    ``<!-- include docs/x.md: Heading -->`` stands for that section, without
    the heading for what comes before the first one, and with a file of
    ``docs/ABI`` for all of it.

    Args:
        template: Markdown.

    Raises:
        ValueError: there is no such section, or one that nobody knows how to
            set; says which.

    """
    return _INCLUDE.sub(
        lambda found: _part(TOP / found[1], found[2] or ""), template.read_text(encoding="utf-8")
    )


def included(template: Path) -> set[tuple[str, str]]:
    """Return which sections of which files a template includes."""
    return {(found[1], found[2] or "") for found in _INCLUDE.finditer(template.read_text())}


def sections(document: Path) -> dict[str, str]:
    """Return the sections of a document; what comes before the first heading has none."""
    first, *rest = re.split(r"^## ", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    named = (section.split("\n", 1) for section in rest)
    return {"": re.sub(r"\A(<!--.*-->\n)?# .*\n", "", first), **dict(named)}


def _part(document: Path, heading: str) -> str:
    if document.suffix != ".md":
        return sysfs.definitions(document.read_text(encoding="utf-8"))
    try:
        text = sections(document)[heading]
    except KeyError:
        raise ValueError(f"{document} has no section {heading!r}") from None
    return _TABLE.sub(lambda table: _as_list(table[0], document), _RELATIVE_LINK.sub(r"\1", text))


def _as_list(table: str, document: Path) -> str:
    headers, _, *rows = (
        tuple(cell.strip() for cell in line.strip("| ").split(" | ")) for line in table.splitlines()
    )
    if headers not in _LAYOUTS:
        raise ValueError(f"{document}: no layout for a table of {', '.join(headers)}")
    return "\n".join(_LAYOUTS[headers].format(*row) for row in rows)
