#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How much I/O maintenance saves with Duet: see docs/io-saved.md and ``io_saved.py --help``."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from iosaved.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
