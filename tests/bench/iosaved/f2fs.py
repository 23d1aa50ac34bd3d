# SPDX-License-Identifier: MIT
"""In the guest: segments of an aged f2fs are cleaned, chosen with Duet or by f2fs itself."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyduet.maintenance.f2fs.segments import SEGMENT, segments_of
from pyduet.maintenance.files.mounts import mount_with_id
from pyduet.maintenance.files.tree import Tree

from .data import Data
from .foreground import accesses
from .runs import MOUNT, Disk, cold, say

#: Of the data, read just before.
_SHARES = (0.0, 0.25, 0.5, 0.75)
#: Who chooses, and what the command is told for it.
_CHOICES = {"own": ["--own-choice"], "duet": [], "both": ["--count-writes"]}
#: Segments that a run cleans.
_VICTIMS = 16
#: Of the files that are made, deleted; of the pieces of the others, written again.
_DELETED, _REWRITTEN = 0.4, 0.25
_PIECE = 128 << 10
_SEED = 1992


def choices(data: Data) -> Iterator[dict[str, Any]]:
    """Clean as many segments of the same state, in f2fs's order and in Duet's.

    Args:
        data: files that are not made yet; each run makes them anew.

    Raises:
        ValueError: a file is another afterwards, or two runs began with different states.
        RuntimeError: the cleaning failed.

    """
    first = None
    for share in _SHARES:
        for choice, options in _CHOICES.items():
            say(f"{share:.0%} in memory, choice: {choice}")
            left = Data(data.root, data.bytes)
            _make_aged(left)
            valid = _valid()
            first = first or valid
            if valid != first:
                raise ValueError("the segments are not filled as before the first run")
            in_memory = _read(left, share)
            yield {
                "share": share,
                "choice": choice,
                "data": left.bytes,
                "files": len(left.sizes),
                "in_memory": in_memory,
                "partly_valid": sum(0 < one < SEGMENT for one in valid),
                **_clean(left, options),
            }


def _make_aged(data: Data) -> None:
    """Make a new f2fs with the files, delete some, and write pieces of others elsewhere."""
    device = _device()
    subprocess.run(["umount", MOUNT], check=True)
    subprocess.run(["mkfs.f2fs", "-q", "-f", device], check=True, stdout=sys.stderr)
    options = "noatime,background_gc=off"
    subprocess.run(["mount", "-t", "f2fs", "-o", options, device, MOUNT], check=True)
    data.make()
    dice = random.Random(_SEED)
    for path in dice.sample(list(data.sizes), int(len(data.sizes) * _DELETED)):
        data.delete(path)
    pieces = [(path, at) for path, size in data.sizes.items() for at in range(0, size, _PIECE)]
    for path, at in dice.sample(pieces, int(len(pieces) * _REWRITTEN)):
        fd = os.open(data.root / path, os.O_RDWR)
        # What is in the file stays the same; f2fs writes nothing in place.
        os.pwrite(fd, os.pread(fd, _PIECE, at), at)
        os.fdatasync(fd)
        os.close(fd)
    cold()


def _device() -> str:
    with Tree(str(MOUNT)) as tree:
        mount = mount_with_id(tree.root.mount_id)
    if mount is None:
        raise ValueError(f"nothing is mounted at {MOUNT}")
    return mount.source


def _valid() -> list[int]:
    """Return how many blocks of each segment are valid."""
    name = os.path.basename(_device())
    text = Path(f"/proc/fs/f2fs/{name}/segment_info").read_text()
    return [one.valid for one in segments_of(text)]


def _read(data: Data, share: float) -> int:
    """Have such a share of the data in memory, whole files; return the bytes."""
    chosen = accesses(list(data.sizes.items()), share, "uniform")
    for path, _ in chosen:
        (data.root / path).read_bytes()
    return sum(size for _, size in chosen)


def _clean(data: Data, options: list[str]) -> dict[str, Any]:
    """Clean segments; return what that cost, once all files are found to be what they were."""
    begin, started = Disk.now(), time.monotonic()
    done = subprocess.run(
        [
            sys.executable, "-m", "pyduet", "run", "f2fs-gc", str(MOUNT), "--json",
            "--segments", str(_VICTIMS), "--no-give-way", *options,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - started
    os.sync()
    disk = Disk.now().since(begin)
    if done.returncode:
        raise RuntimeError(f"f2fs-gc: ended with {done.returncode}: {done.stderr}")
    last = json.loads(done.stdout.splitlines()[-1])
    cold()
    data.check_tree(data.root)
    return {
        "read": disk.read,
        "written": disk.written,
        "seconds": round(seconds, 1),
        "segments": last["segments_done"],
        "moved": last["blocks_moved"],
        "cached": last["blocks_cached"],
        "refused": last["refused"],
    }
