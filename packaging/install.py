#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Installs Duet, or takes it away again: what make install and make uninstall call.

    install.py install | uninstall [--destdir DIR] [--prefix DIR]

It is run by the Python that is to run Duet. What is installed is listed in
PREFIX/lib/duet/installed, and nothing else is ever removed. The Debian packages do without it.
"""

import argparse
import compileall
import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
PIP = TOP / ".venv/bin/python"
#: What programs import; all else is for the command alone, and shadows nobody's packages.
LIBRARY = ("pyduet", "ioctl_opt")
#: The directories of the prefix in which systemd and udev look.
KNOWN_PREFIXES = ("/usr", "/usr/local")

LAUNCHER = """\
#!{python} -P
# SPDX-License-Identifier: GPL-2.0-only
import sys

sys.path[:0] = [{library!r}, {command!r}]

from pyduet.cli import main

sys.exit(main())
"""


class Installation:
    """Where things go, and what has gone there."""

    def __init__(self, destdir: str, prefix: str) -> None:
        """Take the directories; nothing is done yet."""
        self.destdir = destdir.rstrip("/")
        self.prefix = "/" + prefix.strip("/")
        self.home = f"{self.prefix}/lib/duet"
        self.list = f"{self.home}/installed"
        self.paths: list[str] = []
        self.version = _version()

    def real(self, path: str) -> Path:
        """Where a path of the installed system is now."""
        return Path(self.destdir + path)

    def put(self, source: Path, target: str, mode: int = 0o644) -> None:
        """Install a file."""
        self.write(source.read_bytes(), target, mode)

    def write(self, content: bytes, target: str, mode: int = 0o644) -> None:
        """Install what is to be in a file."""
        self.directory(os.path.dirname(target))
        real = self.real(target)
        # Not into a file that may be in use.
        real.unlink(missing_ok=True)
        real.write_bytes(content)
        real.chmod(mode)
        self.paths.append(target)

    def directory(self, target: str) -> None:
        """Make a directory, and list those that were not there."""
        real = self.real(target)
        if real.is_dir():
            return
        self.directory(os.path.dirname(target))
        real.mkdir(mode=0o755)
        self.paths.append(target + "/")

    def listed(self) -> list[str]:
        """What an earlier installation has listed."""
        file = self.real(self.list)
        return file.read_text().splitlines() if file.exists() else []


def install(to: Installation) -> None:
    """Install everything."""
    before = to.listed()
    to.real("/").mkdir(parents=True, exist_ok=True)
    say(f"installing Duet {to.version} below {to.destdir or '/'}")
    _python(to)
    _words(to)
    _system(to)
    _driver(to)
    # Directories of an earlier installation are still ours.
    now = set(to.paths) | {path for path in before if path.endswith("/")}
    _remove(to, [path for path in before if path not in now])
    to.write("".join(f"{path}\n" for path in sorted({*now, to.list})).encode(), to.list)
    if to.prefix not in KNOWN_PREFIXES:
        say(
            f"systemd and udev do not look below {to.prefix}/lib: link what is there in "
            "systemd/system, udev/rules.d, sysusers.d and modules-load.d into the directories of "
            "these names below /etc"
        )


def uninstall(from_: Installation) -> None:
    """Remove what was installed."""
    listed = from_.listed()
    if not listed:
        sys.exit(
            f"install.py: there is no {from_.real(from_.list)}: nothing was installed there; "
            "DESTDIR and PREFIX have to be those of the installation"
        )
    _remove(from_, listed)
    say("removed; the group duet stays, since files may belong to it")


def _python(to: Installation) -> None:
    """The library, the command, and what both need."""
    if not PIP.exists():
        sys.exit("install.py: there is no .venv to take pip from: make setup")
    with tempfile.TemporaryDirectory() as room:
        command = [str(PIP), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        # For the Python that runs this, whichever pip's is.
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        command += ["--no-compile", "--target", room, "--python-version", version]
        command += ["--only-binary", ":all:", _wheel(room)]
        say("asking PyPI for what Duet needs")
        subprocess.run(command, check=True)
        for path in sorted(Path(room).rglob("*")):
            if not path.is_file() or path.suffix == ".whl":
                continue
            name = str(path.relative_to(room))
            if name.startswith("bin/"):
                continue
            part = "library" if name.startswith(LIBRARY) else "command"
            to.put(path, f"{to.home}/{part}/{name}")
    # Compiled now: what root's first run would leave there nobody would remove.
    for part in ("library", "command"):
        real = to.real(f"{to.home}/{part}")
        compileall.compile_dir(real, quiet=2, stripdir=to.destdir or None, force=True)
        for path in sorted(real.rglob("__pycache__")):
            inside = [path, *path.iterdir()]
            to.paths += [f"/{one.relative_to(to.real('/'))}" + "/" * one.is_dir() for one in inside]
    library, command_ = f"{to.home}/library", f"{to.home}/command"
    launcher = LAUNCHER.format(python=_python_path(), library=library, command=command_)
    to.write(launcher.encode(), f"{to.prefix}/bin/duet", 0o755)
    site = _site(to.prefix)
    to.write(f"{library}\n".encode(), f"{site}/duet.pth")
    if site not in sys.path:
        say(f"{site} is not on this Python's path: import pyduet needs PYTHONPATH={library}")


def _words(to: Installation) -> None:
    """Manual pages, completions and documents."""
    share = f"{to.prefix}/share"
    with tempfile.TemporaryDirectory() as room:
        subprocess.run([PIP, TOP / "docs/man/build.py", room], check=True)
        for page in sorted(Path(room).iterdir()):
            to.put(page, f"{share}/man/man{page.suffix[1:]}/{page.name}")
    for shell, target in (
        ("bash", "bash-completion/completions/duet"),
        ("zsh", "zsh/site-functions/_duet"),
        ("fish", "fish/vendor_completions.d/duet.fish"),
    ):
        script = subprocess.run(
            [PIP, "-m", "pyduet", "completion", shell], check=True, cwd=TOP, capture_output=True
        )
        to.write(script.stdout, f"{share}/{target}")
    for document in [TOP / "README.md", TOP / "LICENSE", *sorted(TOP.glob("docs/*.md"))]:
        to.put(document, f"{share}/doc/duet/{document.name}")
    to.put(TOP / "udev/61-duet-task.rules.example", f"{share}/doc/duet/61-duet-task.rules.example")


def _system(to: Installation) -> None:
    """What systemd and udev read, and the configuration."""
    lib = f"{to.prefix}/lib"
    for source, directory in (
        ("60-duet.rules", "udev/rules.d"),
        ("sysusers.d/duet.conf", "sysusers.d"),
        ("modules-load.d/duet.conf", "modules-load.d"),
    ):
        path = TOP / "udev" / source
        to.put(path, f"{lib}/{directory}/{path.name}")
    for unit in sorted((TOP / "udev").glob("*.service")):
        text = unit.read_text().replace("/usr/bin/duet", f"{to.prefix}/bin/duet")
        to.write(text.encode(), f"{lib}/systemd/system/{unit.name}")
    config = "/etc/duet/duet.toml"
    if to.real(config).exists() and config not in to.listed():
        say(f"{config} is somebody's, and stays as it is")
    elif to.real(config).exists() and to.real(config).read_bytes() != _config().read_bytes():
        say(f"{config} was changed, and stays as it is")
        to.paths.append(config)
    else:
        to.put(_config(), config)


def _driver(to: Installation) -> None:
    """The module's sources, where DKMS looks for them, and the header for programs in C."""
    for path in sorted((TOP / "driver").rglob("*")):
        if path.suffix in (".c", ".h", ".conf") or path.name in ("Kbuild", "Makefile"):
            text = path.read_text().replace("#MODULE_VERSION#", to.version)
            name = path.relative_to(TOP / "driver")
            to.write(text.encode(), f"/usr/src/duet-{to.version}/{name}")
    to.put(TOP / "driver/uapi/duet.h", f"{to.prefix}/include/duet.h")


