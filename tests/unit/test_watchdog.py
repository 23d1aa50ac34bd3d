# SPDX-License-Identifier: MIT
"""What is said of a file that is waited for without end."""

import subprocess
import sys
from pathlib import Path

from pyduet.maintenance.frame import watchdog

#: Opens a file, takes a name that is no text, and waits.
HOLDER = """
import sys
file = open(sys.argv[1])
open("/proc/self/comm", "wb").write(b"\\xffname")
print(flush=True)
sys.stdin.read()
"""


def test_who_has_a_file_open_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    assert list(watchdog._holders(str(path))) == []
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline()
        assert list(watchdog._holders(str(path))) == [f"process {holder.pid} (\udcffname)"]
