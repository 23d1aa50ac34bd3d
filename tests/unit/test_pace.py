# SPDX-License-Identifier: MIT
"""What is read in /proc before a task uses the disk or memory; some containers have stand-ins."""

import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pyduet.maintenance.frame import pace
from pyduet.maintenance.sharing.holding import available

_PRESSURE = st.lists(
    st.sampled_from([b"some", b"full", b" ", b"avg10=0.00", b"total", b"=", b"9", b"-", b"\n"])
).map(b"".join)
_MEMORY = st.lists(
    st.sampled_from([b"MemTotal", b"MemFree", b"MemAvailable", b":", b" ", b"9", b" kB", b"\n"])
).map(b"".join)
_EVERY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@_EVERY
@given(content=_PRESSURE | st.binary())
@example(content=b"")
@example(content=b"some")
@example(content=b"some total=")
@example(content=b"some avg10=0.00\n")
@example(content=b"some avg10=0.00 avg60=0.00 avg300=0.00 total=" + b"9" * 5000)
def test_what_tells_no_pressure(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "io").write_bytes(content)
    monkeypatch.setattr(pace, "_PRESSURE", str(tmp_path / "io"))
    told = pace._stalled()
    assert told is None or b"total=" in content
    assert pace.Courtesy(lambda _: None).may_read()


@given(number=st.integers(0, 2**53))
@_EVERY
def test_pressure_is_told(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "avg10=0.00 avg60=0.25 avg300=1.00 total="
    (tmp_path / "io").write_text(f"some {words}{number}\nfull {words}{number // 2}\n")
    monkeypatch.setattr(pace, "_PRESSURE", str(tmp_path / "io"))
    assert pace._stalled() == number / 1e6


def test_what_others_read_is_told() -> None:
    assert pace._read_by_others() is not None


@_EVERY
@given(content=_MEMORY | st.binary())
@example(content=b"MemAvailable:\n")
@example(content=b"")
def test_memory_is_told(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_bytes(content)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert available() >= 0


def test_memory_is_told_without_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    total = psutil.virtual_memory().total
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert 0 < available() < total
