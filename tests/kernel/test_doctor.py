# SPDX-License-Identifier: MIT
"""duet doctor against the real driver: what is wrong is found, and the command it says mends it."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import EVENTS, STATES, SYSFS, counter, eventually
from ordinary import ANNA, GROUP, as_user, device_for_group
from raw import errno_of
from truth import fill

from pyduet import DEFAULT_DEVICE, Device
from pyduet.admin.diagnosis import Finding, Verdict, diagnose
from pyduet.admin.machine import SOURCE

#: Where the lab keeps it.
MODULE = Path("/run/duet-lab/duet.ko")
MODULES = Path("/lib/modules") / os.uname().release
INSTALLED = MODULES / "updates/duet.ko"
RULE = Path("/etc/udev/rules.d/60-duet.rules")
NODE = Path(DEFAULT_DEVICE)
FTRACE = Path("/proc/sys/kernel/ftrace_enabled")
SECURITYFS = Path("/sys/kernel/security")
ACCOUNTS = [Path("/etc") / name for name in ("passwd", "shadow", "group", "gshadow")]
OK, WARNING, BAD, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.BAD, Verdict.UNKNOWN


def doctor() -> dict[str, Finding]:
    """Run the command as a process and return what it found, by check."""
    done = subprocess.run(
        [sys.executable, "-m", "pyduet", "doctor", "--json"],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    said = json.loads(done.stdout)
    found = [Finding(**{**check, "verdict": Verdict(check["verdict"])}) for check in said["checks"]]
    assert said["healthy"] == all(finding.verdict is not BAD for finding in found)
    assert done.returncode == (0 if said["healthy"] else 1)
    return {finding.name: finding for finding in found}


def mend(finding: Finding, where: Path = Path("/")) -> None:
    """Do what the doctor says."""
    assert finding.verdict is not OK
    subprocess.run(["sh", "-c", finding.remedy], cwd=where, check=True)


def as_anna(*groups: int) -> dict[str, Finding]:
    """Ask as an ordinary user who is in these groups."""
    found = as_user(ANNA, lambda: diagnose(), groups=groups)
    return {finding.name: finding for finding in found}


@pytest.fixture
def unloaded() -> Iterator[None]:
    """Take the module away, and bring it back if it did not come."""
    subprocess.run(["rmmod", "duet"], check=True)
    yield
    for path in (INSTALLED, SOURCE / "duet.ko"):
        path.unlink(missing_ok=True)
    if not SYSFS.exists():
        subprocess.run(["insmod", MODULE], check=True)


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[None]:
    """Put users and groups back afterwards."""
    for file in ACCOUNTS:
        shutil.copy2(file, tmp_path)
    yield
    for file in ACCOUNTS:
        shutil.copy2(tmp_path / file.name, file)


def test_all_is_well(unloaded: None, place: Path) -> None:
    """Just loaded and switched on, with a task."""
    subprocess.run(["insmod", MODULE], check=True)
    with Device() as device:
        device.start()
        with device.register(place / "tree", STATES):
            found = doctor()
        device.stop()
    # The lab installs nothing, and has neither udev nor systemd.
    assert {name for name, finding in found.items() if finding.verdict is not OK} == {
        "installed", "udev", "setup",
    }  # fmt: skip
    assert os.uname().release in found["kernel"].found
    assert (SYSFS.parents[2] / "module/duet/srcversion").read_text().strip() in found[
        "loaded"
    ].found
    assert found["device"].found.endswith(", root:root, mode 0600")
    assert found["access"].found == "root may open /dev/duet"
    assert found["on"].found == "on, 1 of 8 tasks in use"
    assert found["hooks"].found == "alive: added, removed, dirtied, flushed, evicted"


# The module


def test_a_module_that_is_not_there(unloaded: None) -> None:
    """Bad, and what depends on it is not known, nor mended by itself."""
    found = doctor()
    assert (found["installed"].verdict, found["loaded"].verdict) == (BAD, BAD)
    for name in ("device", "access", "on", "hooks", "drops"):
        assert (found[name].verdict, found[name].remedy) == (UNKNOWN, "")
    assert "modules_install" in found["installed"].remedy


def test_a_module_that_was_built(unloaded: None) -> None:
    """In the source, for this kernel: it can be inserted from there."""
    shutil.copy(MODULE, SOURCE)
    found = doctor()
    assert found["installed"].verdict is WARNING
    assert found["installed"].remedy == f"make -C {SOURCE} modules_install && depmod"
    assert found["loaded"].remedy == f"insmod {SOURCE}/duet.ko"
    mend(found["loaded"])
    assert doctor()["loaded"].verdict is OK


def test_a_module_that_is_installed(unloaded: None) -> None:
    """Where modprobe does not know of it until depmod has run; then it can be loaded."""
    INSTALLED.parent.mkdir(exist_ok=True)
    shutil.copy(MODULE, INSTALLED)
    found = doctor()
    assert (found["installed"].verdict, found["installed"].remedy) == (BAD, "depmod")
    mend(found["installed"])
    found = doctor()
    assert found["installed"] == Finding("installed", OK, str(INSTALLED))
    assert (found["loaded"].verdict, found["loaded"].remedy) == (BAD, "modprobe duet")
    mend(found["loaded"])
    found = doctor()
    assert found["installed"].verdict is found["loaded"].verdict is OK


def test_lockdown_that_cannot_be_seen(unloaded: None) -> None:
    """Without the module loaded it matters, and can be made visible."""
    assert not list(SECURITYFS.glob("*"))
    found = doctor()["signature"]
    if SECURITYFS.exists():
        assert found.verdict is UNKNOWN
        mend(found)
    found = doctor()["signature"]
    if SECURITYFS.exists():
        subprocess.run(["umount", SECURITYFS], check=True)
    assert (found.verdict, found.remedy) == (OK, "")


# The device, and who may open it


@pytest.mark.parametrize("wrong", ["missing", "file", "other"])
def test_a_wrong_device_node(device: Device, wrong: str) -> None:
    """It is made anew as the kernel makes it."""
    before = NODE.stat()
    NODE.unlink()
    if wrong == "file":
        NODE.touch()
    elif wrong == "other":
        os.mknod(NODE, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    found = doctor()
    assert found["device"].verdict is BAD
    assert found["access"].verdict is UNKNOWN
    mend(found["device"])
    found = doctor()
    assert found["device"].verdict is found["access"].verdict is OK
    after = NODE.stat()
    assert (after.st_mode, after.st_rdev) == (before.st_mode, before.st_rdev)


def test_a_device_for_everybody(device: Device) -> None:
    """A warning: who opens it can take every task."""
    NODE.chmod(0o666)
    found = doctor()["device"]
    assert found.verdict is WARNING
    assert as_anna()["access"].verdict is OK
    mend(found)
    assert doctor()["device"].found.endswith("mode 0660")
    NODE.chmod(0o600)


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_an_ordinary_user(device: Device, mode: int) -> None:
    """Root's device, or root's group's: a rule is wanted. The rest is found without opening it."""
    NODE.chmod(mode)
    found = as_anna()
    NODE.chmod(0o600)
    assert found["access"].verdict is BAD
    assert found["access"].found.endswith("only root may")
    assert found["access"].remedy == found["udev"].remedy
    for name in ("kernel", "loaded", "signature", "device", "on", "hooks"):
        assert found[name].verdict is OK, found[name]
    assert (found["drops"].verdict, found["drops"].remedy) == (UNKNOWN, "sudo duet doctor")


