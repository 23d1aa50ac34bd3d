# SPDX-License-Identifier: MIT
"""A series' kernel, modules and headers in the cache."""

import json
import lzma
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .host import cache_dir, locked, output_of, program, say
from .packages import Apt, Package
from .series import Series
from .source import build_kernel, identity, release_of


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel."""

    series: Series
    release: str
    root: Path

    @property
    def vmlinux(self) -> Path:
        """The uncompressed kernel, which QEMU starts directly."""
        return self.root.parent / "vmlinux"

    @property
    def modules(self) -> Path:
        """Its modules, what /lib/modules/RELEASE is in the guest."""
        for lib in ("usr/lib", "lib"):
            path = self.root / lib / "modules" / self.release
            if (path / "kernel").is_dir():
                return path
        raise LabError(f"no modules of {self.release} in {self.root}; remove it and try again")

    @property
    def kdir(self) -> Path:
        """Its headers, the KDIR of a module build."""
        return self.root / "usr/src" / f"linux-headers-{self.release}"

    @property
    def compiler(self) -> str:
        """The compiler its headers are for, which is also the name of its package."""
        named = re.search(r"\b(gcc-\d+)\b", (self.kdir / ".kernelvariables").read_text())
        if named is None:
            raise LabError(f"{self.kdir}/.kernelvariables names no compiler")
        return named[1]


def get_kernel(series: Series, *, update: bool = False) -> Kernel:
    """The series' kernel: the one in the cache, or the newest when there is none."""
    name = series.name if not series.config else identity(series)
    base = cache_dir() / "kernels" / name
    current = base / "current.json"
    with locked(f"kernel-{name}"):
        if current.exists() and not update:
            known = json.loads(current.read_text())
            if (base / known["dir"] / "vmlinux").exists():
                return Kernel(series, known["release"], base / known["dir"] / "root")
        return _fetch(series, base, current)


def _fetch(series: Series, base: Path, current: Path) -> Kernel:
    """Download or build the newest kernel of the series, unless it is there already."""
    apt = Apt(series.suites)
    apt.update()
    package = apt.newest(series.package)
    if not series.config:
        release = package.name.removeprefix("linux-image-")
    else:
        release = release_of(package, base.name)
    directory = f"{release}_{package.version}".replace(":", "_")
    final = base / directory
    if not final.exists():
        partial = base / (directory + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        if not series.config:
            kernel = Kernel(series, release, partial / "root")
            _download(apt, package, kernel)
            _prepare(kernel, final)
        else:
            build_kernel(apt, package, series, release, partial)
        partial.rename(final)
    current.write_text(json.dumps({"dir": directory, "release": release}))
    return Kernel(series, release, final / "root")


def _download(apt: Apt, image: Package, kernel: Kernel) -> None:
    """Download and unpack the packages of a stock kernel."""
    headers = f"linux-headers-{kernel.release}"
    needed = [f"{image.name}={image.version}", f"{headers}={image.version}"]
    # The rest of the headers, and of newer images, which have come apart; not the compiler.
    for name in (image.name, headers):
        needed += re.findall(
            r"(?:^|, )(linux-(?:base|binary|headers|kbuild|modules)-[^\s,]+)",
            apt.depends(name, image.version),
        )
    say(f"downloading {kernel.release} {image.version}")
    apt.unpack(sorted(set(needed)), kernel.root)


def _prepare(kernel: Kernel, final: Path) -> None:
    """Make an unpacked kernel usable where it will lie, `final`."""
    root = kernel.root
    # Headers name each other by absolute path.
    makefile = kernel.kdir / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{final}/root/usr/src/"))
    # 7.x asks this whether sparse is good enough, and its packages lack it; without an answer it
    # would skip the check in silence.
    checker = kernel.kdir / "scripts/checker-valid.sh"
    if not checker.exists():
        checker.write_text("#!/bin/sh\necho 1\n")
        checker.chmod(0o755)
    # Documentation and dead links into a machine where the packages are installed.
    shutil.rmtree(root / "usr/share", ignore_errors=True)
    for name in ("build", "source"):
        (kernel.modules / name).unlink(missing_ok=True)
    base = kernel.modules.parent.parent.parent
    output_of(
        [program("depmod", "kmod"), "-b", str(base), kernel.release],
        "indexing the kernel's modules",
    )
    # Older packages have the image in /boot, newer ones with the modules.
    places = (root / "boot" / f"vmlinuz-{kernel.release}", kernel.modules / "vmlinuz")
    image = next((place.read_bytes() for place in places if place.exists()), b"")
    vmlinux = _unpack_vmlinux(image)
    if vmlinux is None:
        raise LabError(f"cannot find an uncompressed kernel in the image of {kernel.release}")
    partial = root.parent / "vmlinux.partial"
    partial.write_bytes(vmlinux)
    os.replace(partial, root.parent / "vmlinux")


def _unpack_vmlinux(image: bytes) -> bytes | None:
    """The ELF kernel in a bzImage.

    Uncompressing here, once, saves the guest several seconds at every boot under emulation.
    """
    for match in re.finditer(rb"\xfd7zXZ\x00", image):
        try:
            plain = lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(image[match.start() :])
        except lzma.LZMAError:
            continue
        if plain.startswith(b"\x7fELF"):
            return plain
    for match in re.finditer(rb"\x28\xb5\x2f\xfd", image):
        # zstd grumbles about what follows the frame, after having written all of it.
        done = subprocess.run(
            [program("zstd", "zstd"), "-dcq"],
            input=image[match.start() :],
            capture_output=True,
            check=False,
        )
        if done.stdout.startswith(b"\x7fELF"):
            return done.stdout
    return None
