# SPDX-License-Identifier: MIT
"""Somebody who exchanges two names as fast as the kernel can, while others work there."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _EXCHANGE = -100, 2

_SOURCE = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <signal.h>
int main(int count, char **names) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    puts("running");
    fflush(stdout);
    while (!renameat2(AT_FDCWD, names[1], AT_FDCWD, names[2], RENAME_EXCHANGE))
        ;
    return 1;
}
"""


def exchange(one: Path, other: Path) -> None:
    """Exchange two names, at once."""
    if _LIBC.renameat2(_AT_FDCWD, bytes(one), _AT_FDCWD, bytes(other), _EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


@contextlib.contextmanager
def exchanging(one: Path, other: Path, place: Path) -> Iterator[None]:
    """Have two names exchanged in a loop, by a program that is compiled in a place."""
    program = place / "exchange"
    if not program.exists():
        source = program.with_suffix(".c")
        source.write_text(_SOURCE)
        subprocess.run(["gcc", "-O2", "-o", program, source], check=True)
    with subprocess.Popen([program, one, other], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"running\n"
        try:
            yield
            assert process.poll() is None, "it could not exchange them"
        finally:
            process.kill()
