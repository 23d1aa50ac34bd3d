# SPDX-License-Identifier: MIT
"""On the host: the programs and modules that the guest gets, in build/bench."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent.parent
PROJECT = BENCH.parent.parent
LAB = PROJECT / "tests/vm/lab"
OUT = PROJECT / "build/bench"


def output_of(*command: str) -> str:
    """Run a program; its output. Its errors are seen."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout.strip()


def modules(kernel: str, source: Path, *options: str) -> None:
    """Build the modules of a directory, there."""
    headers = output_of(str(LAB), "headers", "--kernel", kernel)
    # As for duet.ko: what BTF would be made from is not there.
    fixed = ("CONFIG_DEBUG_INFO_BTF_MODULES=", *options)
    output_of("make", "-C", headers, f"M={source}", *fixed, "modules")


def told_by(command: list[str]) -> tuple[list[list[Any]], int]:
    """Run a program that tells figures, a line of JSON each; its status. Other lines are seen."""
    told = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("["):
                told.append(json.loads(line))
            else:
                sys.stderr.write(line)
    return told, process.returncode


def about(program: str, argv: list[str], kernel: str) -> str:
    """What was measured, by which command."""
    commit = output_of("git", "-C", str(PROJECT), "describe", "--always", "--dirty")
    headers = Path(output_of(str(LAB), "headers", "--kernel", kernel)).name
    release = headers.removeprefix("linux-headers-")
    day = time.strftime("%Y-%m-%d")
    command = " ".join([program, *argv])
    return f"`{command}`, {day}, driver of commit {commit}, kernel {release}."


def _programs(target: Path) -> None:
    for name in ("load", "task"):
        output_of(
            *("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static"),
            *("-I", str(PROJECT / "driver/uapi"), "-o", str(target / name)),
            str(BENCH / f"guest/{name}.c"),
        )


def _peers(target: Path) -> None:
    source = BENCH / "bpf"
    output_of(
        *("clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-D__TARGET_ARCH_x86"),
        *("-I/usr/include/x86_64-linux-gnu", "-c", "-o", str(target / "peers.bpf.o")),
        str(source / "peers.bpf.c"),
    )
    output_of(
        *("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-o", str(target / "peer")),
        *(str(source / "peer.c"), "-lbpf", "-lelf", "-lz"),
    )


def _probe(kernel: str, target: Path) -> None:
    source = OUT / f"probe-{kernel}"
    shutil.copytree(BENCH / "probe", source, dirs_exist_ok=True)
    modules(kernel, source)
    shutil.copy(source / "emptyprobe.ko", target)


def build(kernel: str, *, peers: bool) -> Path:
    """Build all that the guest needs; the directory that holds it."""
    target = OUT / f"guest-{kernel}"
    target.mkdir(parents=True, exist_ok=True)
    _programs(target)
    if peers:
        _peers(target)
    _probe(kernel, target)
    shutil.copy(output_of(str(LAB), "build", "--kernel", kernel), target / "duet.ko")
    return target
