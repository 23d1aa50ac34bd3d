# SPDX-License-Identifier: MIT
"""The trees that tests are made of have in them what they are said to have."""

import os
import stat
from pathlib import Path

import cases
import pytest
from compare import differences, look
from places import Mounted
from trees import FLAGS, build, empty_path


@pytest.mark.root
def test_all_there_is(mounted: Mounted, tree: Path) -> None:
    build(tree, cases.MOUNTED)
    found = look(tree)
    assert {one.kind for one in found.values()} == {
        stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR,
        stat.S_IFBLK,
    }  # fmt: skip
    for node in cases.ALL:
        paths = [path for path in found if os.path.basename(path) == node.name]
        assert paths, node
        one = found[paths[-1]]
        assert one.flags & node.flags & FLAGS == node.flags
        if node.kind not in ("symlink", "link") and not node.attributes:
            assert one.mode == node.mode, node
        if node.kind != "link":
            assert one.owner == node.owner, node
        if node.kind not in ("chain", "link", "directory"):
            assert one.mtime_ns == node.mtime_ns, node
        for name, value in node.attributes:
            # The kernel keeps an ACL's mask and the mode in step.
            assert one.attributes.get(name, b"") == value or name.endswith(b"acl_access"), node
    assert max(map(len, found)) > 4096
    assert found[b"sparse"].allocated < 1 << 20 <= found[b"zeros"].allocated
    assert found[b"reserved"].allocated >= 1 << 20
    assert found[b"d/hard"].names == (b"d/hard", b"hole-first")
    mounted_here = {path for path, one in found.items() if one.mounted}
    of_btrfs = {b"subvolume"} if mounted.kind == "btrfs" else set()
    assert mounted_here == {b"m", b"bound", b"bound file"} | of_btrfs


@pytest.mark.root
def test_the_same_tree_twice(mounted: Mounted) -> None:
    """Nothing is compared that depends on when and where a tree is made."""
    trees = [mounted.path / "one", mounted.path / "other"]
    for tree in trees:
        tree.mkdir()
        build(tree, cases.ALL)
    one, other = (look(tree) for tree in trees)
    assert {(d.path, d.field) for d in differences(one, other)} <= {(b"", "mtime_ns")}


def test_each_difference_is_seen(tree: Path) -> None:
    """A test that compares with these can fail."""
    build(tree, cases.ALL)
    before = look(tree)
    file = tree / "hole-last"
    times = file.stat().st_mtime_ns
    seen = set()
    for number, change in enumerate([
        lambda: file.chmod(0o600),
        lambda: os.utime(file, ns=(times, times + 1)),
        lambda: file.write_bytes(file.read_bytes()),
        lambda: os.setxattr(file, "user.other", b"1"),
        lambda: os.truncate(file, 1 << 19),
        lambda: (tree / "further").hardlink_to(file),
        lambda: ((tree / "loop").unlink(), (tree / "loop").symlink_to("b")),
        lambda: ((tree / "fifo").unlink(), (tree / "fifo").touch()),
        lambda: file.write_bytes(b"x" * (1 << 19)),
    ]):  # fmt: skip
        change()
        now = look(tree)
        found = differences(before, now)
        assert found, number
        seen |= {one.field for one in found}
        before = now
    assert seen >= {
        "mode", "mtime_ns", "allocated", "attribute user.other", "size", "names", "unexpected",
        "target", "kind", "data",
    }  # fmt: skip


def test_a_tree_can_be_removed(tree: Path) -> None:
    build(tree, cases.MOUNTED)
    empty_path(tree)
    assert not list(tree.iterdir())
