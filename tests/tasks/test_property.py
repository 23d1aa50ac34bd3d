# SPDX-License-Identifier: MIT
"""Archives of all that there can be, whatever happens meanwhile, restored by who can."""

import contextlib
import os
import signal
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cases
import restore
import strategies
from changes import Change, apply, going_on
from command import Killed, Ran, run_forked
from compare import Difference, Facts, differences, look
from hypothesis import example, given, note
from hypothesis import strategies as st
from places import Mounted
from trees import Node, build, cut, empty_path

from pyduet.maintenance.archive import pax
from pyduet.maintenance.archive.chain import link_of

IS_ROOT = os.geteuid() == 0
ALL = cases.ALL if IS_ROOT else cases.READABLE
#: Exit codes: all was done; something is named.
DONE, NAMED = 0, 12


def mounted_in(facts: dict[bytes, Facts]) -> list[bytes]:
    """Return where something is mounted."""
    return [path for path, one in facts.items() if one.mounted]


def new_directory(path: Path) -> Path:
    """Return an empty directory of that name."""
    path.mkdir(exist_ok=True)
    empty_path(path)
    return path


def assert_same(
    before: dict[bytes, Facts],
    target: Path,
    ran: Ran,
    lost: Callable[[Difference], bool] = lambda _: False,
    but: Sequence[bytes] = (),
) -> None:
    """Assert that a restore has all, but for what a program is known to lose."""
    after = look(target)
    found = differences(before, after, [*mounted_in(before), *but])
    wrong = [one for one in found if not lost(one) and not restore.is_socket(one)]
    assert not wrong, "\n".join([*map(str, wrong), f"status {ran.status}", ran.words[-2000:]])


@given(nodes=strategies.trees(is_root=IS_ROOT, mounts=IS_ROOT))
@example(nodes=ALL)
def test_tar_and_what_it_is_known_to_lose(
    mounted: Mounted, tmp_path: Path, nodes: tuple[Node, ...]
) -> None:
    """The machine itself: GNU tar's own archives come back but for what is said here."""
    tree, target = (new_directory(mounted.path / name) for name in ("tree", "target"))
    build(tree, nodes)
    before = look(tree)
    archive = tmp_path / "tar"
    restore._run(
        "tar", "--create", "--format=posix", "--xattrs", "--xattrs-include=*", "--acls", "--sparse",
        "--one-file-system", "--numeric-owner", "--file", archive, "--directory", tree, ".",
    )  # fmt: skip

    def lost(one: Difference) -> bool:
        # It writes further names of FIFOs and devices as FIFOs and devices of their own.
        special = one.field == "names" and not stat.S_ISREG(before[one.path].kind)
        return special or restore.lost_by_gnu_tar(one)

    assert_same(before, target, restore.gnu_tar([archive], target), lost)
    empty_path(tree)


@dataclass(frozen=True)
class Step:
    """What happens before and while an archive of a chain is written.

    Attributes:
        changes: made before.
        meanwhile: made over and over while it is written, in a part of the tree.
        killed: when the run is ended from outside; it is gone on with then.
        elsewhere: whether it is another archive that is written then.

    """

    changes: Sequence[Change] = ()
    meanwhile: Sequence[Change] = ()
    killed: Killed | None = None
    elsewhere: bool = False


STEPS = st.builds(
    Step,
    changes=strategies.changes(is_root=IS_ROOT),
    meanwhile=st.one_of(st.just([]), strategies.changes(is_root=IS_ROOT)),
    killed=st.one_of(
        st.none(),
        st.builds(
            Killed,
            call=st.one_of(st.integers(1, 100_000), st.integers(1, 10_000)),
            signal=st.sampled_from([signal.SIGKILL, signal.SIGTERM]),
        ),
    ),
    elsewhere=st.booleans(),
)

#: What becomes something else while it is archived.
MOVING = tuple(
    Node(("directory", "file")[number % 2], b"%d" % number, parent=number * 7 % 12)
    for number in range(150)
)
BECOMING = [
    *(Change("become", node=Node(kind, b"")) for kind in ("file", "directory", "fifo") * 2),
    *(Change("make", node=Node(kind, b"new")) for kind in ("file", "directory")),
    *(Change(kind) for kind in ("exchange", "rename", "rename over", "link", "remove")),
]

#: Directories in one another, and what makes them deeper than a backup goes: those of the tree come
#: to the end of those in the part that changes.
DEEP = (Node("chain", b"d" * 250, depth=18),)
DEEPER = [
    Change("make", which=10, node=Node("chain", b"e" * 250, depth=18)),
    Change("rename", which=0, other=22),
]


