# SPDX-License-Identifier: MIT
"""``duet completion``: what a shell needs to complete the command's arguments."""

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = "Print the script that has a shell complete the arguments of duet."
    parser.epilog = 'bash, zsh: eval "$(duet completion bash)"; fish: duet completion fish | source'
    parser.add_argument("shell", choices=["bash", "zsh", "fish"])
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["duet"], shell=options.shell))
