# SPDX-License-Identifier: MIT
"""Calls that nobody would make, by root and by a user: tests/fuzz, whose README says what it does.

What it found in the driver shows in the lab, which watches the machine's log.
FUZZ_SEED and FUZZ_CALLS, of the environment, are for who wants the same calls
again, or more of them.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import SYSFS, counter
from ordinary import device_for_group

from pyduet import AlreadyError, Device

TOP = Path(__file__).parents[2]
SOURCES = [*sorted((TOP / "tests/fuzz").glob("*.[ch]")), TOP / "driver/uapi/duet.h"]
#: What is in each line in which the fuzzer tells of a fault.
FAULTS = ("fuzz: FAULT: ", " ended with status ", "  NEVER SUCCEEDED", "  SUCCEEDED")
#: In all; enough for each kind to succeed some dozens of times.
CALLS = int(os.environ.get("FUZZ_CALLS", "16000"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the fuzzer: what make has built, or else, which takes a minute, what is built here."""
    built = TOP / "build/fuzz"
    if built.exists() and built.stat().st_mtime > max(one.stat().st_mtime for one in SOURCES):
        return built
    path = tmp_path_factory.mktemp("fuzz") / "fuzz"
    subprocess.run(
        ["cc", "-O0", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES[-1].parent}", "-o", path,
         *(one for one in SOURCES if one.suffix == ".c"), "-lpthread"],
        check=True,
    )  # fmt: skip
    return path


@pytest.fixture
def disks(place: Path) -> Iterator[list[Path]]:
    """Return two block devices with file systems of their own."""
    subprocess.run(["modprobe", "loop"], check=True)
    devices = []
    for number in range(2):
        image = place / f"image{number}"
        with image.open("wb") as file:
            file.truncate(32 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        command = ["losetup", "--find", "--show", image]
        devices.append(Path(subprocess.check_output(command, text=True).strip()))
    yield devices
    for device in devices:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def fuzz(
    program: Path, place: Path, disks: list[Path], capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., None]]:
    """Return a function that runs the fuzzer; who may open the device is as udev has it."""
    seed = os.environ.get("FUZZ_SEED") or str(int.from_bytes(os.urandom(4), "little"))

    def run(*options: object) -> None:
        command = [program, "--seed", seed, "--calls", CALLS, *options, place, *disks]
        words = []
        # Shown as they come: the machine may not live to see the end.
        with (
            capfd.disabled(),
            subprocess.Popen(
                [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as fuzzer,
        ):
            assert fuzzer.stdout
            for line in fuzzer.stdout:
                sys.stdout.write(line)
                sys.stdout.flush()
                if any(one in line for one in FAULTS):
                    words.append(line)
        # With what it found: of a failure, many a reader sees the last lines only.
        assert not fuzzer.returncode, "".join(words) or f"status {fuzzer.returncode}"

    with device_for_group():
        yield run


def as_by_default(device: Device) -> None:
    """Switch Duet off, undo what the fuzzer set, switch it on again, for 16 tasks."""
    # It may be off already. While it is on, its limit does not grow without bound.
    with contextlib.suppress(AlreadyError):
        device.stop()
    for name in ("limit_bytes", "task_limit_bytes", "user_share_percent"):
        (SYSFS / name).write_text("0")
    device.start(16)


def test_everything_ends_again_and_again(
    device: Device, restored: dict[str, int], fuzz: Callable[..., None]
) -> None:
    """Calls of all kinds, switching off among them: afterwards nothing is left of any task."""
    fuzz()
    as_by_default(device)
    assert [counter(name) for name in ("tasks", "files", "nodes", "bytes")] == [0, 0, 0, 0]
