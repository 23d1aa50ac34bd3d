# SPDX-License-Identifier: MIT
"""``build.py DIRECTORY``: writes the man pages there."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import command, device


def main(arguments: Sequence[str]) -> int:
    """Write the pages; return the exit code.

    Args:
        arguments: without the program's name.

    """
    parser = argparse.ArgumentParser(prog="build.py", description="Make the man pages of Duet.")
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="where they go")
    directory = parser.parse_args(arguments).directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, page in (("duet.4", device.page), ("duet.8", command.page)):
            (directory / name).write_text(page(), encoding="utf-8")
    except subprocess.CalledProcessError as error:
        print(f"man: {error.cmd[0]} failed, see above", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"man: {error}", file=sys.stderr)
        return 1
    return 0
