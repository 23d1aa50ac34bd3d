# SPDX-License-Identifier: MIT
"""The command line."""

import argparse
import os
import signal
import sys
from pathlib import Path

from . import host
from .accel import choose_accel
from .analyze import analyze
from .disk import FILE_SYSTEMS
from .driver import build_module
from .errors import EXIT_INTERRUPT, EXIT_LAB, LabError, UsageError
from .kernel import get_kernel
from .series import find_series, stock_series
from .session import Options, run

_DESCRIPTION = """\
Run commands in a stock Debian kernel, in QEMU, with the host's files as user land.

The guest sees the host's root file system; what it writes there is lost. It has an empty file
system on /mnt/duet, duet.ko loaded, and the project as its working directory.
"""
_EPILOG = """\
exit status of run and shell:
  COMMAND's own, and besides
  2    a bad option
  70   the kernel complained (WARNING, BUG, Oops, ...), or duet.ko did not unload, although
       COMMAND said 0; what the kernel said is shown in any case
  71   the lab itself could not do its work
  124  the time ran out (--timeout)
  130  interrupted
Other commands: 0, 2, 71 (for `build --check` and `analyze`: a finding), 130.

environment:
  DUET_LAB_CACHE   the cache; by default duet-lab in $XDG_CACHE_HOME or ~/.cache

On a terminal COMMAND gets a terminal; Ctrl-] then ends the machine, Ctrl-C is COMMAND's.

examples:
  lab run -- python -m pytest tests/kernel
  lab run --kernel 6.12 --fs xfs --share /tmp/out -- sh -c 'dmesg > /share/dmesg'
  lab shell --no-load
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lab",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true", help="no words about progress")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument(
        "--kernel", metavar="SERIES", help="of `lab kernels`, or debug or kcsan [the first]"
    )

    guest = argparse.ArgumentParser(add_help=False)
    add = guest.add_argument
    add("-v", "--verbose", action="store_true", help="show the kernel's console")
    add("--fs", choices=FILE_SYSTEMS, default="ext4", help="what /mnt/duet is [ext4]")
    add("--smp", type=_positive, metavar="N", help="processors [2, or the host's if fewer]")
    add("--mem", type=_positive, metavar="MIB", help="memory [1024]")
    add("--disk-size", type=_positive, metavar="MIB", help="size of /mnt/duet [1024; icount: 256]")
    add("--disk-rate", type=_positive, metavar="MIB", help="a second, of /mnt/duet [any]")
    add("--disk-from", type=_directory, metavar="DIR", help="fill the disk from DIR (ext4 only)")
    add("--icount", action="store_true", help="time counts instructions; TCG, one CPU, ram disk")
    add(
        "--parallel",
        action="store_true",
        help="emulate each processor in a thread with any QEMU; tests/vm/README.md says the risk",
    )
    add("--no-load", action="store_true", help="do not build and load duet.ko")
    add("--share", type=_directory, metavar="DIR", help="mount DIR read-write on /share")
    add("--env", action="append", default=[], metavar="NAME[=VALUE]", help="pass a variable")
    add("--append", default="", metavar="ARGS", help="more kernel arguments")
    add("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="[auto: kvm if it boots]")

    commands = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    sub = commands.add_parser("run", parents=[common, one, guest], help="run a command in a guest")
    sub.add_argument("--timeout", type=_seconds, default=600, metavar="S", help="seconds [600]")
    sub.add_argument("command", nargs="+", metavar="COMMAND", help="after --")
    sub = commands.add_parser("shell", parents=[common, one, guest], help="a prompt in a guest")
    sub.add_argument("--timeout", type=_seconds, metavar="S", help="seconds [none]")
    sub = commands.add_parser("fetch", parents=[common], help="get kernels and headers")
    sub.add_argument("--kernel", action="append", metavar="SERIES", help="only these series")
    sub.add_argument("--update", action="store_true", help="look for newer ones than the cache's")
    sub = commands.add_parser("build", parents=[common, one], help="build duet.ko, print its path")
    sub.add_argument("--check", action="store_true", help="strictly; warnings fail")
    commands.add_parser("analyze", parents=[common, one], help="coccicheck, and smatch")
    commands.add_parser("headers", parents=[common, one], help="print KDIR")
    commands.add_parser("kernels", parents=[common], help="list the series of stock kernels")
    commands.add_parser("accel", parents=[common, one], help="print kvm or tcg")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def _directory(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return path


def _variables(given: list[str]) -> dict[str, str]:
    """The variables of --env; a bare name passes the lab's own, when it is set."""
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name:
            raise UsageError(f"--env {item}: no name")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _options(args: argparse.Namespace) -> Options:
    """The options of `run` and `shell`."""
    shell = args.verb == "shell"
    if shell and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("lab shell needs a terminal; use lab run")
    return Options(
        series=find_series(args.kernel),
        command=["bash"] if shell else args.command,
        fs=args.fs,
        smp=args.smp,
        mem=args.mem,
        disk_size=args.disk_size,
        disk_rate=args.disk_rate,
        disk_from=args.disk_from,
        icount=args.icount,
        parallel=args.parallel,
        load=not args.no_load,
        share=args.share,
        timeout=args.timeout,
        env=_variables(args.env),
        append=args.append,
        accel=args.accel,
        terminal=sys.stdout.isatty(),
        verbose=args.verbose,
    )


def _dispatch(args: argparse.Namespace) -> int:
    match args.verb:
        case "run" | "shell":
            return run(_options(args))
        case "fetch":
            names = args.kernel or [series.name for series in stock_series()]
            for series in [find_series(name) for name in names]:
                kernel = get_kernel(series, update=args.update)
                host.say(f"{series.name} is {kernel.release}, in {kernel.root}")
        case "build":
            print(build_module(get_kernel(find_series(args.kernel)), check=args.check)[0])
        case "analyze":
            analyze(get_kernel(find_series(args.kernel)))
        case "headers":
            print(get_kernel(find_series(args.kernel)).kdir)
        case "kernels":
            print("\n".join(series.name for series in stock_series()))
        case "accel":
            print(choose_accel(get_kernel(find_series(args.kernel))))
    return 0


def _terminate(number: int, _frame: object) -> None:
    """End in order: the machine is killed on the way out."""
    raise SystemExit(128 + number)


def main(argv: list[str]) -> int:
    """The lab's exit status."""
    args = _parser().parse_args(argv)
    host.quiet = args.quiet
    # The flags of a make that started the lab are not for those that the lab starts.
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        os.environ.pop(name, None)
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGHUP, _terminate)
    try:
        return _dispatch(args)
    except LabError as error:
        host.complain(str(error))
        return error.status
    except OSError as error:
        host.complain(f"{error}; is the disk full, or the cache {host.cache_dir()} damaged?")
        return EXIT_LAB
    except KeyboardInterrupt:
        host.complain("interrupted")
        return EXIT_INTERRUPT
