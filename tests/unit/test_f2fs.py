# SPDX-License-Identifier: MIT
"""What f2fs garbage collection is chosen by, without an f2fs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pyduet.maintenance.f2fs.cleaner import Cleaner
from pyduet.maintenance.f2fs.residents import spread
from pyduet.maintenance.f2fs.segments import (
    BLOCK,
    SEGMENT,
    Segment,
    Victim,
    choose,
    main_area,
    segments_of,
    superblock_of,
)
from pyduet.maintenance.files.extents import Extent, Flag

INFO = """format: segment_type|valid_blocks
segment_type(0:HD, 1:WD, 2:CD, 3:HN, 4:WN, 5:CN)
0         3|4   4|16  5|0   0|1   1|128 1|512 1|128 1|176 2|128 1|176
10        1|128 0|0  \n"""


def test_segment_info_is_read() -> None:
    segments = segments_of(INFO)
    assert len(segments) == 12
    assert segments[1] == Segment(kind=4, valid=16)
    assert segments[5] == Segment(kind=1, valid=512)
    assert segments[10:] == [Segment(1, 128), Segment(0, 0)]


@pytest.mark.parametrize("text", [INFO.replace("valid_blocks", "blocks"), INFO.replace("CD", "XX")])
def test_another_form_of_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not known"):
        segments_of(text)


def test_the_fewest_reads_come_first() -> None:
    """Then the fewest writes; a full segment, an empty one and one that is left do not come."""
    segments = [Segment(1, valid) for valid in (100, 300, 200, 0, 512, 300)]
    cached = {1: 290, 2: 100, 4: 512, 5: 400}
    chosen: list[Victim] = []
    while one := choose(segments, cached, but={victim.segment for victim in chosen}):
        chosen.append(one)
    # More may be counted as cached than is valid: old places.
    assert chosen == [(5, 300, 300), (1, 300, 290), (0, 100, 0), (2, 200, 100)]
    assert [one.reads for one in chosen] == [0, 10, 100, 100]
    assert choose(segments, cached, most_valid=150) == (0, 100, 0)
    assert choose([], {}) is None


def test_writes_can_be_counted() -> None:
    """Of a segment in memory nothing is read, and all that is valid is written."""
    segments = [Segment(1, valid) for valid in (100, 250, 120)]
    cached = {1: 250, 2: 100}
    assert choose(segments, cached) == (1, 250, 250)
    # 20 reads and 120 writes; the others are 100 and 100, and 250.
    assert choose(segments, cached, count_writes=True) == (2, 120, 100)


def test_pages_are_found_in_segments() -> None:
    """Holes, what is not on the disk yet, and what lies before the main area are in none."""
    main = 1000
    lies = [
        Extent(0, (main + SEGMENT - 2) * BLOCK, 4 * BLOCK, Flag(0)),
        Extent(10 * BLOCK, 0, 5 * BLOCK, Flag.DELALLOC | Flag.UNKNOWN),
        Extent(20 * BLOCK, (main + 3 * SEGMENT) * BLOCK, 2 * BLOCK, Flag(0)),
        Extent(30 * BLOCK, 7 * BLOCK, 2 * BLOCK, Flag.LAST),
    ]
    found = spread({0, 1, 2, 5, 11, 20, 21, 22, 30, 99}, lies, main)
    assert found == {0: [0, 1], 1: [2], 3: [20, 21]}


@pytest.mark.skipif(shutil.which("mkfs.f2fs") is None, reason="no mkfs.f2fs")
@pytest.mark.parametrize(("options", "words"), [((), ""), (("-s", "2"), "sections have 2")])
def test_a_superblock_is_read(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    """As mkfs.f2fs writes it, and says that it did."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    subprocess.run(["mkfs.f2fs", "-f", *options, image], check=True, capture_output=True)
    superblock = superblock_of(str(image))
    if words:
        with pytest.raises(ValueError, match=words):
            main_area(superblock)
        return
    told = subprocess.run(
        ["dump.f2fs", "-d", "1", image], check=False, capture_output=True, text=True
    )
    [line] = [line for line in told.stdout.splitlines() if line.startswith("main_blkaddr")]
    assert f" {main_area(superblock)}]" in line


@pytest.mark.parametrize("superblock", [bytes(1024), b""])
def test_no_superblock(superblock: bytes) -> None:
    with pytest.raises(ValueError, match="no f2fs"):
        main_area(superblock)


def test_what_is_no_f2fs_is_refused() -> None:
    with pytest.raises(ValueError, match="only f2fs"):
        Cleaner("/proc")
