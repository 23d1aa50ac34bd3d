# SPDX-License-Identifier: MIT
"""What driver/dkms.conf says of a kernel, as DKMS reads it: by bash, with $kernelver set."""

import re
import subprocess
from pathlib import Path

import pytest

from pyduet.admin import diagnosis

CONF = Path(__file__).parents[2] / "driver/dkms.conf"


def setting(name: str, kernel: str = "") -> str:
    """A setting of the file, for a kernel or for none."""
    script = f'. {CONF}; printf %s "${name}"'
    done = subprocess.run(
        ["bash", "-c", script], env={"kernelver": kernel},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def included(kernel: str) -> bool:
    return bool(re.search(setting("BUILD_EXCLUSIVE_KERNEL"), kernel))


def test_the_range_is_that_of_the_doctor() -> None:
    (major, oldest), (also, newest) = diagnosis._OLDEST, diagnosis._NEWEST
    assert major == also
    minors = range(newest + 20)
    assert [minor for minor in minors if included(f"{major}.{minor}.9-amd64")] == list(
        range(oldest, newest + 1)
    )
    assert not included(f"{major + 1}.{newest}.1")
    assert not included(f"1{major}.{oldest}.1")
    assert re.search(setting("BUILD_EXCLUSIVE_ARCH"), diagnosis._ARCHITECTURE)


@pytest.mark.parametrize("kernel", ["", "6.1.0-56-amd64", "6.12.117+deb12-amd64", "6.12.1-cloud"])
def test_installs_by_itself(kernel: str) -> None:
    """Debian 13's DKMS asks without a kernel first, and builds nothing unless it is "yes" then."""
    assert setting("AUTOINSTALL", kernel) == "yes"


@pytest.mark.parametrize("kernel", ["6.0.9-amd64", "6.13.1-amd64", "7.3.4+deb13-amd64", "5.10.0"])
def test_leaves_other_kernels_alone(kernel: str) -> None:
    """Debian 12's DKMS ends with 11, and the kernel's upgrade with it, where this is "yes"."""
    assert not included(kernel)
    assert setting("AUTOINSTALL", kernel) == ""


def test_leaves_real_time_kernels_alone() -> None:
    assert setting("BUILD_EXCLUSIVE_CONFIG") == "!CONFIG_PREEMPT_RT"
    assert setting("AUTOINSTALL", "6.12.117+deb12-rt-amd64") == ""