def _remove(from_: Installation, paths: list[str]) -> None:
    """Remove files, and those directories that are empty then, the deepest first."""
    for path in sorted(paths, reverse=True):
        real = from_.real(path)
        if path.endswith("/"):
            with contextlib.suppress(OSError):
                real.rmdir()
        elif path == "/etc/duet/duet.toml" and real.exists():
            if real.read_bytes() == _config().read_bytes():
                real.unlink()
            else:
                say(f"{path} was changed, and stays")
        else:
            real.unlink(missing_ok=True)


def activate(to: Installation) -> None:
    """Tell the running system what is there: only what it has, and as root."""
    if os.path.isdir("/run/systemd/system"):
        tell("systemd-sysusers")
        tell("systemctl", "daemon-reload")
    if os.path.isdir("/run/udev"):
        tell("udevadm", "control", "--reload")
    if shutil.which("dkms"):
        tell("dkms", "install", f"duet/{to.version}")
    else:
        say(
            "there is no DKMS, which builds the module for each kernel: install it, then "
            f"dkms install duet/{to.version}"
        )


def deactivate(from_: Installation) -> None:
    """Take the module out of the running system, before its files go."""
    if os.path.isdir("/sys/module/duet"):
        tell("modprobe", "-r", "duet")
    if shutil.which("dkms") and os.path.isdir(f"/var/lib/dkms/duet/{from_.version}"):
        tell("dkms", "remove", f"duet/{from_.version}", "--all")


