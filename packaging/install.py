#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Installs Duet, or takes it away again: what make install and make uninstall call.

    install.py install | uninstall [--destdir DIR] [--prefix DIR]

It is run by the Python that is to run Duet. Everything is made in a directory of its own first, and
copied when it is complete. What is installed is listed in PREFIX/lib/duet/installed: a file that is
somebody else's is never replaced, and only what is listed is ever removed. The Debian packages do
without this.
"""

import argparse
import compileall
import contextlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
#: The Python with pip and what makes the man pages: make setup makes it.
VENV = TOP / ".venv/bin/python"
#: What programs import; all else is for the command alone, and shadows nobody's packages.
LIBRARY = ("pyduet", "ioctl_opt")
#: What PyPI has the source of alone; pip takes no source for another Python than its own.
SOURCES = ("btrfs",)
#: The prefixes below which systemd and udev look.
KNOWN_PREFIXES = ("/usr", "/usr/local")
CONFIG = "/etc/duet/duet.toml"

LAUNCHER = """\
#!{python} -P
# SPDX-License-Identifier: MIT
import sys

sys.path[:0] = [{library!r}, {command!r}]

from pyduet.cli import main

sys.exit(main())
"""


class Place:
    """Where Duet is, or is to be."""

    def __init__(self, destdir: str, prefix: str) -> None:
        """Take the directories; nothing is done yet."""
        self.destdir = destdir.rstrip("/")
        self.prefix = "/" + prefix.strip("/")
        self.home = f"{self.prefix}/lib/duet"
        self.list = f"{self.home}/installed"
        #: The configuration as it was shipped, to see whether somebody changed it.
        self.shipped = f"{self.prefix}/share/doc/duet/duet.toml"

    def real(self, path: str) -> Path:
        """Return where a path of the installed system is now."""
        return Path(self.destdir + path)

    def listed(self) -> set[str]:
        """Return what is installed: files, and directories with a slash at their end."""
        file = self.real(self.list)
        return set(file.read_text().splitlines()) if file.exists() else set()

    def write_list(self, paths: set[str]) -> None:
        """Say what is installed."""
        self.real(self.list).write_text("".join(f"{path}\n" for path in sorted(paths)))

    def config_is_changed(self) -> bool:
        """Return whether there is a configuration that is not as it was shipped."""
        config, shipped = self.real(CONFIG), self.real(self.shipped)
        if not config.exists():
            return False
        return not shipped.exists() or config.read_bytes() != shipped.read_bytes()

    def remove(self, paths: set[str]) -> None:
        """Remove files, and those directories that are empty then, the deepest first."""
        for path in sorted(paths, reverse=True):
            real = self.real(path)
            if not path.endswith("/"):
                real.unlink(missing_ok=True)
                continue
            if path.startswith(f"{self.home}/"):
                # Of whichever Python it was run by.
                shutil.rmtree(real / "__pycache__", ignore_errors=True)
            with contextlib.suppress(OSError):
                real.rmdir()


class Stage:
    """A directory in which everything is made: the installed system, as it will be."""

    def __init__(self, root: str, place: Place) -> None:
        """Take an empty directory."""
        self.root = Path(root)
        self.place = place
        self.version = _version()

    def put(self, source: Path, target: str) -> None:
        """Have a file installed."""
        self.write(source.read_bytes(), target)

    def write(self, content: bytes | str, target: str, mode: int = 0o644) -> None:
        """Have a file with this content installed."""
        file = self.root / target[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)

    def fill(self) -> None:
        """Make everything."""
        self._python()
        self._words()
        self._system()
        self._driver()

    def paths(self) -> set[str]:
        """Return what there is, as it is listed."""
        return {
            f"/{path.relative_to(self.root)}" + "/" * path.is_dir() for path in self.root.rglob("*")
        }

    def _python(self) -> None:
        """The library, the command, and what both need."""
        home = self.place.home
        with tempfile.TemporaryDirectory() as room:
            pip = [str(VENV), "-m", "pip", "--disable-pip-version-check"]
            say("asking PyPI for what Duet needs")
            subprocess.run(
                # Debian's pip has them built without it by the environment's setuptools, which
                # may have no wheel.
                [
                    *pip, "wheel", "--quiet", "--use-pep517", "--no-deps", "--wheel-dir", room,
                    str(TOP), *SOURCES,
                ],
                check=True,
            )  # fmt: skip
            [wheel] = Path(room).glob("pyduet-*.whl")
            # For the Python that runs this, whichever pip's is.
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            target = f"{room}/target"
            subprocess.run(
                [
                    *pip, "install", "--quiet", "--no-compile", "--target", target,
                    "--python-version", version, "--only-binary", ":all:", "--find-links", room,
                    f"{wheel}[{','.join(_extras())}]",
                ],
                check=True,
            )  # fmt: skip
            for path in sorted(Path(target).rglob("*")):
                name = str(path.relative_to(target))
                if path.is_file() and not name.startswith("bin/"):
                    part = "library" if name.startswith(LIBRARY) else "command"
                    self.put(path, f"{home}/{part}/{name}")
        # Now, since who runs it later may not write there, or is root and leaves it to nobody.
        staged = self.root / home[1:]
        if not compileall.compile_dir(staged, quiet=2, stripdir=self.root, prependdir="/"):
            say("some of it could not be compiled, and is when it is used")
        library, command = f"{home}/library", f"{home}/command"
        launcher = LAUNCHER.format(python=_python(), library=library, command=command)
        self.write(launcher, f"{self.place.prefix}/bin/duet", 0o755)
        site = _site(self.place.prefix)
        self.write(f"{library}\n", f"{site}/duet.pth")
        if site not in sys.path:
            say(f"{site} is not on this Python's path: import pyduet needs PYTHONPATH={library}")

    def _words(self) -> None:
        """Manual pages, completions and documents."""
        share = f"{self.place.prefix}/share"
        with tempfile.TemporaryDirectory() as room:
            subprocess.run([VENV, TOP / "docs/man/build.py", room], check=True)
            for page in sorted(Path(room).iterdir()):
                self.put(page, f"{share}/man/man{page.suffix[1:]}/{page.name}")
        for shell, target in (
            ("bash", "bash-completion/completions/duet"),
            ("zsh", "zsh/site-functions/_duet"),
            ("fish", "fish/vendor_completions.d/duet.fish"),
        ):
            script = subprocess.run(
                [VENV, "-m", "pyduet", "completion", shell],
                check=True,
                cwd=TOP,
                capture_output=True,
            )
            self.write(script.stdout, f"{share}/{target}")
        documents = [TOP / "README.md", TOP / "LICENSE", *sorted(TOP.glob("docs/*.md"))]
        for document in [*documents, TOP / "udev/61-duet-task.rules.example"]:
            self.put(document, f"{share}/doc/duet/{document.name}")
        for text in sorted(TOP.glob("LICENSES/*.txt")):
            self.put(text, f"{share}/doc/duet/LICENSES/{text.name}")

    def _system(self) -> None:
        """What systemd and udev read, and the configuration."""
        lib = f"{self.place.prefix}/lib"
        for source, directory in (
            ("60-duet.rules", "udev/rules.d"),
            ("sysusers.d/duet.conf", "sysusers.d"),
            ("modules-load.d/duet.conf", "modules-load.d"),
        ):
            path = TOP / "udev" / source
            self.put(path, f"{lib}/{directory}/{path.name}")
        for unit in sorted((TOP / "udev").glob("*.service")):
            text = unit.read_text().replace("/usr/bin/duet", f"{self.place.prefix}/bin/duet")
            self.write(text, f"{lib}/systemd/system/{unit.name}")
        self.put(TOP / "udev/duet.toml", self.place.shipped)
        self.put(TOP / "udev/duet.toml", CONFIG)

    def _driver(self) -> None:
        """The module's sources, where DKMS looks for them, and the header for programs in C."""
        for path in sorted((TOP / "driver").rglob("*")):
            if path.suffix in (".c", ".h", ".conf") or path.name in ("Kbuild", "Makefile"):
                text = path.read_text().replace("#MODULE_VERSION#", self.version)
                name = path.relative_to(TOP / "driver")
                self.write(text, f"/usr/src/duet-{self.version}/{name}")
        self.put(TOP / "driver/uapi/duet.h", f"{self.place.prefix}/include/duet.h")


