# SPDX-License-Identifier: MIT
"""Build roots: the compiler and C library of another Debian release, for newer headers.

A kernel's headers come with built programs (objtool, modpost) that want the C library of their own
release, and name its compiler. Where that is not the host's, the series' line in kernels.toml has
`build = "SUITE"`. The packages are unpacked, not installed: a compiler needs no more, and nobody
needs privileges.
"""

import os
import shutil
from pathlib import Path

from .host import cache_dir, locked, program, say
from .packages import Apt

# Besides the compiler: what Makefiles take for granted.
_PACKAGES = (
    *(
        "base-files",
        "bash",
        "coreutils",
        "dash",
        "diffutils",
        "findutils",
        "grep",
        "gzip",
        "libelf-dev",
    ),
    *("make", "mawk", "perl-base", "sed", "sparse", "xz-utils"),
)


def get_build_root(suite: str, compiler: str) -> Path:
    """The unpacked build root of a suite with a compiler, made when it is not in the cache."""
    root = cache_dir() / "buildroots" / f"{suite}-{compiler}"
    with locked(f"buildroot-{root.name}"):
        if root.exists():
            return root
        partial = root.with_name(f"{root.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        apt = Apt((suite,))
        apt.update()
        say(f"making a build root of {suite} with {compiler}")
        apt.unpack_with_dependencies([*_PACKAGES, compiler], partial)
        for name in ("proc", "dev", "tmp"):
            (partial / name).mkdir(exist_ok=True)
        # What the packages' scripts would have set up, as far as a build needs it.
        awk = partial / "usr/bin/awk"
        if not awk.exists():
            awk.symlink_to("mawk")
        (partial / cache_dir().relative_to("/")).mkdir(parents=True, exist_ok=True)
        partial.rename(root)
        return root


def inside(root: Path, command: list[str]) -> list[str]:
    """The command that runs `command` in a build root, with the cache at the same path."""
    script = (
        'root=$1 cache=$2; shift 2; mount --rbind "$cache" "$root$cache" && '
        'mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev" && '
        'exec chroot "$root" /usr/bin/env PATH=/usr/sbin:/usr/bin "$@"'
    )
    return [
        *(program("unshare", "util-linux"), "--mount", "--pid", "--fork", "--kill-child"),
        *(() if os.geteuid() == 0 else ("--map-root-user",)),
        *("sh", "-ec", script, "sh", str(root), str(cache_dir()), *command),
    ]
