# SPDX-License-Identifier: MIT
"""What programs are built with: the numbers and layouts of a UAPI header, and what breaks them.

As a program it writes tests/data/abi.json anew: ``make abi``.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

TOP = Path(__file__).parents[1]
HEADER = TOP / "driver" / "uapi" / "duet.h"
SNAPSHOT = TOP / "tests" / "data" / "abi.json"

#: Not stable, as the header says: they may go, or change.
UNSTABLE = {
    "duet_table",
    "duet_node_info",
    "DUET_CHAIN_LENGTHS",
    "DUET_IOC_TABLE",
    "DUET_IOC_DUMP_NODES",
}
#: Structures that cannot grow: the published ones, and those that arrays and streams are made of.
FIXED = {
    "duet_uuid",
    "duet_item",
    "duet_task_attrs",
    "duet_ioctl_status_args",
    "duet_ioctl_init_args",
    "duet_ioctl_bmap_args",
    "duet_ioctl_gpath_args",
    "duet_file_ref",
}
#: Numbers that say how far this header goes.
OPEN = {"DUET_ABI_VERSION"}
#: Fields whose bytes are there for what comes.
SPARE = re.compile(r"reserved|pad\d*")

#: In a call's number: the size of its structure.
_SIZE = 0x3FFF << 16


@dataclass
class Structure:
    """One structure: its size, and of each field offset and size."""

    size: int
    fields: dict[str, list[int]]


@dataclass
class Abi:
    """What a header fixes: constants by their names, structures by theirs."""

    constants: dict[str, int]
    structures: dict[str, Structure]

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Self:
        """Return what :func:`dataclasses.asdict` made it of."""
        structures = {name: Structure(**one) for name, one in data["structures"].items()}
        return cls(constants=data["constants"], structures=structures)


def text_of(header: str) -> str:
    """Return a header without its comments."""
    return re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)


def constants_of(header: str) -> set[str]:
    """Return the names of a header's numbers, those of its enumerations included."""
    text = text_of(header)
    found = set(re.findall(r"^#define\s+(DUET_\w+)[ \t]+\S", text, re.MULTILINE))
    for body in re.findall(r"^enum \w+ \{(.*?)^\};", text, re.DOTALL | re.MULTILINE):
        found |= set(re.findall(r"DUET_\w+", body))
    return found


def fields_of(header: str) -> dict[str, list[str]]:
    """Return of each structure its fields, those of unions in it included."""
    return {
        name: re.findall(r"(\w+)(?:\[[^\]]+\])?;", body)
        for name, body in re.findall(
            r"^struct (\w+) \{(.*?)^\};", text_of(header), re.DOTALL | re.MULTILINE
        )
    }


def compiled(header: str, expressions: list[str]) -> dict[str, int]:
    """Return what the machine's C compiler makes of expressions behind a header."""
    prints = "\n".join(
        f'printf("%s\\t%llu\\n", "{text}", (unsigned long long)({text}));' for text in expressions
    )
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "duet.h").write_text(header)
        source, program = Path(directory) / "abi.c", Path(directory) / "abi"
        source.write_text(
            "#include <stddef.h>\n#include <stdio.h>\n"
            f'#include "duet.h"\nint main(void) {{ {prints} return 0; }}\n'
        )
        subprocess.run(
            ["cc", "-Wall", "-Wpedantic", "-Wpadded", "-Werror", "-o", program, source], check=True
        )
        output = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {text: int(value) for text, value in (line.split("\t") for line in output.splitlines())}


def abi_of(header: str) -> Abi:
    """Return what a header fixes, as the machine's C compiler sees it."""
    constants, fields = sorted(constants_of(header)), fields_of(header)
    expressions = list(constants)
    for name, names in fields.items():
        expressions.append(f"sizeof(struct {name})")
        for field in names:
            expressions.append(f"offsetof(struct {name}, {field})")
            expressions.append(f"sizeof(((struct {name} *)0)->{field})")
    values = compiled(header, expressions)
    structures = {
        name: Structure(
            values[f"sizeof(struct {name})"],
            {
                field: [
                    values[f"offsetof(struct {name}, {field})"],
                    values[f"sizeof(((struct {name} *)0)->{field})"],
                ]
                for field in names
            },
        )
        for name, names in fields.items()
    }
    return Abi({name: values[name] for name in constants}, structures)


def breaks(old: Abi, new: Abi) -> list[str]:
    """Return what of a header would break programs that were built with an older one, in words."""
    found = []
    for name, value in old.constants.items():
        if name in UNSTABLE | OPEN:
            continue
        now = new.constants.get(name)
        if now is None:
            found.append(f"{name} is gone")
        elif name.startswith("DUET_IOC_") and value & 0xFF >= 0x10:
            # The size in it is the structure's, which may grow.
            if now & ~_SIZE != value & ~_SIZE:
                found.append(f"{name} is {now:#x} and was {value:#x}")
        elif now != value:
            found.append(f"{name} is {now:#x} and was {value:#x}")
    for name, structure in old.structures.items():
        if name in UNSTABLE:
            continue
        if name not in new.structures:
            found.append(f"struct {name} is gone")
        else:
            found += _breaks_of(name, structure, new.structures[name])
    return found


def _breaks_of(name: str, old: Structure, new: Structure) -> list[str]:
    found = []
    if new.size < old.size:
        found.append(f"struct {name} has {new.size} bytes and had {old.size}")
    elif name in FIXED and new.size != old.size:
        found.append(f"struct {name} has {new.size} bytes; it cannot have other than {old.size}")
    for field, place in old.fields.items():
        if SPARE.fullmatch(field):
            continue
        now = new.fields.get(field)
        if now is None:
            found.append(f"{name}.{field} is gone")
        elif now != place:
            found.append(
                f"{name}.{field} is at {now[0]} with {now[1]} bytes, "
                f"and was at {place[0]} with {place[1]}"
            )
    return found


def snapshot() -> Abi:
    """Return what tests/data/abi.json says."""
    return Abi.of_json(json.loads(SNAPSHOT.read_text()))


def released() -> tuple[str, str] | None:
    """Return the last tag before this commit, and its header; None where git knows of none."""
    described = _git("describe", "--tags", "--abbrev=0")
    if not described:
        return None
    tag = described.strip()
    header = _git("show", f"{tag}:{HEADER.relative_to(TOP)}")
    return (tag, header) if header else None


def _git(*words: str) -> str:
    """Return what git says; empty where there is none, or no repository, or not what is asked."""
    command = ["git", "-c", f"safe.directory={TOP}", "-C", str(TOP), *words]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> None:
    """Write the snapshot anew, and say what would break programs of before."""
    now = abi_of(HEADER.read_text())
    broken = breaks(snapshot(), now) if SNAPSHOT.exists() else []
    SNAPSHOT.write_text(json.dumps(asdict(now), indent=1) + "\n")
    for one in broken:
        print(f"breaks: {one}", file=sys.stderr)


if __name__ == "__main__":
    main()
