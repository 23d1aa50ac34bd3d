# SPDX-License-Identifier: MIT
"""Kernels that the lab builds: Debian's source package with a configuration of the lab's own."""

import hashlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from .errors import LabError
from .host import LAB_DIR, output_of, program, say
from .packages import Apt, Package
from .series import Series

_COMPILER = "gcc-12"
# Lockdep, which every lock calls, needs no checks by KASAN; later kernels leave them out, too.
_MAKE = (f"CC={_COMPILER}", f"HOSTCC={_COMPILER}", "KASAN_SANITIZE_lockdep.o=n")
# Neither read nor compiled for any configuration of this architecture; a third of the source.
_LEFT_OUT = ("Documentation/*/*", "drivers/gpu/drm/amd/include", "tools/perf", "tools/testing")
_STEP = re.compile(r"  [A-Z][A-Z0-9_ ]+ \S+")
_PROGRESS_SECONDS = 60


def identity(series: Series) -> str:
    """The name under which the cache has a series that is built: the same recipe, the same name."""
    version = output_of([program(_COMPILER, _COMPILER), "--version"], "asking for gcc's version")
    recipe = [_configuration(series), *_MAKE, *series.make, version]
    return f"{series.name}-{hashlib.sha256(repr(recipe).encode()).hexdigest()[:8]}"


def release_of(package: Package, name: str) -> str:
    """The release of a kernel that is built from a source package."""
    return f"{package.version.partition('-')[0]}-{name}"


def build_kernel(apt: Apt, package: Package, series: Series, release: str, target: Path) -> None:
    """Build a kernel, and lay it out below `target` as the packages of a stock one would be."""
    say(f"downloading the source of {release}")
    apt.unpack([f"{package.name}={package.version}"], target / "package")
    tree = target / "tree"
    _unpack(target / "package/usr/src" / f"{package.name}.tar.xz", package.name, tree)
    shutil.rmtree(target / "package")
    make = [program("make", "make"), "-C", str(tree), *_MAKE, *series.make]
    make.append(f"LOCALVERSION=-{release.partition('-')[2]}")
    _configure(make, tree, series)
    say(f"building {release}, which takes some 10 to 20 minutes, once")
    _compile([*make, f"-j{os.cpu_count() or 1}", "vmlinux", "modules"], target.with_suffix(".log"))
    _lay_out(tree, release, target)
    shutil.rmtree(tree)


def _configuration(series: Series) -> str:
    """The configuration of a series that is built."""
    return "".join((LAB_DIR / name).read_text() for name in series.config)


def _unpack(archive: Path, top: str, tree: Path) -> None:
    """Unpack the source."""
    tree.mkdir()
    output_of(
        [
            *("tar", "-xJf", str(archive), "-C", str(tree), "--strip-components=1"),
            *(f"--exclude={top}/{name}" for name in _LEFT_OUT),
        ],
        "unpacking the source",
    )


def _configure(make: list[str], tree: Path, series: Series) -> None:
    """Configure a kernel with nothing but what its fragments say, and what those need."""
    configuration = _configuration(series)
    fragment = tree / "lab.config"
    fragment.write_text(configuration)
    output_of([*make, f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig"], "configuring the kernel")
    wanted = [line for line in configuration.splitlines() if line.startswith("CONFIG_")]
    got = set((tree / ".config").read_text().splitlines())
    if refused := [line for line in wanted if line not in got]:
        said = ", ".join(series.config)
        raise LabError(f"this source does not take what {said} say: {', '.join(refused)}")


def _compile(command: list[str], log: Path) -> None:
    """Run a long build, with a word about its progress now and then."""
    begin = said = time.monotonic()
    steps = 0
    with (
        open(log, "w") as words,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        ) as process,
    ):
        try:
            for line in process.stdout or ():
                words.write(line)
                if not _STEP.match(line):
                    continue
                steps += 1
                now = time.monotonic()
                if now - said >= _PROGRESS_SECONDS:
                    said = now
                    say(f"{(now - begin) / 60:.0f} minutes, {steps} steps, {line.split()[-1]}")
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        last = "\n".join(log.read_text().splitlines()[-20:])
        raise LabError(f"building the kernel failed; the end of {log}:\n{last}")
    log.unlink()


def _lay_out(tree: Path, release: str, target: Path) -> None:
    """Take what is wanted out of a built tree."""
    root = target / "root"
    (tree / "vmlinux").rename(target / "vmlinux")
    modules = root / "usr/lib/modules" / release
    (modules / "kernel").mkdir(parents=True)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(tree / name, modules)
    output_of(
        [program("depmod", "kmod"), "-b", str(root / "usr"), release],
        "indexing the kernel's modules",
    )
    kdir = root / "usr/src" / f"linux-headers-{release}"
    # What makes the kernel's own packages of headers.
    output_of(
        [
            *("sh", "-ec", 'cd "$1"; exec sh scripts/package/install-extmod-build "$2"', "sh"),
            *(str(tree), str(kdir)),
        ],
        "picking the headers",
        {"srctree": ".", "SRCARCH": "x86", "CC": _COMPILER, "HOSTCC": _COMPILER},
    )
    (kdir / ".kernelvariables").write_text(f"override CC = {_COMPILER}\n")
