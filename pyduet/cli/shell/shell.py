# SPDX-License-Identifier: MIT
"""Lines in, answers out: what the prompt and scripts have in common."""

import sys
from types import TracebackType
from typing import Self

from pyduet.cli.shell import grammar
from pyduet.cli.shell.lines import split
from pyduet.cli.shell.session import Session
from pyduet.cli.shell.show import Answer
from pyduet.cli.text import print_json


class Shell:
    """Executes lines; a context manager that ends the tasks that they registered."""

    def __init__(self, node: str, *, as_json: bool = False, quiet: bool = False) -> None:
        """Begin with no task; the device is opened when it is needed.

        Args:
            node: path of the device node.
            as_json: print each answer as one line of JSON.
            quiet: leave out the words that are for people alone.

        """
        self.session = Session(node)
        self._as_json = as_json
        self._quiet = quiet

    def __enter__(self) -> Self:
        """Return the shell itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the shell's tasks."""
        self.session.close()

    def execute(self, line: str) -> None:
        """Do what a line says and print the answer.

        Raises:
            Leave: it says to leave the shell.
            UsageError: no command understands it.
            DuetError, ValueError: it could not be done.

        """
        if words := split(line):
            self._print(grammar.answer(self.session, words))

    def _print(self, answer: Answer) -> None:
        if self._as_json:
            data = answer.data if isinstance(answer.data, dict) else list(answer.data)
            print_json(data)
            return
        answer.show()
        sys.stdout.flush()
        if answer.note and not self._quiet:
            print(answer.note, file=sys.stderr)
