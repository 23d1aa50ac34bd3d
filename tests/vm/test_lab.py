# SPDX-License-Identifier: MIT
"""The lab's own tests, on the host. Each boot takes some seconds, so each checks several things."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
LAB = str(HERE / "lab")

sys.path.insert(0, str(HERE))

from duetlab import packages, series  # noqa: E402
from duetlab.console import Console  # noqa: E402


def lab(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LAB, *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.parametrize("kernel", [known.name for known in series.stock_series()])
def test_status_streams_share_and_disk(kernel: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host")
    script = (
        "cat /share/in; echo 'to the host' >/share/out; echo oops, said COMMAND >&2;"
        "uname -r >&2; stat -f -c %T /mnt/duet >&2; test -t 0 || printf ' no tty'; exit 3"
    )
    done = lab(
        *("run", "-q", "--no-load", "--kernel", kernel, "--share", str(tmp_path)),
        *("--", "sh", "-c", script),
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout == "from the host no tty"
    said, release, kind = done.stderr.splitlines()
    assert said == "oops, said COMMAND"
    assert release.startswith(f"{kernel}.")
    assert kind == "ext2/ext3"
    assert (tmp_path / "out").read_text() == "to the host\n"


def test_a_disk_is_as_slow_as_it_is_to_be() -> None:
    """The guest's own clock is asked, as whoever measures there does."""
    script = "dd if=/dev/vda of=/dev/null bs=1M count=48 iflag=direct"
    done = lab("run", "-q", "--no-load", "--disk-rate", "16", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    took = re.search(r"copied, ([0-9.]+) s", done.stderr)
    assert took is not None, done.stderr
    # QEMU lets a tenth of a second's worth through at once.
    assert float(took[1]) > 2.5, done.stderr


def test_output_is_exact_and_complete() -> None:
    script = (
        "import os, sys; print(sorted(k for k in os.environ if k.startswith('LAB_T')));"
        "sys.stdout.flush();"
        "os.write(1, bytes(range(256)) * 4096); os.write(2, b'\\r\\n\\0' * 9); print('end')"
    )
    done = subprocess.run(
        [LAB, "run", "-q", "--no-load", "--env", "LAB_T1=a b", "--", "python3", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LAB_T2": "not passed"},
        timeout=300,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout == b"['LAB_T1']\n" + bytes(range(256)) * 4096 + b"end\n"
    assert done.stderr == b"\r\n\0" * 9


def test_kernel_warning_counts_although_command_succeeds() -> None:
    words = "WARNING: CPU: 0 PID: 1 at nowhere.c:1"
    done = lab("run", "-q", "--no-load", "--", "sh", "-c", f"echo '{words}' >/dev/kmsg")
    assert done.returncode == 70
    assert words in done.stderr
    assert done.stdout == ""


def test_panic_counts_and_is_shown() -> None:
    done = lab("run", "-q", "--no-load", "--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 60")
    assert done.returncode == 70
    assert "Kernel panic - not syncing: sysrq triggered crash" in done.stderr
    assert "sysrq_handle_crash" in done.stderr


def test_timeout_kills_the_machine() -> None:
    begin = time.monotonic()
    done = lab("run", "-q", "--no-load", "--timeout", "8", "--", "sleep", "1000")
    assert done.returncode == 124
    assert "--timeout" in done.stderr
    assert time.monotonic() - begin < 280


def test_terminal() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (31, 97))
    script = "stty size; read line; echo got $line; exit 5"
    with subprocess.Popen(
        [LAB, "run", "-q", "--no-load", "--timeout", "280", "--", "sh", "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(theirs)
        seen, typed = b"", False
        with contextlib.suppress(OSError):  # what a terminal says when the other side is gone
            while data := os.read(ours, 4096):
                seen += data
                if not typed and b"31 97\r\n" in seen:
                    os.write(ours, b"keys\r")
                    typed = True
        assert process.wait() == 5, seen
    os.close(ours)
    assert typed
    assert b"got keys\r\n" in seen


def test_bad_options() -> None:
    done = lab("run", "--kernel", "0.99", "--", "true")
    assert done.returncode == 2
    assert "0.99" in done.stderr
    for known in series.all_series():
        assert known.name in done.stderr
    assert lab("run", "--no-such-option", "--", "true").returncode == 2
    done = lab("run", "--icount", "--smp", "2", "--", "true")
    assert done.returncode == 2
    assert "--smp" in done.stderr


def test_a_machine_has_the_processors_asked_for() -> None:
    done = lab("run", "--smp", "3", "--", "nproc")
    assert (done.returncode, done.stdout) == (0, "3\n")
    done = lab("run", "--smp", "2", "--append", "maxcpus=1", "--", "true")
    assert done.returncode == 71
    assert "1 processors, not 2" in done.stderr


def test_debug_kernel_is_for_those_who_ask() -> None:
    assert "debug" not in lab("kernels").stdout.split()
    parts = series.find_series("debug").config
    assert parts
    assert all((HERE / name).is_file() for name in parts)


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        ("BUG: unable to handle page fault for address: ffff", True),
        ("------------[ cut here ]------------", False),
        ("refcount_t: underflow; use-after-free.", True),
        ("INFO: task duet:12 blocked for more than 60 seconds.", True),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", True),
        ("rcu: INFO: rcu_preempt detected stalls on CPUs/tasks: { 0-...D } 3 jiffies", True),
        ("WARNING: possible circular locking dependency detected", True),
        ("kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)", True),
        ("INFO: trying to register non-static key.", True),
        ("BUG: duet.ko lost memory (kmemleak)", True),
        ("clocksource: Marking clocksource tsc as unstable", False),
        ("duet: module verification failed: signature and/or required key missing", False),
    ],
)
def test_what_is_trouble(line: str, trouble: bool) -> None:
    console = Console(show=False)
    console.feed(f"[    1.0] {line}\r\n".encode())
    assert bool(console.trouble) == trouble


_RACE = """\
==================================================================
BUG: KCSAN: data-race in {} / mutex_spin_on_owner

write to 0xffff888002ae1dd8 of 4 bytes by task 71 on cpu 1:
 {}
 __x64_sys_read+0x3c/0x50

read to 0xffff888002ae1dd8 of 4 bytes by task 72 on cpu 0:
 mutex_spin_on_owner+0x3f/0xa0

Reported by Kernel Concurrency Sanitizer on:
CPU: 0 PID: 72 Comm: sh Not tainted
==================================================================
"""


@pytest.mark.parametrize(
    ("function", "trouble"),
    [("duet_task_read+0x10/0x20 [duet]", True), ("vfs_read+0x1/0x2", False)],
)
def test_races_of_others_are_no_trouble(function: str, trouble: bool) -> None:
    """And what comes after one of theirs is not held to be a part of it."""
    console = Console(show=False)
    console.feed(_RACE.format("someone", function).encode())
    assert [console.lines[index] for index in console.trouble] == (
        ["BUG: KCSAN: data-race in someone / mutex_spin_on_owner"] if trouble else []
    )
    console.feed(b"a line of duet.ko [duet]\n")
    assert len(console.trouble) == trouble
    console.feed(b"BUG: unable to handle page fault\n")
    assert len(console.trouble) == trouble + 1


def test_no_mirror_in_the_tree() -> None:
    hosts = {
        match[1]
        for uri in packages.mirrors().values()
        if (match := re.match(r"\w+://(?:[^/@]*@)?([^/:]+)", uri))
    }
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=HERE.parent.parent,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    assert hosts
    for name in os.fsdecode(listed.stdout).split("\0"):
        path = HERE.parent.parent / name
        if path.is_file():
            text = path.read_text(errors="replace")
            assert not [host for host in hosts if host in text], path
