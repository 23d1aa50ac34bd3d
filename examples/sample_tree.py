#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Copy a bounded selection of this machine's real files, for the demo to work on.

usage: sample_tree.py DIRECTORY
"""

import itertools
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

#: Name in the copy, where from, and at most how many files; what does not exist is passed over.
SOURCES = [
    ("lib", "/usr/lib/x86_64-linux-gnu", 60),
    ("include", "/usr/include", 1200),
    ("python", os.path.dirname(os.__file__), 1000),
    ("doc", "/usr/share/doc", 800),
    ("zoneinfo", "/usr/share/zoneinfo", 400),
    ("share", "/usr/share", 4000),
]
SKIPPED = {"__pycache__", "site-packages", "test"}
MOST_FILES = 4000
MOST_BYTES = 80 << 20
LARGEST_FILE = 4 << 20


def regular_files(source: str) -> Iterator[tuple[Path, int]]:
    """Readable regular files below a directory in a fixed order, with their sizes."""
    for directory, subdirectories, names in os.walk(source):
        subdirectories[:] = sorted(name for name in subdirectories if name not in SKIPPED)
        for name in sorted(names):
            path = Path(directory, name)
            info = path.lstat()
            if stat.S_ISREG(info.st_mode) and os.access(path, os.R_OK):
                yield path, info.st_size


def main() -> None:
    target = Path(sys.argv[1])
    half_made = target.with_name(target.name + ".new")
    shutil.rmtree(half_made, ignore_errors=True)
    files = size = 0
    for name, source, most in SOURCES:
        wanted = (entry for entry in regular_files(source) if entry[1] <= LARGEST_FILE)
        for path, length in itertools.islice(wanted, most):
            if files == MOST_FILES or size + length > MOST_BYTES:
                break
            copy = half_made / name / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
            files, size = files + 1, size + length
    shutil.rmtree(target, ignore_errors=True)
    half_made.rename(target)
    print(f"{target}: {files} files, {size >> 20} MiB")


if __name__ == "__main__":
    main()