def test_a_group_to_join(device: Device, accounts: None) -> None:
    """Not in it; in it from the next login on; in it."""
    with device_for_group():
        stranger = as_anna()["access"]
        assert (stranger.verdict, stranger.remedy) == (BAD, "")
        subprocess.run(["useradd", "-u", str(ANNA), "anna"], check=True)
        outside = as_anna()["access"]
        assert outside.verdict is BAD
        assert outside.remedy == f"groupadd -g {GROUP} duet && usermod -aG duet anna"
        mend(outside)
        later = as_anna()["access"]
        assert (later.verdict, later.remedy) == (BAD, "newgrp duet")
        assert as_anna(GROUP)["access"] == Finding("access", OK, "anna may open /dev/duet")
        assert doctor()["device"].found.endswith("root:duet, mode 0660")
        subprocess.run(["gpasswd", "-d", "anna", "duet"], check=True)
        assert as_anna()["access"].remedy == "usermod -aG duet anna"


def test_an_open_that_the_mode_does_not_explain(device: Device) -> None:
    """A mount with nodev, as containers have."""
    node = Path("/run/nodev/duet")
    node.parent.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nodev", "none", node.parent], check=True)
    try:
        os.mknod(node, 0o660 | stat.S_IFCHR, NODE.stat().st_rdev)
        os.chmod(node, 0o660)
        os.chown(node, 0, GROUP)
        for there, access in (
            [finding for finding in ask() if finding.name in ("device", "access")]
            for ask in (
                lambda: diagnose(str(node)),
                lambda: as_user(ANNA, lambda: diagnose(str(node))),
            )
        ):
            assert there.verdict is OK
            assert (access.verdict, access.remedy) == (BAD, f"findmnt -T {node}")
    finally:
        subprocess.run(["umount", node.parent], check=True)


