# SPDX-License-Identifier: MIT
"""duet(8): the command, of its argument parser, its exit codes and docs/."""

import argparse
import functools
import re
from pathlib import Path

from argparse_manpage.manpage import Manpage

from pyduet.cli import Exit, parser

from . import roff
from .markdown import filled

_TEMPLATE = Path(__file__).resolve().parent.parent / "duet.8.md"

#: What argparse begins a usage with, and indents its further lines by.
_USAGE = "usage: "


def page() -> str:
    """Return the page."""
    text = filled(_TEMPLATE).replace("<!-- exit codes -->", _exit_codes())
    rest = roff.from_markdown(text, section=8, manual="System Manager's Manual")
    head, sections, tail = rest.partition("\n.SH ")
    return f"{head}\n{_arguments()}{sections.lstrip()}{tail}"


def _exit_codes() -> str:
    return "\n".join(f"**{code:d}**\n:   {code.meaning}\n" for code in Exit)


def _arguments() -> str:
    """Return the sections from NAME to COMMANDS, which the parser tells."""
    made = parser()
    # Lines are for roff to break, but for those of a usage.
    made.formatter_class = _formatter(10_000)
    # The exit codes have a section of their own.
    made.epilog = None
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            _prepare(action)
    manpage = Manpage(made, format="single-commands-section")
    summary = str(made.description).split(". ")[0]
    manpage.description = summary[0].lower() + summary[1:]
    _, _, text = str(manpage).partition("\n.SH NAME")
    text = re.sub(rf"^{_USAGE}(duet \S+)(.*(?:\n {{7}}.*)*)", _usage, text, flags=re.MULTILINE)
    # The options of a command are indented as its other text is.
    options = re.compile(r"^(?:arguments|options):\n\.RS 7\n(.*?)\n\.RE$", re.M | re.S)
    return ".SH NAME" + options.sub(r"\1", text)


def _formatter(width: int) -> "functools.partial[argparse.HelpFormatter]":
    return functools.partial(argparse.HelpFormatter, width=width)


def _prepare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Have each command say in one place what it does, what comes last included."""
    for short, command in zip(commands._choices_actions, commands.choices.values(), strict=True):
        words = command.description or f"{str(short.help)[0].upper()}{str(short.help)[1:]}."
        command.description = "\n\n".join(filter(None, [words, command.epilog]))
        short.help = None
        command.formatter_class = _formatter(78)
        for action in command._actions:
            if isinstance(action, argparse._SubParsersAction):
                _prepare(action)


def _usage(found: re.Match[str]) -> str:
    """Return a usage with its lines as argparse broke them."""
    words = found[2].replace("\n" + " " * len(_USAGE), "\n")
    return f".nf\n\\fB{found[1]}\\fR{words}\n.fi"
