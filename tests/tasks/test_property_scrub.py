# SPDX-License-Identifier: MIT
"""Scrub names what has rotted on the disk, and nothing else, whatever people do meanwhile."""

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
from command import run_forked
from hypothesis import given
from hypothesis import strategies as st
from places import Mounted
from trees import acl, data, empty_path

pytestmark = pytest.mark.root

DONE, NAMED = 0, 12
_FIBMAP = 1
_BLOCK = 4096


@dataclass(frozen=True)
class File:
    """A file, and what becomes of it between two passes.

    Attributes:
        size: in bytes.
        rot: what the disk does to it; None for nothing.
        where: to which of its blocks, modulo how many it has.
        use: what people do to it.

    """

    size: int
    rot: str | None
    where: int
    use: str


def _write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _replace(path: Path) -> None:
    beside = path.with_name("beside")
    beside.write_bytes(b"replaced")
    beside.rename(path)


#: What changes a file's content, which is then none that a scrub could compare with.
WRITE = {"write": _write, "append": _append, "replace": _replace}
#: What changes all else.
USE = {
    "nothing": lambda _: None,
    "mode": lambda path: path.chmod(0o600),
    "owner": lambda path: os.chown(path, 1000, 1000),
    "name": lambda path: path.rename(path.with_name(path.name + " moved")),
    "directory": lambda path: (
        (path.parent / "inner").mkdir(exist_ok=True),
        path.rename(path.parent / "inner" / path.name),
    ),
    "link": lambda path: (path.parent / (path.name + " linked")).hardlink_to(path),
    "attribute": lambda path: os.setxattr(path, "user.note", b"1"),
    "acl": lambda path: os.setxattr(
        path, "system.posix_acl_access", acl(0o640, [(1000, 4)], [(7, 4)])
    ),
    "read": lambda path: path.read_bytes(),
}
#: What a disk makes of a block.
ROT = {
    "a bit": lambda block: bytes([block[0] ^ 1]) + block[1:],
    "the last byte": lambda block: block[:-1] + bytes([block[-1] ^ 0x80]),
    "zeros": lambda block: bytes(len(block)),
    "half": lambda block: block[: len(block) // 2] + b"\xff" * (len(block) - len(block) // 2),
    "another's": lambda block: data(99, len(block)),
    "never written": lambda block: data(1, len(block)),
}

FILES = st.lists(
    st.one_of(
        st.builds(
            File,
            size=st.sampled_from([1, 4095, 4096, 4097, 20_000, 70_000, 140_000]),
            rot=st.one_of(st.none(), st.sampled_from(sorted(ROT))),
            where=st.integers(0, 50),
            use=st.sampled_from(sorted(USE)),
        ),
        st.builds(
            File,
            size=st.sampled_from([1, 4096, 70_000]),
            rot=st.none(),
            where=st.just(0),
            use=st.sampled_from(sorted(WRITE)),
        ),
    ),
    min_size=1,
    max_size=8,
)


# btrfs has checksums of its own, and reads nothing that has rotted.
@pytest.mark.fs("ext4", "xfs")
@given(files=FILES)
def test_what_has_rotted(mounted: Mounted, tmp_path: Path, files: list[File]) -> None:
    tree = mounted.path / "tree"
    tree.mkdir(exist_ok=True)
    empty_path(tree)
    state = tmp_path / "state"
    state.unlink(missing_ok=True)
    for number, file in enumerate(files):
        (tree / f"{number}").write_bytes(data(number + 2, file.size))
    assert scrubbed(tree, state) == set()
    rotten = set()
    for number, file in enumerate(files):
        path = tree / f"{number}"
        inode = path.stat().st_ino
        if file.rot:
            rotten.add(inode)
            rot(mounted, path, file)
        (USE | WRITE)[file.use](path)
    # What is named is so for as long as nobody has written the file.
    for _ in range(2):
        forget_pages(tree)
        assert scrubbed(tree, state) == rotten
    for path in tree.rglob("*"):
        if path.is_file() and path.stat().st_ino in rotten:
            path.write_bytes(b"restored")
    assert scrubbed(tree, state) == set()


def scrubbed(tree: Path, state: Path) -> set[int]:
    """Run a scrub; return the inodes of what it names."""
    ran = run_forked("run", "scrub", tree, "--state", state, "--json")
    problems = ran.objects[-1]["problems"]
    assert ran.status == (NAMED if problems else DONE), ran.words
    assert {one["trouble"] for one in problems} <= {"different", "corrupt"}, ran.words
    return {(tree / one["path"]).stat().st_ino for one in problems}


def rot(mounted: Mounted, path: Path, file: File) -> None:
    """Change a block of a file below the file system, and forget what is in memory of it."""
    assert mounted.image
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        number = file.where % -(-file.size // _BLOCK)
        block = struct.unpack("i", fcntl.ioctl(fd, _FIBMAP, struct.pack("i", number)))[0]
        assert block
        length = min(_BLOCK, file.size - number * _BLOCK)
        with mounted.image.open("r+b") as image:
            image.seek(block * _BLOCK)
            before = image.read(length)
            assert before == os.pread(fd, length, number * _BLOCK)
            after = ROT[file.rot or ""](before)
            assert after != before
            image.seek(block * _BLOCK)
            image.write(after)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, length, number * _BLOCK) == after
    finally:
        os.close(fd)


def forget_pages(tree: Path) -> None:
    """Have all of a tree's files on the disk alone."""
    for path in tree.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
