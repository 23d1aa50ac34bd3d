# SPDX-License-Identifier: MIT
"""Static analysis of the driver beyond the strict build: the kernel's coccicheck, and smatch.

What they say is either mended or one of the exceptions in `findings.toml`, with its reason. An
exception that nothing says any more is an error as well.
"""

import os
import re
import shutil
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .driver import check_with
from .errors import LabError
from .host import DRIVER, LAB_DIR, cache_dir, locked, output_of, program, say
from .kernel import Kernel
from .packages import Apt
from .series import Series, all_series

_EXCEPTIONS = LAB_DIR / "findings.toml"
# Scripts with parts in OCaml, which would want its compiler: one is of a single driver of the
# kernel, the other is what sparse says of "plain integer as NULL pointer".
_OCAML = re.compile(r"ocaml", re.I)


def analyze(kernel: Kernel) -> None:
    """Run all there is here; a finding without a reason is an error."""
    found = [("coccicheck", line) for line in _coccicheck()]
    smatch = shutil.which("smatch")
    if smatch is None:
        say("no smatch in PATH (Debian has no package of it): left out")
    else:
        found += [("smatch", line) for line in _smatch(kernel, smatch)]
    _judge(found, {"coccicheck"} if smatch is None else {"coccicheck", "smatch"})


def _judge(found: list[tuple[str, str]], ran: set[str]) -> None:
    """Complain of what is no exception, and of exceptions without a finding."""
    with open(_EXCEPTIONS, "rb") as handle:
        exceptions = tomllib.load(handle).get("exception", [])
    used = set()
    wrong = []
    for tool, line in found:
        match = next(
            (
                number
                for number, one in enumerate(exceptions)
                if one["tool"] == tool and re.search(one["says"], line)
            ),
            None,
        )
        if match is None:
            wrong.append(f"{tool}: {line}")
        used.add(match)
    stale = [
        f"{_EXCEPTIONS.name}: {one['tool']} does not say {one['says']!r} any more"
        for number, one in enumerate(exceptions)
        if number not in used and one["tool"] in ran
    ]
    if wrong or stale:
        raise LabError(
            f"{len(wrong) + len(stale)} findings (mend them, or give the reason in "
            f"{_EXCEPTIONS.name}):\n" + "\n".join(sorted(set(wrong)) + stale)
        )
    say(f"{len(found)} findings of {', '.join(sorted(ran))}, each with its reason")


def _scripts() -> Path:
    """The kernel's semantic patches, out of its source package: that of the kernels built here."""
    series = _with_source()
    apt = Apt(series.suites)
    with locked("coccinelle"):
        places = sorted(cache_dir().glob("coccinelle/*"))
        if places:
            return places[-1]
        apt.update()
        package = apt.newest(series.package)
        target = cache_dir() / "coccinelle" / package.version.replace(":", "_")
        partial = cache_dir() / "tmp" / "coccinelle"
        shutil.rmtree(partial, ignore_errors=True)
        say(f"downloading {package.name} {package.version} for the kernel's semantic patches")
        apt.unpack([f"{package.name}={package.version}"], partial)
        output_of(
            [
                *("tar", "-xJf", str(partial / "usr/src" / f"{package.name}.tar.xz")),
                *("-C", str(partial), "--strip-components=2"),
                f"{package.name}/scripts/coccinelle",
            ],
            "unpacking the semantic patches",
        )
        target.parent.mkdir(exist_ok=True)
        (partial / "coccinelle").rename(target)
        shutil.rmtree(partial)
        return target


def _with_source() -> Series:
    """A series whose source package is known."""
    return next(series for series in all_series() if series.config)


def _coccicheck() -> list[str]:
    """What `make coccicheck MODE=report M=driver` says; the headers' Makefile lacks its scripts."""
    scripts = sorted(_scripts().rglob("*.cocci"))
    ours = [path for path in scripts if not _OCAML.search(path.read_text())]
    if not ours:
        raise LabError(f"no semantic patches in {_scripts()}; remove it and try again")
    spatch = program("spatch", "coccinelle")
    say(f"coccicheck: {len(ours)} semantic patches; {len(scripts) - len(ours)} want OCaml")

    def run(script: Path) -> list[str]:
        options = re.search(r"Options:(.*)", script.read_text())
        said = output_of(
            [
                *(spatch, "-D", "report", "--no-show-diff", "--very-quiet"),
                *("--cocci-file", str(script), *(options[1].split() if options else [])),
                *("--dir", str(DRIVER), "-I", str(DRIVER), "-I", str(DRIVER / "uapi")),
            ],
            f"running {script.name}",
        )
        return [
            f"{script.stem}: {line.replace(str(DRIVER), 'driver')}"
            for line in said.splitlines()
            if line.strip()
        ]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [line for lines in pool.map(run, ours) for line in lines]


def _smatch(kernel: Kernel, smatch: str) -> list[str]:
    """What smatch says, as the checker of a build."""
    return check_with(kernel, "smatch", f"{smatch} -p=kernel '-D_Static_assert(...)='")
