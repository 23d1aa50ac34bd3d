# SPDX-License-Identifier: MIT
"""Parsers of commands whose modules are imported when one of them is used."""

import argparse
import importlib
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that has a module add what it takes, once that matters.

    The module's ``add(parser)`` describes the command, adds its arguments, and
    sets ``run``: a function of the options that returns an exit code, or None.
    """

    def __init__(self, *args: Any, module: str | None = None, **kwargs: Any) -> None:
        """Take what argparse takes, and the name of the module."""
        super().__init__(*args, **kwargs)
        self._module = module
        self._rest: tuple[str, str] | None = None

    def add_commands(self, table: Mapping[str, tuple[str, str]], title: str, metavar: str) -> None:
        """Add commands.

        Args:
            table: by name, the module and what the help says.
            title: of all of them.
            metavar: of one.

        """
        commands = self.add_subparsers(title=title, required=True, metavar=metavar)
        for name, (module, words) in table.items():
            commands.add_parser(name, module=module, help=words)

    def add_rest(self, dest: str, of: str, **kwargs: Any) -> None:
        """Take what comes after ``--`` for another program, whatever it is.

        Args:
            dest: where the list is to be.
            of: the program.
            **kwargs: as of ``add_argument``.

        """
        self.add_argument(dest, nargs="*", default=[], metavar="-- OPTION", **kwargs)
        self._rest = dest, of

    def fill(self, *, deep: bool = False) -> None:
        """Add what the module adds, unless that was done.

        Args:
            deep: also to the commands of this one, and to theirs.

        """
        if self._module is not None:
            module, self._module = importlib.import_module(self._module), None
            module.add(self)
            if not any(isinstance(one, argparse._SubParsersAction) for one in self._actions):
                add_common(self, default=argparse.SUPPRESS)
        for action in self._actions if deep else ():
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    command.fill(deep=True)

    # argparse's own has overloads, for namespaces of other classes, which no command uses.
    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Do what argparse does, with all arguments in place."""
        self.fill()
        if self._rest is None or args is None:
            return super().parse_known_args(args, namespace)
        # argparse drops the "--", and lets options in between end a list.
        dest, of = self._rest
        end = list(args).index("--") if "--" in args else len(args)
        found, unknown = super().parse_known_args(args[:end], namespace)
        if unknown := unknown + getattr(found, dest):
            self.error(f"unrecognized arguments: {' '.join(unknown)}; {of}'s own come after --")
        setattr(found, dest, list(args[end + 1 :]))
        return found, []

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, below the usage, and end."""
        self.fill()
        super().error(message)


def add_common(parser: argparse.ArgumentParser, *, default: Any = None) -> None:
    """Add what may be said before a command, and after it.

    Args:
        parser: of all, or of a command.
        default: when it is not said; None for the real defaults.

    """
    from pyduet import DEFAULT_DEVICE

    parser.add_argument(
        "--device",
        default=default or DEFAULT_DEVICE,
        metavar="NODE",
        help=f"default: {DEFAULT_DEVICE}",
    )
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=default or False,
        help="say nothing on stderr when all went well",
    )
