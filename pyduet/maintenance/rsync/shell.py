# SPDX-License-Identifier: MIT
"""Where a target is, and one connection to it for all runs of rsync."""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import weakref
from pathlib import PurePosixPath
from typing import NamedTuple

#: Seconds that a connection stays without a run: the longest that there is to wait for others.
#: One whose user was killed is gone after that.
_PERSIST = 600
#: Seconds in which a local socket answers.
_CHECK = 10
#: Of the path of a socket, at most so many bytes: ssh appends 17 to it, and 108 are possible.
_PATH = 80


class Target(NamedTuple):
    """A target, as rsync takes it.

    Attributes:
        name: as it was given, or for a local one absolute.
        host: with USER@, if it has that; None for a local directory.
        daemon: whether an rsync daemon is asked, not a remote shell.
        path: on the host; of a daemon with its module.

    """

    name: str
    host: str | None
    daemon: bool
    path: str

    @property
    def directory(self) -> str:
        """The name, so that it means a directory though only one file is sent there."""
        # An empty path is the home directory, and no name is to become the root.
        return self.name if self.path in ("", "/") else f"{self.name.rstrip('/')}/"

    @property
    def shown(self) -> str:
        """The name in messages: a local one without ``.`` and ``//`` in it."""
        return self.name if self.host is not None else str(PurePosixPath(self.name))


def target_of(name: str) -> Target:
    """Take a target as check_for_hostspec() of rsync does.

    Raises:
        ValueError: it is none.

    """
    if not name:
        raise ValueError("the target has no name")
    url = re.fullmatch(r"rsync://([^/]+)/?(.*)", name, re.IGNORECASE | re.DOTALL)
    host = re.fullmatch(r"((?:[^/:@]*@)?(?:\[[^]/]+\]|[^/:]+)):(:?)(.*)", name, re.DOTALL)
    if url:
        target = Target(name, url[1], True, url[2])
    elif host:
        target = Target(name, host[1], bool(host[2]), host[3])
    else:
        path = os.path.join(os.getcwd(), name)
        target = Target(path, None, False, path)
    if target.host is not None and target.host.rpartition("@")[2].startswith("-"):
        raise ValueError(f"{name}: no host has a name that begins with -")
    return target


class Shell:
    """The remote shell, which is one connection where it is ssh.

    ssh keeps the first connection for those after it (ControlMaster of ssh_config(5)), which need
    no login of their own; one that was lost is made anew by who comes next.
    """

    def __init__(self, target: Target, rsh: str | None) -> None:
        """Prepare.

        Args:
            target: where to.
            rsh: the shell that is named, with its options, as rsync takes it.

        """
        self._rsh = rsh
        self._close: weakref.finalize[[str, str], Shell] | None = None
        # RSYNC_RSH does not count for daemons.
        base = rsh if target.daemon else rsh or os.environ.get("RSYNC_RSH") or "ssh"
        #: Whether each run is a connection, with a login, of its own.
        self.connects = target.host is not None
        if target.host is None or base is None:
            return
        try:
            words = shlex.split(base)
        except ValueError:
            return  # of which rsync says what is wrong with it
        if not any(os.path.basename(word) == "ssh" for word in words):
            return
        self.connects = False
        if _has_master(words, target.host):
            return
        directory = _directory()
        self._socket = os.path.join(directory, "ssh")
        # After those that are given: ssh takes the first.
        self._rsh = (
            f"{base} -o ControlMaster=auto -o ControlPath={self._socket} "
            f"-o ControlPersist={_PERSIST}"
        )
        # Also of who forgets to close, and at the end of the process.
        self._close = weakref.finalize(self, _end, self._socket, directory)

    @property
    def options(self) -> list[str]:
        """What rsync is to be given."""
        return [] if self._rsh is None else [f"--rsh={self._rsh}"]

    def close(self) -> None:
        """End the connection."""
        if self._close is not None:
            self._close()


def _has_master(words: list[str], host: str) -> bool:
    """Return whether the user has a connection that is shared already (ssh_config(5))."""
    user, _, name = host.rpartition("@")
    name = re.sub(r"^\[(.*)\]|:\d+$", r"\1", name)
    command = [*words, *(["-l", user] if user else []), "-O", "check", name]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_CHECK
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _directory() -> str:
    """Make a directory that nobody else can enter, with a short name of letters and the like."""
    place = tempfile.gettempdir()
    if len(place) > _PATH - len("/duet-12345678/ssh") or not re.fullmatch(r"[\w./-]+", place):
        place = "/tmp"  # noqa: S108 - mkdtemp makes a directory of one's own
    return tempfile.mkdtemp(prefix="duet-", dir=place)


def _end(socket: str, directory: str) -> None:
    with contextlib.suppress(OSError):  # there was no connection, or no ssh
        if os.path.exists(socket):
            subprocess.run(
                ["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-O", "exit", "host"],
                stdin=subprocess.DEVNULL, capture_output=True, check=False,
            )  # fmt: skip
    shutil.rmtree(directory, ignore_errors=True)
