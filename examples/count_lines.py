#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""A maintenance task of one's own: counts the lines below a directory, what is cached first.

usage: count_lines.py DIRECTORY
"""

import os
import sys

from pyduet.maintenance import Frame, Ledger, Maintenance, Options, Reading, Record


class CountLines(Maintenance):
    """Counts lines; remembers each file's, so that the next run reads only what has changed."""

    kind = "count-lines"
    always = False

    def process(self, reading: Reading, before: Record | None) -> int:
        """Count a file's."""
        lines = sum(piece.count(b"\n") for piece in reading.pieces())
        reading.check()  # else it is tried again
        return lines


root = os.path.realpath(sys.argv[1])
with Ledger("count-lines.ledger", CountLines.kind, root) as ledger:
    progress = Frame(CountLines(), root, ledger, Options()).run()
    total = sum(record.note for record in ledger.files())
for problem in progress.problems:
    print(f"{problem.path}: {problem.words}", file=sys.stderr)
print(f"{total:,} lines; {progress.bytes_cached:,} of {progress.bytes:,} bytes were in memory")
