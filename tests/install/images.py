#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Makes the systems of all releases, where the cache does not have them."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "vm")]

from duetinstall.image import image_of  # noqa: E402
from duetinstall.release import releases  # noqa: E402
from duetlab.errors import LabError  # noqa: E402

if __name__ == "__main__":
    try:
        for release in releases().values():
            image_of(release)
    except LabError as error:
        sys.exit(f"install: {error}")
