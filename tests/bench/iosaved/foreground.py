# SPDX-License-Identifier: MIT
"""In the guest: somebody who uses files while a task runs. A program of its own: what it reads from
the disk is counted by the kernel.

usage: foreground.py DIRECTORY SHARE uniform|skewed PAUSE, with a path and a size a line on stdin
"""

import bisect
import itertools
import json
import os
import random
import sys
import time

#: Of Zipf's law, for the skewed load.
_EXPONENT = 1.0
_SEED = 77


def accesses(files: list[tuple[str, int]], share: float, kind: str) -> list[tuple[str, int]]:
    """Return which files are read, in order: all of such a share of the data, each or by fame."""
    dice = random.Random(_SEED)
    dice.shuffle(files)
    whole = sum(size for _, size in files) * share
    chosen = []
    for path, size in files:
        if whole < size / 2:
            break
        whole -= size
        chosen.append((path, size))
    if kind == "uniform":
        return chosen
    # As many reads as uniformly, some files often, some never.
    weights = list(itertools.accumulate(1 / (rank + 1) ** _EXPONENT for rank in range(len(chosen))))
    picks = (bisect.bisect(weights, dice.random() * weights[-1]) for _ in chosen)
    return [chosen[pick] for pick in picks]


def main() -> None:
    """Read, and tell what came of it: a line for each file, and one at the end."""
    root, share, kind, pause = sys.argv[1], float(sys.argv[2]), sys.argv[3], float(sys.argv[4])
    files = [(path, int(size)) for path, size in (line.split() for line in sys.stdin)]
    begin = time.monotonic()
    busy = 0.0
    for path, size in accesses(files, share, kind):
        start = time.monotonic()
        with open(os.path.join(root, path), "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
        busy += time.monotonic() - start
        print(json.dumps({"path": path, "size": size, "at": time.monotonic()}), flush=True)
        time.sleep(pause * size / (1 << 20))
    with open("/proc/self/io", encoding="ascii") as file:
        read = next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))
    end = {"read": read, "seconds": time.monotonic() - begin, "reading": busy}
    print(json.dumps(end), flush=True)


if __name__ == "__main__":
    main()
