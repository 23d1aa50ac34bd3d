# SPDX-License-Identifier: MIT
"""The machine that the tests of one release share, in their order."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[1]
sys.path[:0] = [str(HERE), str(TOP / "tests/vm")]

from duetinstall.guest import Guest  # noqa: E402
from duetinstall.image import image_of  # noqa: E402
from duetinstall.release import Release, releases  # noqa: E402

LOGS = TOP / "build/install"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the release, and whether what takes longest is to be done as well."""
    parser.addoption("--release", choices=sorted(releases()), default="bookworm")
    parser.addoption(
        "--natively",
        action="store_true",
        help="run apt in the system before it boots: a build of the module takes some ten minutes "
        "in an emulated machine",
    )
    parser.addoption(
        "--no-upgrade", action="store_true", help="leave out the upgrade to the next kernel"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not for this release, or takes too long."""
    release = releases()[config.getoption("--release")]
    if config.getoption("--no-upgrade"):
        leave_out = {"upgrade", "works", "left_alone"}
    else:
        leave_out = {"left_alone" if release.works else "works"}
    foreign = [item for item in items if leave_out & {mark.name for mark in item.iter_markers()}]
    config.hook.pytest_deselected(items=foreign)
    items[:] = [item for item in items if item not in foreign]


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks."""
    config.addinivalue_line("markers", "upgrade: installs the next kernel, which takes minutes")
    config.addinivalue_line("markers", "works: where Duet works on the next kernel")
    config.addinivalue_line("markers", "left_alone: where the next kernel is out of Duet's range")


@pytest.fixture(scope="session")
def release(request: pytest.FixtureRequest) -> Release:
    """The release of this run."""
    return releases()[request.config.getoption("--release")]


@pytest.fixture(scope="session")
def natively(request: pytest.FixtureRequest) -> bool:
    """Whether apt is run before the system boots."""
    return bool(request.config.getoption("--natively"))


@pytest.fixture(scope="session")
def guest(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A fresh system, which has not booted yet, with the packages of make deb at hand."""
    packages = tmp_path_factory.mktemp("packages")
    found = list((TOP / "build/deb").glob("*.deb"))
    assert len(found) == 3, "make deb builds three packages"
    for package in found:
        shutil.copy(package, packages)
    with (packages / "Packages").open("wb") as index:
        subprocess.run(
            ["dpkg-scanpackages", "."], cwd=packages, check=True, stdout=index, stderr=-3
        )
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{release.name}.console"
    log.unlink(missing_ok=True)
    with Guest(image_of(release), packages, log) as guest:
        yield guest


@pytest.fixture(autouse=True)
def told(request: pytest.FixtureRequest, guest: Guest) -> Iterator[None]:
    """Say how long each took, and fail for trouble of the kernel's."""
    begin = time.monotonic()
    yield
    with (LOGS / "seconds").open("a") as file:
        took = time.monotonic() - begin
        name = request.config.getoption("--release")
        file.write(f"{name} {request.node.name} {took:.0f}\n")
    assert not guest.console.trouble, guest.console.report()
