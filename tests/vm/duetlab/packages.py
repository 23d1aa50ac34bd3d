# SPDX-License-Identifier: MIT
"""Debian packages into the cache, through a private apt that leaves the machine's own alone.

The mirror, the proxies and the keys are those of the machine's own configuration; only the
suites are the lab's. Works without privileges.
"""

import functools
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .errors import LabError
from .host import cache_dir, output_of, program, say

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Package:
    """One version of a package that the private apt can download."""

    name: str
    version: str
    depends: str


def _own_codename() -> str:
    """The code name of the machine's Debian release."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    return "stable"


@functools.cache
def mirrors() -> dict[str, str]:
    """The machine's archives: "main" and, where configured, "security" with their addresses."""
    listing = output_of(
        [
            program("apt-get", "apt"),
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ],
        "reading the machine's apt configuration",
    )
    found: dict[str, str] = {}
    own = (_own_codename(), "stable", "oldstable", "testing", "unstable", "sid")
    for line in listing.splitlines():
        uri, release, component = [*line.split(), "", "", ""][:3]
        if component != "main":
            continue
        if release.removesuffix("-security") in own and release.endswith("-security"):
            found.setdefault("security", uri)
        elif release.split("-")[0] in own:
            found.setdefault("main", uri)
    if "main" not in found:
        raise LabError(
            "the machine's apt configuration names no Debian archive of its own release; "
            "the lab takes its mirror from there: add one to /etc/apt/sources.list.d"
        )
    return found


def _source_lines(suites: Iterable[str]) -> str:
    """A sources.list for the suites, as far as the machine's archives have them."""
    signed = f"signed-by={_KEYRING}" if _KEYRING.exists() else ""
    options = " ".join(filter(None, ["arch=amd64", signed]))
    known = mirrors()
    lines = []
    for suite in suites:
        uri = known.get("security" if suite.endswith("-security") else "main")
        if uri is not None:
            lines.append(f"deb [{options}] {uri} {suite} main\n")
    return "".join(lines)


class Apt:
    """A private apt for some suites, under the cache."""

    def __init__(self, suites: tuple[str, ...]) -> None:
        self._suites = suites
        self._root = cache_dir() / "apt" / "+".join(suites)
        self._config = self._root / "apt.conf"
        self._env = {"APT_CONFIG": str(self._config), "LC_ALL": "C"}

    @property
    def sources(self) -> str:
        """The suites' sources.list."""
        return _source_lines(self._suites)

    def update(self) -> None:
        """Make the private root and read the suites' lists afresh."""
        root = self._root
        for name in ("state/lists/partial", "cache/archives/partial", "empty"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "state/status").touch()
        (root / "sources.list").write_text(self.sources)
        # The machine's proxies and the like count; its hooks (which may clean caches) do not.
        acquire = output_of(
            [program("apt-config", "apt"), "dump", "Acquire"], "reading apt's setup"
        )
        settings = {
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::State": f"{root}/state/",
            "Dir::State::status": f"{root}/state/status",
            "Dir::Cache": f"{root}/cache/",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": f"{root}/empty",
            "Dir::Etc::sourcelist": f"{root}/sources.list",
            "Dir::Etc::sourceparts": f"{root}/empty",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": f"{root}/empty",
        }
        self._config.write_text(
            acquire
            + "#clear APT::Architectures;\n"
            + "".join(f'{name} "{value}";\n' for name, value in settings.items())
        )
        say(f"reading the package lists of {', '.join(self._suites)}")
        output_of(
            [program("apt-get", "apt"), "-qq", "update"],
            "reading the package lists (is the mirror reachable?)",
            self._env,
        )

    def newest(self, pattern: str) -> Package:
        """The newest package whose name the pattern matches; of images, with headers beside it."""
        listing = output_of(
            [program("apt-cache", "apt"), "dumpavail"], "reading the package lists", self._env
        )
        packages = [_parse(stanza) for stanza in listing.split("\n\n") if stanza.strip()]
        have = {(package.name, package.version) for package in packages}
        best: Package | None = None
        for package in packages:
            if not re.fullmatch(pattern, package.name):
                continue
            headers = package.name.replace("linux-image-", "linux-headers-", 1)
            if (headers, package.version) not in have:
                continue
            if best is None or _newer(package.version, best.version):
                best = package
        if best is None:
            raise LabError(
                f"no package matches {pattern} in {', '.join(self._suites)} of the machine's "
                "mirror; see tests/vm/kernels.toml"
            )
        return best

    def depends(self, name: str, version: str) -> str:
        """The Depends field of a package."""
        shown = output_of(
            [program("apt-cache", "apt"), "show", f"{name}={version}"],
            f"looking up {name}",
            self._env,
        )
        return _parse(shown.split("\n\n")[0]).depends

    def unpack(self, names: list[str], target: Path) -> None:
        """Download packages (NAME or NAME=VERSION) and unpack them into a directory."""
        archives = target.parent / (target.name + ".debs")
        archives.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [program("apt-get", "apt"), "-qq", "download", *names],
            cwd=archives,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **self._env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise LabError(f"downloading {' '.join(names)} failed:\n{done.stderr.strip()}")
        _unpack_all(archives, target)
        archives.rmdir()

    def unpack_with_dependencies(self, names: list[str], target: Path) -> None:
        """Download packages and all they depend on, and unpack them into a directory."""
        archives = self._root / "cache/archives"
        target.mkdir(parents=True, exist_ok=True)
        output_of(
            [program("apt-get", "apt"), "-qq", "--yes", "--download-only", "install", *names],
            f"downloading {' '.join(names)}",
            self._env,
        )
        _unpack_all(archives, target)


def _unpack_all(archives: Path, target: Path) -> None:
    """Unpack every package of a directory into another, and remove the packages."""
    # base-files first: it brings the links that make /bin and /usr/bin one.
    order = sorted(
        archives.glob("*.deb"), key=lambda path: (not path.name.startswith("base-files"), path.name)
    )
    for archive in order:
        output_of(
            [program("dpkg-deb", "dpkg"), "-x", str(archive), str(target)],
            f"unpacking {archive.name}",
        )
        archive.unlink()


def _parse(stanza: str) -> Package:
    """The fields of one package that the lab looks at."""
    fields = {
        match[1]: match[2]
        for match in re.finditer(r"^(Package|Version|Depends): (.*)$", stanza, re.M)
    }
    return Package(fields.get("Package", ""), fields.get("Version", ""), fields.get("Depends", ""))


def _newer(one: str, other: str) -> bool:
    """Whether a Debian version is newer than another."""
    return (
        subprocess.run(
            [program("dpkg", "dpkg"), "--compare-versions", one, "gt", other], check=False
        ).returncode
        == 0
    )
