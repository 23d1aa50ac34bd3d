#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What Duet costs, and what its peers do: see docs/performance.md and ``bench.py --help``."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))

from duetbench.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