def tell(*command: str) -> None:
    """Run a program, whose failure is said and ends nothing."""
    say(" ".join(command))
    if subprocess.run(command, check=False).returncode:
        say(f"{command[0]} failed, see above; the files are in order: mend it, and run it again")


def say(words: str) -> None:
    """Say what is done."""
    print(f"install.py: {words}", file=sys.stderr)


def _extras() -> list[str]:
    """What the command needs beside the library, all of it."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    return sorted(name for name in project["optional-dependencies"] if name != "test")


def _version() -> str:
    return (TOP / "pyduet/__init__.py").read_text().split('__version__ = "')[1].split('"')[0]


def _config() -> Path:
    return TOP / "udev/duet.toml"


def _wheel(room: str) -> str:
    """Build the project's wheel; return it as pip wants it."""
    command = [
        str(PIP),
        "-m",
        "pip",
        "--disable-pip-version-check",
        "wheel",
        "--quiet",
        "--no-deps",
    ]
    subprocess.run([*command, "--wheel-dir", room, str(TOP)], check=True)
    [wheel] = Path(room).glob("*.whl")
    return f"{wheel}[{','.join(_extras())}]"


def _python_path() -> str:
    """The Python that runs this, outside any virtual environment."""
    return str(getattr(sys, "_base_executable", sys.executable))


def _site(prefix: str) -> str:
    """The directory of the prefix from which this Python imports; Debian has its own names."""
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
    here = Installation(options.destdir, options.prefix)
    live = not here.destdir and os.geteuid() == 0
    try:
        if options.what == "install":
            install(here)
            if live:
                activate(here)
        else:
            if live:
                deactivate(here)
            uninstall(here)
            if live and os.path.isdir("/run/udev"):
                tell("udevadm", "control", "--reload")
    except PermissionError as error:
        sys.exit(f"install.py: {error.filename}: not permitted; be root, or set DESTDIR or PREFIX")
    except subprocess.CalledProcessError as error:
        sys.exit(f"install.py: {error.cmd[0]} failed, see above; what is installed is not complete")


if __name__ == "__main__":
    main()
