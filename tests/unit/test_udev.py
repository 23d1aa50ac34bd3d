# SPDX-License-Identifier: MIT
"""What udev/ has for systemd and udevd, as far as that shows without them running."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pyduet.admin.diagnosis import diagnose
from pyduet.cli import Exit, parser

TOP = Path(__file__).parents[2]
UDEV = TOP / "udev"
RULES = [UDEV / "60-duet.rules", UDEV / "61-duet-task.rules.example"]
UNITS = [UDEV / "duet-setup.service", UDEV / "duet-task@.service"]
FILES = [
    *RULES, *UNITS, UDEV / "duet.toml", UDEV / "sysusers.d/duet.conf",
    UDEV / "modules-load.d/duet.conf",
]  # fmt: skip

with_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


def knows_verify() -> bool:
    """Whether there is a udevadm that checks rules: from systemd 254 on."""
    return (
        bool(shutil.which("udevadm"))
        and not subprocess.run(
            ["udevadm", "verify", "--help"], capture_output=True, check=False
        ).returncode
    )


def rules(path: Path) -> list[list[tuple[str, str, str]]]:
    """The rules of a file: of each its keys, operators and values."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    pair = r'([A-Z]+(?:\{\w+\})?)(==|!=|\+=|:=|=)"([^"]*)"'
    assert all(re.fullmatch(rf"{pair}(, {pair})*", line) for line in lines)
    return [re.findall(pair, line) for line in lines]


def settings(path: Path) -> dict[str, list[str]]:
    """What a unit sets."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_nothing_else_is_there() -> None:
    """Whatever installs them knows these; the documentation names each."""
    assert {path for path in UDEV.rglob("*") if path.is_file()} == set(FILES)
    text = (TOP / "docs/administration.md").read_text()
    for path in FILES:
        assert f"`{path.relative_to(UDEV)}`" in text


def test_the_device_and_its_setup() -> None:
    [rule] = rules(RULES[0])
    assert ("KERNEL", "==", "duet") in rule
    assert ("SUBSYSTEM", "==", "misc") in rule
    assert {("GROUP", "=", "duet"), ("MODE", "=", "0660")} <= set(rule)
    # A long job has no place in udevd: systemd starts it.
    assert {("TAG", "+=", "systemd"), ("ENV{SYSTEMD_WANTS}", "+=", UNITS[0].name)} <= set(rule)
    assert not [key for key, _, _ in rule if key.startswith(("RUN", "PROGRAM", "IMPORT"))]
    assert "g duet -" in (UDEV / "sysusers.d/duet.conf").read_text().splitlines()
    assert "duet" in (UDEV / "modules-load.d/duet.conf").read_text().splitlines()


def test_the_doctor_knows_the_rule(tmp_path: Path) -> None:
    directory = tmp_path / "usr/lib/udev/rules.d"
    directory.mkdir(parents=True)
    shutil.copy(RULES[1], directory / "61-duet-task.rules")
    found = {finding.name: finding for finding in diagnose(root=tmp_path)}
    assert found["udev"].found.startswith("no rule")
    shutil.copy(RULES[0], directory)
    found = {finding.name: finding for finding in diagnose(root=tmp_path)}
    assert found["udev"].found == "/usr/lib/udev/rules.d/60-duet.rules"


def test_the_example_rule_starts_the_template() -> None:
    wanted = [value for rule in rules(RULES[1]) for key, _, value in rule if "WANTS" in key]
    assert wanted == ["duet-task@mnt-backup.service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_command_that_there_is(path: Path) -> None:
    unit = settings(path)
    assert unit["Documentation"] == ["man:duet(8)"]
    for line in unit["ExecStart"] + unit.get("ExecReload", []):
        program, *arguments = line.replace("%f", "/mnt").split()
        assert program == "/usr/bin/duet"
        parser().parse_args(arguments)


def test_a_unit_ends_with_what_it_needs() -> None:
    """And so begins again when that comes back."""
    setup, task = map(settings, UNITS)
    assert setup["BindsTo"] == setup["After"] == ["dev-duet.device"]
    assert (setup["Type"], setup["RemainAfterExit"]) == (["oneshot"], ["yes"])
    assert task["BindsTo"] == ["%i.mount dev-duet.device"]
    assert task["BindsTo"][0] in task["After"]
    # Stopped, or its file system went first: neither is a failure.
    assert task["SuccessExitStatus"] == [f"{Exit.GONE:d} {Exit.TERMINATED:d}"]
    assert task["IOSchedulingClass"] == task["CPUSchedulingPolicy"] == ["idle"]


@pytest.mark.skipif(not knows_verify(), reason="there is no udevadm verify (systemd 254)")
@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_udev_takes_the_rules(path: Path, tmp_path: Path) -> None:
    """But for the group, which is not on this machine."""
    copy = tmp_path / path.name.removesuffix(".example")
    shutil.copy(path, copy)
    done = subprocess.run(
        ["udevadm", "verify", "--resolve-names=never", copy],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@with_systemd
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_takes_the_unit(path: Path, tmp_path: Path) -> None:
    """With a command and a mount that are there, since Duet is not installed here."""
    for unit in UNITS:
        text = unit.read_text().replace("/usr/bin/duet", "/bin/true")
        (tmp_path / unit.name.replace("@", "@mnt-backup")).write_text(text)
    (tmp_path / "mnt-backup.mount").write_text("[Mount]\nWhat=/dev/none\nWhere=/mnt/backup\n")
    done = subprocess.run(
        ["systemd-analyze", "--man=no", "verify", tmp_path / path.name.replace("@", "@mnt-backup")],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@with_systemd
@pytest.mark.parametrize(("path", "most"), zip(UNITS, (2.5, 2.0), strict=True))
def test_a_unit_may_do_little(path: Path, most: float) -> None:
    """By systemd's own measure of exposure: 0 is none, 10 is all."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={most * 10:.0f}", path],
        capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
