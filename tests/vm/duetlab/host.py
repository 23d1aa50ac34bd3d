# SPDX-License-Identifier: MIT
"""What the lab uses of the host: paths, locks, programs, and the lab's own words."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .errors import LabError

LAB_DIR = Path(__file__).resolve().parent.parent
PROJECT = LAB_DIR.parent.parent
DRIVER = PROJECT / "driver"

# Administrator programs (mkfs.*, depmod) are not on everybody's PATH.
_SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")

quiet = False


def say(text: str) -> None:
    """Report progress, unless --quiet."""
    if not quiet:
        print(f"lab: {text}", file=sys.stderr, flush=True)


def complain(text: str) -> None:
    """Report what the user has to see even with --quiet."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def cache_dir() -> Path:
    """Where kernels, builds and verdicts are kept: outside the tree."""
    chosen = os.environ.get("DUET_LAB_CACHE")
    if not chosen:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        chosen = os.path.join(base, "duet-lab")
    path = Path(chosen).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(
            f"cannot make the cache directory {path}: {error.strerror}; "
            "set DUET_LAB_CACHE to a directory you can write"
        ) from error
    return path


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold one of the cache's locks: several labs may run at once."""
    locks = cache_dir() / "locks"
    locks.mkdir(exist_ok=True)
    with open(locks / name, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another lab ({name})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def program(name: str, package: str) -> str:
    """The path of a host program, or an error that names its package."""
    path = os.pathsep.join([os.environ.get("PATH", "/usr/bin:/bin"), *_SBIN])
    found = shutil.which(name, path=path)
    if found is None:
        raise LabError(
            f"{name} is not installed; install the package {package} "
            f"(everything the lab needs: {LAB_DIR / 'apt-packages.txt'})"
        )
    return found


def output_of(command: Sequence[str], doing: str, env: Mapping[str, str] | None = None) -> str:
    """Run a program and return its output; its failure is an error that shows its words."""
    done = subprocess.run(
        command,
        env=None if env is None else {**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        words = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise LabError(f"{doing} failed ({command[0]}, status {done.returncode}):\n{words}")
    return done.stdout
