#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""How long interrupts or preemption are off in Duet: see ``bounds.py --help``."""

import sys
from pathlib import Path

sys.dont_write_bytecode = True
_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent / "bench"), str(_HERE.parent.parent)]

from duetbounds.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
