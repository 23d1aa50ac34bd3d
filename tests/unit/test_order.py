# SPDX-License-Identifier: MIT
"""Inventory and order: what was found, however much and however odd, and what comes next."""

import dataclasses
import itertools
import os
import stat
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyduet.maintenance import Found, Inventory, Stamp, Status, Work
from pyduet.maintenance.frame.order import Order

NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: not set(name) & {0, ord("/")})
KINDS = st.sampled_from([stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO])


def status_of(kind: int, ino: int, born: int = 0, device: int = 2**40) -> Status:
    return Status(
        kind | 0o640, 2, 2**32 - 2, 2**32 - 3, device, ino, 2**63 - 1, 2**54, 4096, 2**32 - 1,
        -1, 2**34 * 10**9 + 1, -(2**31) * 10**9 - 1, born, 2**64 - 1, True,
    )  # fmt: skip


@st.composite
def trees(draw: st.DrawFn) -> list[Found]:
    """What a walk may give: a directory before what is in it, no name twice, few inodes."""
    found = [Found("", status_of(stat.S_IFDIR, 1))]
    directories, names = [""], set()
    for name, kind, at, ino in draw(
        st.lists(st.tuples(NAMES, KINDS, st.integers(0), st.integers(2**63 - 3, 2**63 + 3)))
    ):
        # As on overlayfs, whose layers have device numbers of their own.
        device = draw(st.sampled_from([2**40, 2**64 - 1]))
        directory = directories[at % len(directories)]
        path = os.path.join(directory, os.fsdecode(name))
        if path in names:
            continue
        names.add(path)
        if kind == stat.S_IFDIR:
            directories.append(path)
        found.append(Found(path, status_of(kind, ino, born=ino % 2 - 1, device=device)))
    return found


@given(trees())
def test_an_inventory_is_what_was_found(found: list[Found]) -> None:
    with Inventory(iter(found)) as inventory:
        assert len(inventory) == len(found)
        assert list(inventory) == found
        directories = [one for one in found if stat.S_ISDIR(one.status.st_mode)]
        assert list(inventory.directories()) == directories
        assert list(inventory.directories(deepest_first=True)) == directories[::-1]
        for directory, _ in directories:
            names = list(inventory.names(directory))
            assert [os.fsencode(name) for name, _ in names] == sorted(
                os.fsencode(os.path.basename(path))
                for path, _ in found
                if path and os.path.dirname(path) == directory
            )
        for path, status in found:
            names_of = [one.path for one in found if one.status == status]
            assert inventory.first(status) == names_of[0], path
        files = [one for one in found if stat.S_ISREG(one.status.st_mode)]
        first: dict[object, str] = {}
        for path, status in files:
            first.setdefault(status.identity, path)
        assert [one.path for one in inventory.regular()] == list(first.values())
        links = [(first[one.status.identity], one) for one in files]
        assert Counter(inventory.links()) == Counter(
            (name, one) for name, one in links if name != one.path
        )
        assert all(inventory.has(path, status_of(stat.S_IFREG, 0)) for path, _ in found)
        assert all(inventory.has("not there", status) for _, status in files)
        assert not inventory.has("not there", status_of(stat.S_IFREG, 0))
        inodes = list(inventory.inodes())
        assert inodes == sorted(inodes)
        assert len(inodes) == len({identity[1:] for identity in first})


def test_what_is_deep_takes_no_more_than_its_names() -> None:
    """Of a path, however long, each name is kept once: as somebody makes it who wants much kept."""
    deep = "/".join(["n" * 255] * 32)
    found = [Found("", status_of(stat.S_IFDIR, 1))]
    found += (Found(f"{deep}/{ino}", status_of(stat.S_IFREG, ino)) for ino in range(2, 3000))
    with Inventory(iter(found)) as inventory:
        assert list(inventory) == found
        assert size_of(inventory) < len(found) * 400
        works = (work(path, status.st_ino, 1, None) for path, status in inventory.regular())
        with Order(works) as order:
            assert size_of(order) < len(found) * 400
            assert names(order) == [path for path, _ in found[1:]]


def size_of(one: Inventory | Order) -> int:
    """Return how many bytes a list takes in its temporary database."""
    ((pages,), (size,)) = (
        one._data.execute(f"pragma {name}").fetchone() for name in ("page_count", "page_size")
    )
    return int(pages * size)


def work(name: str, number: int, pages: int, physical: int | None) -> Work:
    size = pages * 4096
    return Work(name, Stamp(number, size, -1, 2**34 * 10**9), 2**40, -5, 7, physical, size)


def names(order: Order) -> list[str]:
    """Take all out of an order."""
    found = []
    while best := order.best():
        found.append(best[0].path)
        order.remove(best[0])
    return found


def test_the_order_is_the_devices_where_nothing_is_cached() -> None:
    works = [
        work("b", 2, 4, 200),
        work("none", 4, 4, None),
        work("a", 1, 4, 100),
        work("c", 3, 0, 300),
    ]
    with Order(works) as order:
        assert [one.path for one in order.ahead(3)] == ["a", "b", "c"]
        assert order.best() == (works[2], 0.0)
        assert names(order) == ["a", "b", "c", "none"]
        assert order.ahead(3) == []


def test_files_of_two_layers_with_one_inode_number() -> None:
    one = work("one", 1, 4, 100)
    others = [dataclasses.replace(one, device=1, path="other"), work("last", 2, 4, 300)]
    again = dataclasses.replace(one, path="further name")
    with Order([one, *others, again]) as order:
        assert order.files == 3
        order.remove(others[0])
        assert names(order) == ["one", "last"]
        assert order.files == 0


def test_what_is_most_cached_comes_first() -> None:
    works = [work(name, number, 100, number) for number, name in enumerate("abcdef", 1)]
    with Order(works) as order:
        order.told((3, 7), 100)
        order.told((5, 7), 40)
        order.told((2, 7), 60)
        order.told((2, 7), -60)
        order.told((6, 7), 30)
        order.told((6, 7), 30)
        order.told((99, 7), 5)  # somebody else's
        order.told((3, 8), -100)  # another generation's
        assert order.best() == (works[2], 1.0)
        assert (order.files, order.bytes) == (6, 600 * 4096)
        assert names(order) == ["c", "f", "e", "a", "b", "d"]
        assert (order.files, order.bytes) == (0, 0)


def test_a_file_that_comes_twice_is_done_once() -> None:
    """As two names of an inode that had one link when each was looked at."""
    with Order([work("one", 2**64 - 1, 4, 10), work("two", 2**64 - 1, 4, 10)]) as order:
        assert (order.files, order.bytes) == (1, 4 * 4096)
        assert names(order) in (["one"], ["two"])
        with pytest.raises(KeyError):
            order.remove(work("other", 5, 4, 10))


@given(
    st.dictionaries(st.integers(0, 2**64 - 1), st.integers(0, 20), min_size=1),
    st.lists(st.tuples(st.integers(0), st.integers(-30, 30))),
)
def test_all_is_done_once_whatever_is_told(
    pages: dict[int, int], news: list[tuple[int, int]]
) -> None:
    works = [work(str(ino), ino, size, ino % 1000) for ino, size in pages.items()]

    def changes() -> Iterator[tuple[int, int]]:
        for at, count in news:
            yield works[at % len(works)].stamp.ino, count

    with Order(works) as order:
        told = changes()
        found = []
        while best := order.best():
            found.append(best[0])
            order.remove(best[0])
            for ino, count in itertools.islice(told, 2):
                order.told((ino, 7), count)
        assert Counter(found) == Counter(works)
