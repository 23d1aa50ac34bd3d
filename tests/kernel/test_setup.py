# SPDX-License-Identifier: MIT
"""duet setup against the real driver: what is configured is applied, and no task is ended."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import schema
from conftest import STATES, counter, settings
from ordinary import ANNA, as_user, device_for_group, without_admin

from pyduet import DEFAULT_DEVICE, Device, Mask, PermissionDeniedError
from pyduet.admin.config import Config, Refusal, apply
from pyduet.admin.diagnosis import Verdict, diagnose
from pyduet.cli import Exit

CONFIG = Path("/etc/duet/duet.toml")


def setup(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command and return what became of it."""
    return subprocess.run(
        [sys.executable, "-m", "pyduet", "setup", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path, restored: dict[str, int]) -> Path:
    """Return where a configuration may be written; the settings are put back afterwards."""
    return tmp_path / "duet.toml"


def test_without_a_file(device: Device, restored: dict[str, int]) -> None:
    """On, with the defaults, whatever was set before; and a second time nothing changes."""
    assert not CONFIG.exists()
    device.stop()
    device.set_limits(limit=64 << 20, task_limit=1 << 20, max_tasks=3)
    for _ in range(2):
        done = setup()
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.startswith("Duet is on: 8 tasks at a time, ")
        assert done.stderr.endswith(
            " unread for each; there is no /etc/duet/duet.toml, so these are the defaults\n"
        )
        assert device.is_on()
        assert settings() == restored


def test_a_file_and_a_drop_in(device: Device, file: Path) -> None:
    """From off, and from on for another number while no task is registered."""
    file.write_text('[duet]\nmax_tasks = 3\nlimit = "64M"\ntask_limit = "1M"\n')
    wanted = {"limit_bytes": 64 << 20, "task_limit_bytes": 1 << 20, "max_tasks": 3}
    device.stop()
    done = setup("--config", file)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "Duet is on: 3 tasks at a time, 64.0 MiB for all of them, 1.0 MiB unread for each; "
        f"by {file}\n"
    )
    assert (settings(), device.is_on()) == (wanted, True)
    more = Path(f"{file}.d/1.toml")
    more.parent.mkdir()
    more.write_text("[duet]\nmax_tasks = 5\n")
    done = setup("--config", file, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    schema.check("setup", said)
    assert said == {
        "files": [str(file), str(more)],
        "settings": {"on": True, "max_tasks": 5, "limit": 64 << 20, "task_limit": 1 << 20},
        "applied": True,
        "left": [],
    }
    assert (settings(), device.is_on()) == ({**wanted, "max_tasks": 5}, True)
    assert device.info().node_bytes  # sized anew


def test_off(device: Device, file: Path) -> None:
    """It is switched off, and its settings are those of the next start."""
    file.write_text("[duet]\non = false\nmax_tasks = 6\n")
    for _ in range(2):
        done = setup("--config", file)
        assert done.returncode == 0
        assert done.stderr.startswith("Duet is off: 6 tasks at a time, ")
        assert (device.is_on(), counter("max_tasks")) == (False, 6)


def test_no_task_is_ended(device: Device, file: Path, place: Path) -> None:
    """All is applied but what a task is in the way of; that is said, with what to do."""
    file.write_text('[duet]\nmax_tasks = 16\nlimit = "64M"\ntask_limit = "1M"\n')
    with device.register(place / "tree", STATES) as task:
        done = setup("--config", file)
        assert (done.returncode, done.stdout) == (Exit.IN_USE, "")
        one, two = done.stderr.splitlines()
        assert one.startswith("Duet is on: 8 tasks at a time, 64.0 MiB for all of them, 1.0 MiB ")
        assert two.startswith(
            "duet: max_tasks is not applied: cannot set the tasks at a time to 16"
        )
        assert two.endswith("duet stop, then: duet setup")
        assert settings() == {
            "limit_bytes": 64 << 20, "task_limit_bytes": 1 << 20, "max_tasks": 8,
        }  # fmt: skip
        assert [one.id for one in device.tasks()] == [task.id]
        file.write_text('[duet]\non = false\nlimit = "32M"\n')
        done = setup("--config", file, "--json")
        assert done.returncode == Exit.IN_USE
        said = json.loads(done.stdout)
        schema.check("setup", said)
        assert [refusal["setting"] for refusal in said["left"]] == ["on"]
        assert done.stderr.startswith("duet: on is not applied: cannot switch Duet off: ")
        assert "duet stop" in done.stderr
        assert counter("limit_bytes") == 32 << 20
        (place / "tree/file").write_bytes(b"x")
        assert next(task.events(timeout=60)).file.ino == (place / "tree/file").stat().st_ino
    assert setup("--config", file).returncode == 0
    assert not device.is_on()


def test_a_limit_below_what_is_in_use(device: Device, file: Path, place: Path) -> None:
    """The driver's own refusal; the others are applied."""
    (place / "tree/file").write_bytes(b"x" * 100_000)
    with device.register(place / "tree", Mask.EXISTS):
        before = counter("limit_bytes")
        assert counter("bytes") > 64
        left = apply(device, Config(limit=64, task_limit=1 << 20))
        assert [refusal.setting for refusal in left] == ["limit"]
        assert isinstance(left[0], Refusal)
        assert "more is in use now" in left[0].reason
        assert (counter("limit_bytes"), counter("task_limit_bytes")) == (before, 1 << 20)


@pytest.mark.parametrize("text", ["[duet]\nlimit = 1048576\nmax_tasks = 256\n", "limit", "[x]\n"])
def test_a_mistake_changes_nothing(device: Device, file: Path, text: str) -> None:
    """Also not what is right in it, nor what is in another file."""
    file.write_text('[duet]\non = false\nlimit = "64M"\n')
    wrong = Path(f"{file}.d/1.toml")
    wrong.parent.mkdir()
    wrong.write_text(text)
    before = settings()
    done = setup("--config", file)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert done.stderr.startswith(f"duet: {wrong}: ")
    assert done.stderr.count("\n") == 1
    assert (settings(), device.is_on()) == (before, True)


def test_a_check_changes_nothing(device: Device, file: Path) -> None:
    """Though all is right."""
    file.write_text('[duet]\non = false\nlimit = "64M"\n')
    before = settings()
    assert setup("--config", file, "--check").returncode == 0
    assert (settings(), device.is_on()) == (before, True)


@pytest.mark.parametrize(
    "config",
    [Config(max_tasks=3), Config(on=False), Config(limit=1 << 20), Config(task_limit=1 << 20)],
)
def test_who_may_not(device: Device, restored: object, config: Config) -> None:
    """A member of the group, and root without CAP_SYS_ADMIN: nothing is changed."""
    before = settings()

    def attempt() -> None:
        with Device(DEFAULT_DEVICE) as own:
            apply(own, config)

    with device_for_group():
        for ask in (lambda: as_user(ANNA, attempt), lambda: without_admin(attempt)):
            with pytest.raises(PermissionDeniedError):
                ask()
            assert (settings(), device.is_on()) == (before, True)


def test_the_configuration_of_the_machine(device: Device, restored: object) -> None:
    """Where it is read from without --config; doctor looks there, too."""
    CONFIG.parent.mkdir()
    try:
        CONFIG.write_text("[duet]\nmax_tasks = 2\n")
        assert setup().stderr.endswith(f"; by {CONFIG}\n")
        assert counter("max_tasks") == 2
        found = {finding.name: finding for finding in diagnose()}
        assert found["config"].verdict is Verdict.OK
        assert found["config"].found.startswith(f"{CONFIG}: on, for up to 2 tasks")
        # Nothing runs it by itself in the lab.
        assert (found["setup"].verdict, found["setup"].remedy) == (Verdict.WARNING, "duet setup")
        CONFIG.write_text("[duet]\nmax_tasks = two\n")
        assert setup().returncode == Exit.USAGE
        found = {finding.name: finding for finding in diagnose()}
        assert found["config"].verdict is Verdict.BAD
        assert str(CONFIG) in found["config"].remedy
    finally:
        CONFIG.unlink()
        CONFIG.parent.rmdir()


def test_right_after_the_module_was_loaded() -> None:
    """As systemd runs it: loaded, off, and nothing set."""
    subprocess.run(["rmmod", "duet"], check=True)
    assert setup().returncode == Exit.NOT_LOADED
    subprocess.run(["insmod", "/run/duet-lab/duet.ko"], check=True)
    before = settings()
    with Device() as device:
        assert not device.is_on()
        assert setup().returncode == 0
        assert (settings(), device.is_on()) == (before, True)
        device.stop()
