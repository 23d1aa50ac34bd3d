# SPDX-License-Identifier: MIT
"""``duet completion``: what a shell needs to complete the command's arguments."""

import argparse


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "completion",
        help="the completion script of a shell",
        description="Print the script that has a shell complete the arguments of duet.",
        epilog='bash, zsh: eval "$(duet completion bash)"; fish: duet completion fish | source',
    )
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["duet"], shell=options.shell))
