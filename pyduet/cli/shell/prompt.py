# SPDX-License-Identifier: MIT
"""The shell on a terminal: prompt, completion, and errors that do not end it."""

import cmd
import sys
from contextlib import suppress

from pyduet.cli.shell.completion import complete
from pyduet.cli.shell.grammar import Leave
from pyduet.cli.shell.history import kept
from pyduet.cli.shell.shell import Shell
from pyduet.cli.text import warn


def talk(shell: Shell) -> None:
    """Ask for lines until one says to leave; errors are said, and Ctrl-C abandons the line."""
    print("The Duet shell. help lists the commands; quit, or Ctrl-D, leaves.", file=sys.stderr)
    prompt = _Prompt(shell)
    # Commas and slashes do not end a word.
    with suppress(ImportError):
        import readline

        readline.set_completer_delims(" \t\n")
    with kept():
        while True:
            try:
                prompt.cmdloop()
            except KeyboardInterrupt:
                print()
            else:
                return


class _Prompt(cmd.Cmd):
    """Lends its loop and its Tab key; what lines mean is not its business."""

    prompt = "duet> "

    def __init__(self, shell: Shell) -> None:
        super().__init__()
        self._shell = shell

    def onecmd(self, line: str) -> bool:
        """Execute a line; return whether to leave."""
        if line == "EOF":
            print()  # Ctrl-D leaves the cursor behind the prompt
        try:
            self._shell.execute(line)
        except Leave:
            return True
        except (OSError, ValueError) as error:
            warn(str(error))
        return False

    def completenames(self, _text: str, line: str, begin: int, end: int) -> list[str]:
        """Return what the line may go on with, from where readline thinks that a word begins."""
        start, words = complete(self._shell.session, line[:end])
        # A blank with a \ before it does not end a word here, but it does for readline.
        return [word[begin - start :] for word in words]

    completedefault = complete_help = completenames