def install(place: Place, *, live: bool) -> None:
    """Install everything."""
    if not VENV.exists():
        sys.exit("install.py: there is no .venv to take pip from: make setup")
    before = place.listed()
    with tempfile.TemporaryDirectory() as room:
        stage = Stage(room, place)
        say(f"making Duet {stage.version} for {place.destdir}{place.prefix}")
        stage.fill()
        wanted = stage.paths()
        if place.config_is_changed():
            say(f"{CONFIG} was changed, and stays")
            wanted.discard(CONFIG)
        _refuse_others(place, wanted - before)
        # What was there before is not ours; what we made the last time still is.
        ours = {
            path
            for path in wanted
            if not path.endswith("/") or path in before or not place.real(path).is_dir()
        } | {place.list}
        if live:
            _leave_dkms(before)
        for path in sorted(path for path in wanted if path.endswith("/")):
            place.real(path).mkdir(parents=True, exist_ok=True)
        # All that may be there, from now on, so that it can be taken away whatever happens.
        place.write_list(before | ours)
        for path in sorted(path for path in wanted if not path.endswith("/")):
            real = place.real(path)
            # Not into a file that may be in use. The time is what compiled files go by.
            real.unlink(missing_ok=True)
            shutil.copy2(stage.root / path[1:], real)
    kept = {CONFIG} & before if place.config_is_changed() else set()
    place.remove(before - ours - kept)
    place.write_list(ours | kept)
    say("installed")
    if place.prefix not in KNOWN_PREFIXES:
        say(
            f"systemd and udev do not look below {place.prefix}/lib: link what is there in "
            "systemd/system, udev/rules.d, sysusers.d and modules-load.d into the directories of "
            "these names below /etc"
        )
    if live:
        _activate(stage.version)


