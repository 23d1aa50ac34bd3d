# SPDX-License-Identifier: MIT
"""What docs/ABI says of sysfs, in the kernel's own format for that, as a list in Markdown."""

import re
import textwrap

#: A simple table of reStructuredText, of two columns.
_TABLE = re.compile(r"^(=+ +)=+\n(.*?)^=+ +=+$", re.MULTILINE | re.DOTALL)


def definitions(text: str) -> str:
    """Return a definition list: the files, and what they say.

    Args:
        text: entries with ``What:`` (one or more) and ``Description:``.

    Raises:
        ValueError: an entry lacks one of them.

    """
    entries = re.split(r"\n\n(?=What:)", text.expandtabs().strip())
    return "\n".join(map(_definition, entries))


def _definition(entry: str) -> str:
    what = re.findall(r"^What: +(\S+)$", entry, re.MULTILINE)
    _, found, description = entry.partition("\nDescription:\n")
    if not what or not found:
        raise ValueError(f"no What: or no Description: in {entry[:60]!r}")
    term = "\\\n".join(f"`{path}`" for path in what)
    body = _TABLE.sub(_rows, _literal(textwrap.dedent(description)))
    return f"{term}\n\n:{textwrap.indent(body, '    ')[1:]}\n"


def _literal(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]])", r"\\\1", text)


def _rows(table: re.Match[str]) -> str:
    """Return a table as a list; a line without a term goes on with the one before."""
    width = len(table[1])
    lines = []
    for line in table[2].splitlines():
        term, words = line[:width].strip(), line[width:]
        lines.append(f"\n{term}\n:   {words}" if term else f"    {words}")
    return "\n".join(lines)
