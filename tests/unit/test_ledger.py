# SPDX-License-Identifier: MIT
"""The ledger: what counts of a pass, numbers at their limits, what is said when it is broken."""

import os
import resource
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ordinary import BERT, as_user

from pyduet.maintenance import Ledger, LedgerError, Record, Stamp, Status, Work

#: A time that a file system can keep: XFS and ext4 from 1901 on, and up to 2486.
TIMES = st.integers(-(2**31) * 10**9, 2**34 * 10**9)


def status_of(ino: int, *, born: int = 7, size: int = 0, mtime: int = 0, ctime: int = 0) -> Status:
    return Status(
        stat.S_IFREG | 0o600, 1, 0, 0, 5, ino, size, 8, 4096, 0, 0, mtime, ctime, born, 1, False
    )


def work(path: str, status: Status, generation: int = 3) -> Work:
    return Work.of(path, status, generation, None)


@pytest.fixture
def state(tmp_path: Path) -> str:
    return str(tmp_path / "state")


def opened(state: str, **options: bool) -> Ledger:
    return Ledger(state, "backup", "/srv", **options)


@given(
    st.integers(0, 2**64 - 1), TIMES, st.integers(0, 2**63 - 1), TIMES, TIMES,
    st.integers(0, 2**64 - 1), st.binary(min_size=1), st.booleans(),
)  # fmt: skip
def test_a_record_is_what_was_put(
    ino: int, born: int, size: int, mtime: int, ctime: int, generation: int, name: bytes,
    settled: bool,
) -> None:  # fmt: skip
    status = status_of(ino, born=born, size=size, mtime=mtime, ctime=ctime)
    path = os.fsdecode(name)
    with opened(":memory:") as ledger:
        ledger.put(work(path, status, generation), ["a note"], settled=settled)
        stamp = Stamp(ino, size, mtime, ctime)
        record = Record(path, stamp, generation, settled, 1, ["a note"])
        assert ledger.get(status) == record
        assert record.holds(stamp) == settled
        assert list(ledger.inodes()) == [
            ((ino - 2**64 if ino >= 2**63 else ino, born), record),
        ]
        ledger.forget(record, born)
        assert ledger.get(status) is None


def test_what_a_pass_did_counts_when_it_has_ended(state: str) -> None:
    """A pass that was given up has left no archive, so nothing of it is in one."""
    old, new = status_of(1, mtime=1), status_of(1, mtime=2)
    with opened(state) as ledger:
        ledger.put(work("f", old), "full")
        ledger.end()
    with opened(state) as ledger:
        ledger.put(work("f", new), "incremental")
        ledger.put(work("g", status_of(2)), "incremental")
        ledger.remark("written", 5)
        ledger.keep("chain", "c")
        ledger.commit()
    with opened(state) as ledger:
        assert (ledger.resumed, ledger.number, ledger.note("written")) == (True, 2, 5)
        given = ledger.done_now(new), ledger.done_before(new)
        assert [one and one.note for one in given] == ["incremental", "full"]
    with opened(state, anew=True) as ledger:
        assert (ledger.resumed, ledger.number, ledger.note("written")) == (False, 3, None)
        assert ledger.fact("chain") == "c"
        assert ledger.done_now(new) is None
        [record] = ledger.files()
        assert (record.note, record.stamp.mtime_ns) == ("full", 1)


def test_it_may_be_looked_at_and_not_changed(state: str, tmp_path: Path) -> None:
    with opened(state, read_only=True) as ledger:
        assert list(ledger.files()) == []
    assert os.listdir(tmp_path) == []
    with opened(state) as ledger:
        ledger.put(work("f", status_of(1)))
        ledger.end()
    before = Path(state).read_bytes()
    with opened(state, read_only=True, anew=True) as ledger:
        assert [record.path for record in ledger.files()] == ["f"]
        assert (ledger.number, ledger.done_now(status_of(1))) == (2, None)
    assert Path(state).read_bytes() == before
    with opened(state), pytest.raises(LedgerError, match="another task is using it"):
        opened(state, read_only=True)


