# SPDX-License-Identifier: MIT
"""The initramfs: busybox, a few modules, the guest's init; and this run's settings."""

import contextlib
import hashlib
import io
import lzma
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from .errors import LabError
from .host import cache_dir, locked, output_of, program
from .kernel import Kernel

_HERE = Path(__file__).resolve().parent
# What the guest needs before it sees the host's files, where the rest of the modules is.
_MODULES = ("virtio_pci", "virtio_console", "virtio_blk", "9pnet_virtio", "9p", "overlay")
_APPLETS = (
    *("cp", "insmod", "ln", "mkdir", "mount", "poweroff", "sh", "sleep", "switch_root", "umount"),
)


def archive(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive (newc), parents before children; entries are (name, mode, content)."""
    out = io.BytesIO()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        encoded = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(data)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def _module_files(kernel: Kernel) -> list[str]:
    """The modules' files, relative to the modules' directory, in the order to load them."""
    depends: dict[str, list[str]] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        file, _, rest = line.partition(":")
        depends[file] = rest.split()
    builtin = (kernel.modules / "modules.builtin").read_text().splitlines()
    by_name = {_name(file): file for file in depends}
    order: list[str] = []
    for name in _MODULES:
        if name in {_name(file) for file in builtin}:
            continue
        if name not in by_name:
            raise LabError(f"kernel {kernel.release} has no module {name}: not a generic kernel?")
        # modules.dep lists a module's dependencies nearest first.
        for file in [*reversed(depends[by_name[name]]), by_name[name]]:
            if file not in order:
                order.append(file)
    return order


def _name(file: str) -> str:
    """The name of the module in a file."""
    return os.path.basename(file).split(".ko")[0].replace("-", "_")


def _plain(path: Path) -> bytes:
    """A module's content, uncompressed."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        plain = path.with_suffix(".plain")
        output_of([program("zstd", "zstd"), "-dqf", str(path), "-o", str(plain)], "unpacking")
        return plain.read_bytes()
    return path.read_bytes()


def base_initramfs(kernel: Kernel) -> bytes:
    """The part that is the same for every run of a kernel, kept in the cache."""
    busybox = Path(program("busybox", "busybox-static")).read_bytes()
    if b"/lib64/ld-linux" in busybox[:4096]:
        raise LabError("busybox is not static; install the package busybox-static")
    init = (_HERE / "guest-init.sh").read_bytes()
    stage2 = (_HERE / "guest-stage2.sh").read_bytes()
    key = hashlib.sha256()
    for part in (str(kernel.root).encode(), busybox, init, stage2, Path(__file__).read_bytes()):
        key.update(hashlib.sha256(part).digest())
    cached = cache_dir() / "initramfs" / f"{kernel.release}-{key.hexdigest()[:16]}.cpio"
    with contextlib.suppress(FileNotFoundError):
        return cached.read_bytes()
    directory, file, link = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFLNK | 0o777
    entries = [(name, directory, b"") for name in ("bin", "dev", "proc", "sys", "modules", "lab")]
    entries.append(("bin/busybox", file, busybox))
    entries += [(f"bin/{name}", link, b"busybox") for name in _APPLETS]
    entries += [("init", file, init), ("stage2", file, stage2)]
    names = []
    for module in _module_files(kernel):
        names.append(f"{_name(module)}.ko")
        entries.append((f"modules/{names[-1]}", file, _plain(kernel.modules / module)))
    entries.append(("modules/order", file, "".join(f"{name}\n" for name in names).encode()))
    content = archive(entries)
    with locked(f"initramfs-{kernel.release}"):
        cached.parent.mkdir(exist_ok=True)
        for stale in cached.parent.glob(f"{kernel.release}-*"):
            stale.unlink()
        partial = cached.with_suffix(".partial")
        partial.write_bytes(content)
        os.replace(partial, cached)
    return content


def run_archive(files: dict[str, bytes]) -> bytes:
    """A second archive to append, with this run's files in /lab."""
    return archive((f"lab/{name}", stat.S_IFREG | 0o755, data) for name, data in files.items())