def test_a_udev_rule(unloaded: None, accounts: None) -> None:
    """None in the lab; the remedy writes one."""
    missing = doctor()["udev"]
    assert missing.verdict is WARNING
    RULE.parent.mkdir(parents=True, exist_ok=True)
    mend(missing)
    assert doctor()["udev"] == Finding("udev", OK, str(RULE))
    assert 'KERNEL=="duet"' in RULE.read_text()
    assert "duet:" in Path("/etc/group").read_text()
    RULE.unlink()


# What it does


def test_off(device: Device) -> None:
    """It is not broken, only off."""
    device.stop()
    off = doctor()["on"]
    assert (off.verdict, off.found) == (WARNING, "off, for up to 8 tasks")
    mend(off)
    assert doctor()["on"].found == "on, 0 of 8 tasks in use"


def test_all_tasks_in_use(device: Device, place: Path) -> None:
    """The next registration would fail."""
    with contextlib.ExitStack() as tasks:
        for _ in range(8):
            assert doctor()["on"].verdict is OK
            tasks.enter_context(device.register(place / "tree", STATES))
        full = doctor()["on"]
        assert full.verdict is WARNING
        assert full.found.startswith("on, all 8 tasks in use")
        mend(full)
        assert doctor()["on"].found == "on, 0 of 16 tasks in use"


def test_hooks_that_cannot_work(device: Device, place: Path) -> None:
    """Function tracing is off: found before a task fails, and after it."""
    FTRACE.write_text("0\n")
    try:
        off = doctor()["hooks"]
        assert off.verdict is BAD
        assert off.remedy == f"echo 1 >{FTRACE}"
        mend(off)
        assert doctor()["hooks"].verdict is OK
        FTRACE.write_text("0\n")
        assert errno_of(lambda: device.register(place / "tree", STATES))
        silent = doctor()["hooks"]
        assert silent.verdict is BAD
        assert silent.found.startswith("detached: added, removed, dirtied")
        assert "silent: flushed" in silent.found
        mend(silent, place / "tree")
    finally:
        FTRACE.write_text("1\n")
    assert eventually(lambda: counter("tasks") == 0)
    detached = Finding("hooks", OK, "detached: added, removed, dirtied, flushed, evicted")
    assert eventually(lambda: doctor()["hooks"] == detached)


def test_drops(device: Device, place: Path) -> None:
    """What was dropped is told, with the limit that did it, doubled."""
    before = device.info()
    with device.register(place / "tree", EVENTS, limit=1):
        for i in range(10):
            fill(place / f"tree/{i}", 1)
    dropped = doctor()["drops"]
    count = counter("drops/task_limit")
    assert count > before.drops.task_limit
    assert dropped.verdict is WARNING
    assert f"{count} (task_limit)" in dropped.found
    mend(dropped)
    assert device.info().task_limit == 2 * before.task_limit
    (SYSFS / "task_limit_bytes").write_text("0")
