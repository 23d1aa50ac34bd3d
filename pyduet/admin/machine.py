# SPDX-License-Identifier: MIT
"""The files by which a machine tells what became of Duet's module; what is unreadable is None."""

import contextlib
import functools
import gzip
import lzma
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Where the driver's source is, when this library is used from its checkout.
SOURCE = Path(__file__).resolve().parents[2] / "driver"

SYSFS = "/sys/class/misc/duet"

_SIGNED = b"~Module signature appended~\n"
#: By suffix; there is nothing for .zst.
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}

_UNIT_PROPERTIES = ("LoadState", "ActiveState", "ReloadResult")


@dataclass(frozen=True, slots=True)
class ModuleFile:
    """A ``duet.ko``, as far as it can be read.

    Attributes:
        path: where it is.
        signed: whether a signature is appended; None if that cannot be told.
        release: of the kernel that it was built for.
        srcversion: the checksum of its sources.

    """

    path: Path
    signed: bool | None
    release: str | None
    srcversion: str | None


class Machine:
    """Reads a machine's files, below a root directory; nothing here raises for one of them.

    Attributes:
        device: path of the device node, as the user said it.
        source: the driver's source, or where that would be.
        release: of the running kernel.

    """

    def __init__(self, device: str, root: str | os.PathLike[str], source: Path) -> None:
        self.device = device
        self.source = source
        self._root = Path(root)
        self.release = self.text("/proc/sys/kernel/osrelease") or os.uname().release

    def at(self, path: str) -> Path:
        """Return where a file of the machine is; a relative path stays as it is."""
        return self._root / path.lstrip("/") if path.startswith("/") else Path(path)

    def exists(self, path: str) -> bool:
        """Return whether there is such a file, and it can be seen."""
        return os.path.exists(self.at(path))

    def data(self, path: str) -> bytes | None:
        """Return what is in a file."""
        try:
            return self.at(path).read_bytes()
        except OSError:
            return None

    def text(self, path: str) -> str | None:
        """Return what is in a file, without the space around it."""
        data = self.data(path)
        return None if data is None else data.replace(b"\0", b"").decode(errors="replace").strip()

    def number(self, path: str) -> int | None:
        """Return the number that is in a file."""
        try:
            return int(self.text(path) or "")
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        """Return the names in a directory, in order."""
        try:
            return sorted(os.listdir(self.at(path)))
        except OSError:
            return []

    def unit(self, name: str) -> dict[str, str] | None:
        """Return what systemd says of a unit; None where it does not run, or does not say.

        Args:
            name: with its suffix.

        Returns:
            Its properties ``LoadState``, ``ActiveState`` and ``ReloadResult``,
            those that this systemd knows.

        """
        if not self.exists("/run/systemd/system"):
            return None
        import subprocess

        command = [
            str(self.at("/usr/bin/systemctl")),
            "show",
            "-p",
            ",".join(_UNIT_PROPERTIES),
            name,
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        lines = done.stdout.decode(errors="replace").splitlines()
        return {key: value for key, is_one, value in (li.partition("=") for li in lines) if is_one}

    @property
    def is_loaded(self) -> bool:
        """Whether the module is in the kernel."""
        return self.exists("/sys/module/duet")

    @functools.cached_property
    def node(self) -> os.stat_result | OSError:
        """What the device node is, or why that cannot be told."""
        try:
            return os.stat(self.at(self.device))
        except OSError as error:
            return error

    @property
    def modules(self) -> str:
        """The directory of the running kernel's modules."""
        return f"/lib/modules/{self.release}"

    @functools.cached_property
    def indexed(self) -> ModuleFile | None:
        """The module that modprobe would load."""
        index = self.text(f"{self.modules}/modules.dep") or ""
        found = re.search(r"^((?:\S*/)?duet\.ko(?:\.\w+)?):", index, re.MULTILINE)
        return self._module(self.at(self.modules) / found[1]) if found else None

    @functools.cached_property
    def installed(self) -> ModuleFile | None:
        """The module among the running kernel's, whether modprobe knows of it or not."""
        if self.indexed:
            return self.indexed
        for place in ("updates", "extra"):
            for directory, _, names in os.walk(self.at(f"{self.modules}/{place}")):
                for name in names:
                    if re.fullmatch(r"duet\.ko(\.\w+)?", name):
                        return self._module(Path(directory, name))
        return None

    @functools.cached_property
    def built(self) -> ModuleFile | None:
        """The module in the driver's source, if it was built for the running kernel."""
        module = self._module(self.source / "duet.ko")
        return module if module and module.release == self.release else None

    @staticmethod
    def _module(path: Path) -> ModuleFile | None:
        if not os.path.exists(path):
            return None
        data = None
        with contextlib.suppress(KeyError, OSError, EOFError, lzma.LZMAError, zlib.error):
            data = _UNPACK[path.suffix](path.read_bytes())
        if data is None:
            return ModuleFile(path, None, None, None)
        said = {
            name: value.decode(errors="replace")
            for name, value in re.findall(rb"\0(vermagic|srcversion)=([^\0]*)(?=\0)", data)
        }
        release = said.get(b"vermagic", "").split(" ")[0]
        return ModuleFile(path, data.endswith(_SIGNED), release, said.get(b"srcversion"))