def uninstall(place: Place, *, live: bool) -> None:
    """Remove what was installed."""
    listed = place.listed()
    if not listed:
        sys.exit(
            f"install.py: there is no {place.real(place.list)}: nothing was installed there; "
            "DESTDIR and PREFIX have to be those of the installation"
        )
    if live:
        if os.path.isdir("/sys/module/duet"):
            _tell("modprobe", "-r", "duet")
        _leave_dkms(listed)
    if place.config_is_changed():
        say(f"{CONFIG} was changed, and stays")
        listed.discard(CONFIG)
    place.remove(listed)
    say("removed; the group duet stays, since files may belong to it")
    if live:
        _reload()


def _refuse_others(place: Place, paths: set[str]) -> None:
    """End if any of the files is there, and was not installed by this."""
    there = sorted(path for path in paths if not path.endswith("/") and place.real(path).exists())
    there = [path for path in there if path != CONFIG]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        sys.exit(
            f"install.py: {place.real(there[0])}{more}: there already, and not installed by this; "
            "remove it (the Debian packages: apt purge), or take another PREFIX"
        )


def _activate(version: str) -> None:
    """Tell the running system what is there."""
    if os.path.isdir("/run/systemd/system"):
        _tell("systemd-sysusers")
    _reload()
    if shutil.which("dkms"):
        _tell("dkms", "install", f"duet/{version}")
    else:
        say(
            "there is no DKMS, which builds the module for each kernel: install it, then "
            f"dkms install duet/{version}"
        )


def _reload() -> None:
    """Have systemd and udev read their files."""
    if os.path.isdir("/run/systemd/system"):
        _tell("systemctl", "daemon-reload")
    if os.path.isdir("/run/udev"):
        _tell("udevadm", "control", "--reload")


def _leave_dkms(listed: set[str]) -> None:
    """Have DKMS forget the versions that are installed: their sources go, or are others."""
    for path in sorted(listed):
        found = re.fullmatch(r"/usr/src/duet-([^/]+)/dkms\.conf", path)
        if found and os.path.isdir(f"/var/lib/dkms/duet/{found[1]}"):
            _tell("dkms", "remove", f"duet/{found[1]}", "--all")


def _tell(*command: str) -> None:
    """Run a program, whose failure is said and ends nothing."""
    say(" ".join(command))
    if subprocess.run(command, check=False).returncode:
        say(f"{command[0]} failed, see above; the files are in place: run it again by hand")


def say(words: str) -> None:
    """Say what is done."""
    print(f"install.py: {words}", file=sys.stderr)


def _extras() -> list[str]:
    """Return the names of what the command needs beside the library, all of it."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    return sorted(name for name in project["optional-dependencies"] if name != "test")


def _version() -> str:
    return (TOP / "pyduet/__init__.py").read_text().split('__version__ = "')[1].split('"')[0]


def _python() -> str:
    """Return the Python that runs this, outside any virtual environment."""
    return str(getattr(sys, "_base_executable", sys.executable))


def _site(prefix: str) -> str:
    """Return the prefix's directory from which this Python imports; Debian has its own names."""
    debian = {"/usr": ("deb_system", "/usr"), "/usr/local": ("posix_local", "/usr")}
    scheme, base = "posix_prefix", prefix
    if "deb_system" in sysconfig.get_scheme_names():
        scheme, base = debian.get(prefix, (scheme, base))
    return sysconfig.get_path("purelib", scheme, {"base": base})


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="install.py",
        description="Install Duet, or take it away again, for the Python that runs this.",
    )
    parser.add_argument("what", choices=["install", "uninstall"])
    parser.add_argument("--destdir", default="", help="put before every path")
    parser.add_argument("--prefix", default="/usr/local", help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    """Do what the arguments say."""
    options = _arguments()
    place = Place(options.destdir, options.prefix)
    # What others have to read is for others to read.
    os.umask(0o022)
    try:
        act = install if options.what == "install" else uninstall
        act(place, live=not place.destdir and os.geteuid() == 0)
    except PermissionError as error:
        sys.exit(
            f"install.py: {error.filename}: not permitted; be root, or set DESTDIR. What is "
            "installed already make uninstall removes"
        )
    except subprocess.CalledProcessError as error:
        sys.exit(f"install.py: {error.cmd[0]} failed, see above; nothing was installed")


if __name__ == "__main__":
    main()
