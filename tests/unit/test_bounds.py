# SPDX-License-Identifier: MIT
"""What ``make bounds`` takes for too long, and that it knows all that the driver locks."""

from pathlib import Path

from bounds.duetbounds.cli import unmeasured
from bounds.duetbounds.report import LIMIT, Row, failures
from bounds.duetbounds.sections import Probe

DRIVER = Path(__file__).parents[2] / "driver"


def test_each_lock_of_the_driver_is_measured() -> None:
    assert unmeasured(DRIVER) == set()


def test_a_lock_that_is_not_measured_is_found(tmp_path: Path) -> None:
    (tmp_path / "some.c").write_text("	/* spin_lock_bh(x) */\n	read_lock_irq(&lock);\n")
    assert unmeasured(tmp_path) == {"read_lock_irq"}


def _row(section: int, probe: int) -> Row:
    return Row("one", "read", 8, True, [(section, 1, "f")], [Probe("added", probe, 1, probe)], 0)


def test_what_is_as_long_as_it_may_be_is_no_failure() -> None:
    assert failures([_row(LIMIT, LIMIT)]) == []


def test_a_section_or_a_probe_that_is_longer_is_one() -> None:
    assert failures([_row(LIMIT + 1, 0)]) == ["one, 8, read: 20001 in f"]
    assert failures([_row(0, LIMIT + 1)]) == ["one, 8, read: 20001 in added"]
