# SPDX-License-Identifier: MIT
"""Building duet.ko against a kernel's headers, in the cache: the tree stays clean."""

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from .buildroot import get_build_root, inside
from .errors import LabError
from .host import DRIVER, cache_dir, locked, program, say
from .kernel import Kernel

# What a build by hand may have left in the tree.
_PRODUCTS = (".o", ".ko", ".cmd", ".mod", ".mod.c", ".symvers", ".order", ".d")
# A step of the build, as make reports it.
_STEP = re.compile(r"  [A-Z]+ |make\S*: (Entering|Leaving) directory")
# Of the kernel's build about the host, which says nothing about the driver.
_BESIDE = re.compile(r"pahole version differs|the compiler differs")
# Debian's sparse knows neither typeof_unqual nor what 7.x asserts in MODULE_LICENSE and its kin;
# after such errors it would go no further. gcc checks the assertions.
_SPARSE = "sparse -D__typeof_unqual__=__typeof__ '-D_Static_assert(...)='"
# gcc's own analysis of paths. It comes with a strict build, whose code it looks at.
_ANALYZER = "KCFLAGS=-fanalyzer"
# Sparse cannot read the headers, so it checks nothing: better to know.
_BLIND = re.compile(r"error: (Expected|too many errors)|is not available")


def _sources() -> dict[str, bytes]:
    """The driver's files by relative name, without build products."""
    if not (DRIVER / "Kbuild").exists():
        raise LabError(f"{DRIVER} has no Kbuild: there is no driver to build (try --no-load)")
    return {
        str(path.relative_to(DRIVER)): path.read_bytes()
        for path in sorted(DRIVER.rglob("*"))
        if path.is_file() and not path.name.endswith(_PRODUCTS)
    }


def _sync(files: dict[str, bytes], target: Path) -> None:
    """Make `target` hold the sources, touching only what changed so that make stays quick."""
    for name, content in files.items():
        path = target / name
        if path.is_file() and path.read_bytes() == content:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def build_module(kernel: Kernel, *, check: bool = False) -> tuple[Path, bytes]:
    """Build duet.ko if its sources changed; its path, and its content at this moment.

    Another lab may build it anew the next moment, hence the content.
    With `check`: from scratch, elsewhere, with W=1, sparse and gcc's -fanalyzer; a warning is an
    error.
    """
    # Kbuild looks at DUET_DEBUG. Each kind has a place of its own: neither undoes the other's.
    debug = os.environ.get("DUET_DEBUG", "")
    kind = "check" if check else "build-debug" if debug else "build"
    # Several checkouts may share the cache.
    checkout = hashlib.sha256(str(DRIVER).encode()).hexdigest()[:8]
    target = cache_dir() / "build" / f"{kernel.root.parent.name}-{checkout}" / kind
    with locked(f"{kind}-{kernel.release}-{checkout}"):
        files = _sources()
        digest = hashlib.sha256(f"{kernel.kdir} {debug}".encode())
        for name, content in files.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        stamp = target / ".duet-lab-sources"
        product = target / "duet.ko"
        known = stamp.read_text() if product.exists() and stamp.exists() else None
        if not check and known == digest.hexdigest():
            return product, product.read_bytes()
        old = target / ".duet-lab-files"
        if check or (old.exists() and old.read_text().splitlines() != list(files)):
            shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True, exist_ok=True)
        stamp.unlink(missing_ok=True)
        _sync(files, target)
        old.write_text("\n".join(files))
        say(f"{'checking' if check else 'building'} duet.ko for {kernel.release}")
        log = _make(kernel, target, check=check)
        if check:
            warnings = [line for line in log.splitlines() if _is_ours(line, target)]
            if warnings:
                raise LabError(
                    f"{len(warnings)} warnings for {kernel.release} (fix them in driver/):\n"
                    + "\n".join(line.replace(f"{target}/", "driver/") for line in warnings)
                )
        if not product.exists():
            raise LabError(f"the driver's Kbuild made no duet.ko in {target}")
        stamp.write_text(digest.hexdigest())
        return product, product.read_bytes()


def check_with(kernel: Kernel, name: str, checker: str) -> list[str]:
    """Build from scratch with another checker than sparse; what it says of the driver."""
    checkout = hashlib.sha256(str(DRIVER).encode()).hexdigest()[:8]
    target = cache_dir() / "build" / f"{kernel.root.parent.name}-{checkout}" / name
    with locked(f"{name}-{kernel.release}-{checkout}"):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        _sync(_sources(), target)
        say(f"{name}: duet.ko for {kernel.release}")
        log = _make(kernel, target, check=True, checker=checker)
        return [
            line.replace(f"{target}/", "driver/")
            for line in log.splitlines()
            if line.startswith(f"{target}/")
        ]


def _make(kernel: Kernel, target: Path, *, check: bool, checker: str | None = None) -> str:
    """Run the kernel's build in `target` and return what it wrote."""
    command = ["make", "-C", str(kernel.kdir), f"M={target}"]
    command.append(f"-j{os.cpu_count() or 1}")
    # The debug build of the kernel that BTF is made from is not there, and not needed.
    command.append("CONFIG_DEBUG_INFO_BTF_MODULES=")
    if check:
        command += ["W=1", "C=2", f"CHECK={checker or _SPARSE}"]
        if checker is None:
            command.append(_ANALYZER)
    command.append("modules")
    suite = kernel.series.build
    if suite is not None:
        command = inside(get_build_root(suite, kernel.compiler), command)
    else:
        command[0] = program("make", "make")
        program(kernel.compiler, kernel.compiler)
        if check:
            program("sparse", "sparse")
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},
        check=False,
    )
    log = done.stdout.replace(f"{target}/", "driver/") if not check else done.stdout
    if done.returncode != 0:
        # All but the names of the steps.
        words = [line for line in log.splitlines() if not _STEP.match(line)]
        raise LabError(f"building duet.ko for {kernel.release} failed:\n" + "\n".join(words[:80]))
    for line in log.splitlines():
        if not check and _is_ours(line, target):
            say(line)
    return log


def _is_ours(line: str, target: Path) -> bool:
    """Whether a line of the build's log is a warning about the driver, not the headers."""
    if _BLIND.search(line):
        return True
    if not re.search(r"\b(warning|error)\b", line, re.I) or _BESIDE.search(line):
        return False
    place = re.match(r"(\S+?):\d+(:\d+)?: ", line)
    if place is None:
        return True  # modpost, objtool, make
    return Path(place[1]).is_relative_to(target) or not Path(place[1]).is_absolute()