def archive_of(tree: Path, out: Path, number: int, step: Step) -> tuple[list[Path], Ran]:
    """Write an archive, incremental unless it is the first; return what there is of it, and how."""
    before: list[Path] = []
    archive, state = out / f"{number}.tar", out / "state"
    kind = ["--incremental"] if number else []
    rest = ["--state", state, *kind]
    if step.killed:
        # A night's archive of last week has the name.
        archive.write_bytes(b"of last week")
        ran = run_forked("run", "backup", tree, archive, *rest, killed=step.killed)
        note(f"{number}, to be killed: {ran.status} {ran.words[-500:]}")
        if ran.status in (DONE, NAMED):
            return [archive], ran
        assert ran.status in (-step.killed.signal, 128 + step.killed.signal, 130), ran.words
        # It may have been at its very end: then it is whole, and is gone on with all the same.
        if archive.read_bytes() != b"of last week":
            with open(archive, "rb") as file:
                assert list(pax.members(file.fileno(), str(archive)))
            before = [archive]
        if step.elsewhere:
            (out / "disk").mkdir(exist_ok=True)
            archive = out / "disk" / f"{number}.tar"
    ran = run_forked("run", "backup", tree, archive, *rest)
    note(f"{number}: {ran.status} {ran.words[-500:]}")
    assert ran.status in ((DONE, NAMED) if step.meanwhile else (DONE,)), ran.words
    # One elsewhere comes after what was whole, if that had been noted when it was killed.
    parent = link_of(str(archive)).parent
    before = [one for one in before if one != archive and link_of(str(one)).id == parent]
    return [*before, archive], ran


def names_of_moving(tree: Path) -> list[bytes]:
    """Return the names elsewhere of what has a name in the part that changes meanwhile."""
    return [
        path
        for path, facts in look(tree).items()
        if any(name.startswith(b"moving/") for name in facts.names)
    ]


@given(
    nodes=strategies.trees(is_root=IS_ROOT, mounts=IS_ROOT),
    steps=st.lists(STEPS, min_size=1, max_size=3),
    seed=st.integers(0, 1 << 30),
    ends_quietly=st.booleans(),
)
@example(nodes=ALL, steps=[Step()], seed=0, ends_quietly=True)
@example(nodes=MOVING, steps=[Step(), Step(meanwhile=BECOMING)], seed=0, ends_quietly=False)
@example(nodes=DEEP, steps=[Step(), Step(DEEPER)], seed=0, ends_quietly=False)
def test_a_chain_of_archives(
    mounted: Mounted,
    tmp_path: Path,
    nodes: tuple[Node, ...],
    steps: list[Step],
    seed: int,
    ends_quietly: bool,
) -> None:
    """Full, and then incremental, with changes between and meanwhile, killed and gone on with.

    Of what changed while the last archive was written nobody knows what is in that: both who
    restore have to say the same of it.
    """
    tree, target = (new_directory(mounted.path / name) for name in ("tree", "target"))
    out = new_directory(tmp_path / "out")
    build(tree, nodes)
    (tree / "moving").mkdir(exist_ok=True)
    build(tree / "moving", nodes)
    archives: list[Path] = []
    moving: list[bytes] = []
    is_for_tar = True
    for number, step in enumerate([*steps, Step()] if ends_quietly else steps):
        if number:
            for change in step.changes:
                apply(tree, change)
        # Also of what went on while the last one was written.
        cut(tree)
        with contextlib.ExitStack() as stack:
            moving = []
            if step.meanwhile and (tree / "moving").is_dir() and not (tree / "moving").is_symlink():
                moving = [b"moving", *names_of_moving(tree)]
                stack.enter_context(going_on(tree / "moving", list(step.meanwhile), seed))
            written, ran = archive_of(tree, out, number, step)
        archives += written
        is_for_tar &= "tar cannot restore it" not in ran.words
    before = look(tree)

    def lost(one: Difference) -> bool:
        # It takes from a directory that is there no attribute that it has no more.
        is_attribute = one.field.startswith("attribute ") and stat.S_ISDIR(one.kind)
        return (is_attribute and one.before is None) or restore.lost_at_times_by_gnu_tar(one)

    ran = restore.duet(archives, target)
    assert ran.status == DONE, ran.words
    assert_same(before, target, ran, but=moving)
    restored = look(target)
    empty_path(target)
    if is_for_tar:
        ran = restore.gnu_tar(archives, target)
        assert_same(before, target, ran, lost, moving)
        if moving:
            assert_same(restored, target, ran, lost)
            assert ran.status == DONE or restore.has_long_paths(archives), ran.words
    empty_path(tree)


@given(nodes=strategies.trees(is_root=IS_ROOT, mounts=IS_ROOT))
@example(nodes=ALL)
def test_a_full_archive_by_each_program(
    mounted: Mounted, tmp_path: Path, nodes: tuple[Node, ...]
) -> None:
    tree = new_directory(mounted.path / "tree")
    out = new_directory(tmp_path / "out")
    build(tree, nodes)
    before = look(tree)
    archive = out / "tar"
    ran = run_forked("run", "backup", tree, archive, "--state", out / "state")
    assert ran.status == DONE, ran.words
    for program, lost in (
        (restore.gnu_tar, restore.lost_at_times_by_gnu_tar),
        (restore.bsdtar, restore.lost_at_times_by_bsdtar),
        (restore.duet, lambda _: False),
    ):
        target = new_directory(mounted.path / "target")
        ran = program([archive], target)
        note(program.__name__)
        assert_same(before, target, ran, lost)
    empty_path(tree)
