#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What the packages bring along of PyPI, because Debian does not have it, or too old.

    bundled.py library | screen      the requirements, of pyproject.toml, one a line
    bundled.py check DIRECTORY...    whether what was installed there may be, and can be

Each of these is in debian/copyright, with its licence, or the build fails.
"""

import re
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

DEBIAN = Path(__file__).resolve().parent
# What python3-pyduet and duet-tui have from Debian, by Depends.
FROM_DEBIAN = {"argcomplete", "prometheus-client", "pyudev", "rich"}


def requirements(kind: str) -> list[str]:
    """What pyproject.toml requires for the library and its command, or for the screen."""
    project = tomllib.loads((DEBIAN.parent / "pyproject.toml").read_text())["project"]
    found = {
        "library": project["dependencies"],
        "screen": project["optional-dependencies"]["tui"],
    }[kind]
    return [one for one in found if re.split(r"[^\w-]", one)[0] not in FROM_DEBIAN]


def check(directories: list[str]) -> None:
    """Look for what has no licence here, and for what is made for one version of Python."""
    licensed = (DEBIAN / "copyright").read_text()
    for found in distributions(path=directories):
        if f"/{found.name.lower().replace('_', '-')} " not in licensed:
            sys.exit(f"bundled.py: {found.name} is bundled, and not in debian/copyright")
    for directory in directories:
        for path in Path(directory).rglob("*.so"):
            sys.exit(f"bundled.py: {path} is not for every Python, nor every processor")


if __name__ == "__main__":
    if sys.argv[1] == "check":
        check(sys.argv[2:])
    else:
        print(*requirements(sys.argv[1]), sep="\n")
