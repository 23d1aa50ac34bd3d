# SPDX-License-Identifier: MIT
"""What the tests of maintenance on real file systems share. They run without Duet.

As root, each is run on each kind of file system, mounted for it alone; with ``--as-user`` the same
tests are run by an ordinary user, on file systems that were mounted for them before. Who is no
root to begin with runs them on whatever the temporary directory is on.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import places
import pytest
from places import Mounted
from trees import empty_path

#: Examples of each property, on each kind of file system: a few, and 2,000 together.
_SHORT, _LONG = 10, 700
#: Seconds of each race.
_SHORT_RACE, _LONG_RACE = 2, 60

_ROOT = pytest.StashKey[Path]()
_PLACES = pytest.StashKey[dict[str, Path]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that make an ordinary user of root, and a long run of a short one."""
    parser.addoption("--as-user", action="store_true", help="run the tests as an ordinary user")
    parser.addoption("--long", action="store_true", help="thousands of examples, minutes of races")


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the mounts, and be who the tests are to be run by."""
    config.addinivalue_line("markers", "root: only root can do what this test does")
    config.addinivalue_line("markers", "user: only of who is not root")
    config.addinivalue_line("markers", "fs(*names): only on these kinds of file systems")
    config.stash[_PLACES] = {}
    for name, examples in (("short", _SHORT), ("long", _LONG)):
        hypothesis.settings.register_profile(
            name,
            max_examples=examples,
            # What `make test` tries is the same each time; what is found by chance is printed,
            # and kept as a case.
            derandomize=name == "short",
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
    hypothesis.settings.load_profile("long" if config.getoption("--long") else "short")
    if os.geteuid():
        return
    config.stash[_ROOT] = root = places.private()
    if config.getoption("--as-user"):
        for kind in places.MKFS:
            mounted = places.new(root, kind, kind)
            os.chown(mounted.path, places.USER, places.USER)
            config.stash[_PLACES][kind] = mounted.path
        places.turn_into_user(root)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what wants a mount on each kind of file system that there is."""
    if "mounted" in metafunc.fixturenames:
        config = metafunc.config
        kinds = [*places.MKFS] if _ROOT in config.stash else ["here"]
        fs = metafunc.definition.get_closest_marker("fs")
        metafunc.parametrize(
            "mounted", [kind for kind in kinds if not fs or kind in fs.args], indirect=True
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count as such, the tests of somebody else."""
    other = "root" if os.geteuid() else "user"
    foreign = [item for item in items if item.get_closest_marker(other)]
    config.hook.pytest_deselected(items=foreign)
    items[:] = [item for item in items if item not in foreign]


@pytest.fixture
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Mounted]:
    """A place on a file system: for root one of its own, for a user an empty directory."""
    kind: str = request.param
    config = request.config
    if os.geteuid():
        path = config.stash[_PLACES].get(kind, tmp_path) / "place"
        path.mkdir()
        yield Mounted(kind, path)
        empty_path(path)
        path.rmdir()
        return
    mounted = places.new(config.stash[_ROOT], kind, "place")
    yield mounted
    places.remove(mounted)


@pytest.fixture(scope="session")
def private(request: pytest.FixtureRequest) -> Path:
    """The directory of root's that only these tests see, and that everybody may look into."""
    return request.config.stash[_ROOT]


@pytest.fixture
def new_mount(private: Path) -> Iterator[Callable[..., Mounted]]:
    """A function that makes further file systems, as :func:`places.new`; for root."""
    made: list[Mounted] = []

    def new(
        kind: str, *options: str, size: int = places.SIZE, mkfs: tuple[str, ...] = ()
    ) -> Mounted:
        name = f"further{len(made)}"
        made.append(places.new(private, kind, name, *options, size=size, mkfs=mkfs))
        return made[-1]

    yield new
    for mounted in reversed(made):
        places.remove(mounted)


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    """How long a race is to last."""
    return _LONG_RACE if request.config.getoption("--long") else _SHORT_RACE


@pytest.fixture
def tree(mounted: Mounted) -> Path:
    """An empty directory that is to be maintained."""
    tree = mounted.path / "tree"
    tree.mkdir()
    return tree