@pytest.fixture
def half_written() -> Iterator[str]:
    """A ledger that a crash has left with what was not committed, where everybody may look."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)  # noqa: S103 - another user looks into it
        state = f"{directory}/state"
        with opened(state) as ledger:
            ledger.put(work("f", status_of(1)))
            ledger.end()
        pid = os.fork()
        if not pid:
            with opened(state) as ledger:
                for ino in range(20_000):
                    ledger.put(work("g" * 200, status_of(ino)))
                os._exit(0)  # more than SQLite keeps in memory
        os.waitpid(pid, 0)
        assert os.path.getsize(state) > 1 << 20
        for file in (state, f"{state}-journal"):
            os.chmod(file, 0o644)
        yield state


def test_what_a_crash_left_may_be_looked_at(half_written: str) -> None:
    with opened(half_written, read_only=True) as ledger:
        assert [record.path for record in ledger.files()] == ["f"]
    with opened(half_written) as ledger:
        assert [record.path for record in ledger.files()] == ["f"]


def test_what_a_crash_left_and_only_another_may_take_back(half_written: str) -> None:
    def look() -> str:
        with pytest.raises(LedgerError) as error:
            opened(half_written, read_only=True)
        return str(error.value)

    for file in (half_written, f"{half_written}-journal"):
        os.chmod(file, 0o444)
    words = look() if os.geteuid() else as_user(BERT, look, groups=())
    assert "half written" in words
    assert os.path.getsize(f"{half_written}-journal") > 0


def test_an_empty_file_is_a_new_ledger(state: str) -> None:
    """As a first run leaves it whose disk is full."""
    Path(state).touch()
    with opened(state, read_only=True) as ledger:
        assert (ledger.resumed, list(ledger.files())) == (False, [])
    assert os.path.getsize(state) == 0
    with opened(state) as ledger:
        assert ledger.number == 1


def test_many_are_told_in_order_and_forgotten_meanwhile() -> None:
    with opened(":memory:") as ledger:
        for ino in range(2500):
            ledger.put(work(f"f{ino}", status_of(ino)))
        ledger.end()
        for ino in range(0, 2500, 5):
            ledger.put(work(f"g{ino}", status_of(ino)))
        found = []
        for (ino, born), record in ledger.inodes():
            found.append(record.path)
            if ino % 2:
                ledger.forget(record, born)
        assert found == [f"{'f' if ino % 5 else 'g'}{ino}" for ino in range(2500)]
        assert len(list(ledger.files())) == 1250


def scribble(state: str) -> None:
    with open(state, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(4096 * 3))


def scribble_in_the_middle(state: str) -> None:
    with open(state, "r+b") as file:
        # Among the files of the passes that ended; what is before it may be of no use any more.
        file.seek(os.stat(state).st_size * 3 // 4 & ~4095)
        file.write(os.urandom(4096 * 3))


def truncate(state: str) -> None:
    os.truncate(state, os.stat(state).st_size // 2)


def junk(state: str) -> None:
    Path(state).write_bytes(os.urandom(5000))


@pytest.mark.parametrize("damage", [scribble, scribble_in_the_middle, truncate, junk])
def test_what_is_damaged_is_said_in_one_line_with_the_way_out(
    state: str, damage: Callable[[str], None]
) -> None:
    with opened(state) as ledger:
        for ino in range(2000):
            ledger.put(work("f" * 100, status_of(ino)))
        ledger.end()
    damage(state)

    def use(**options: bool) -> None:
        with opened(state, **options) as ledger:
            assert len(list(ledger.files())) in (0, 2000)
            ledger.put(work("f", status_of(1)))
            ledger.end()

    with pytest.raises(LedgerError, match=r"^[^\n]*is damaged[^\n]*--anew moves it aside[^\n]*$"):
        use()
    damaged = Path(state).read_bytes()
    before = os.listdir(os.path.dirname(state))
    with opened(state, anew=True, read_only=True) as ledger:
        assert ledger.warning == (
            f"{state} is damaged: a run would move it to {state}.damaged-1, and begin with an "
            "empty one"
        )
        assert (ledger.number, list(ledger.files())) == (1, [])
    assert os.listdir(os.path.dirname(state)) == before
    assert Path(state).read_bytes() == damaged
    use(anew=True)
    assert Path(state + ".damaged-1").read_bytes() == damaged


def fill(ledger: Ledger) -> None:
    for ino in range(5000):
        ledger.put(work("f" * 1000, status_of(ino)))
    ledger.commit()


def test_a_full_disk_is_said(state: str) -> None:
    """By a limit of the process: the error of SQLite is the same."""
    with opened(state) as ledger:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
        try:
            with pytest.raises(LedgerError, match=r"state: .*(no room|disk I/O error)"):
                fill(ledger)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_after_an_error_nothing_is_taken(state: str) -> None:
    """Without what SQLite has given up, it would say what is not so."""
    with opened(state) as ledger:
        ledger.put(work("f", status_of(1)))
        ledger.commit()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, hard))
        try:
            with pytest.raises(LedgerError) as first:
                fill(ledger)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        for use in (lambda: ledger.remark("written", 1), ledger.commit, ledger.end):
            with pytest.raises(LedgerError) as later:
                use()
            assert str(later.value) == str(first.value)
    with opened(state) as ledger:
        assert ledger.note("written") is None
        assert [record.path for record in ledger.files()] == ["f"]


def test_ctrl_c_within_a_commit(state: str) -> None:
    with opened(state) as ledger:
        ledger.put(work("f", status_of(1)))
        ledger._data.execute("commit")  # and then it came
        ledger.remark("name", 1)
        ledger.commit()
    with opened(state) as ledger:
        assert ledger.note("name") == 1
        assert len(list(ledger.files())) == 1


def test_what_cannot_be_made_is_said(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"name another with --state"):
        opened(str(tmp_path / ("x" * 300)))


def test_another_format_is_refused(state: str) -> None:
    with sqlite3.connect(state) as data:
        data.execute("create table about (name text)")
        data.execute("pragma user_version = 1")
    data.close()
    with pytest.raises(LedgerError, match="its format is 1, and should be"):
        opened(state)
