# SPDX-License-Identifier: MIT
"""A table whose rows are of files, which can be marked, and looked up in the hash table."""

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message

from duet_tui.screens.base import Cell
from duet_tui.widgets.grid import Grid
from pyduet.events import FileId


class Files(Grid):
    """Rows of files of a task."""

    HELP = """
    # Files

    *b* goes to the buckets of the hash table that hold the file. *c* checks its done mark, *m* sets
    it and *u* takes it away: the task is told no more of a file that is done.
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("b", "do('bucket')", "Bucket"),
        Binding("c", "do('check')", "Check"),
        Binding("m", "do('set')", "Set done"),
        Binding("u", "do('reset')", "Reset"),
    ]

    class Wanted(Message):
        """Something is to be done with a file: ``bucket``, ``check``, ``set`` or ``reset``."""

        def __init__(self, what: str, file: FileId) -> None:
            super().__init__()
            self.what, self.file = what, file

    def show_files(self, rows: Sequence[tuple[FileId, tuple[Cell, ...]]]) -> None:
        """Show rows, each of a file; a file may have several."""
        self._files = {
            f"{number}:{file.ino}:{file.generation}": file for number, (file, _) in enumerate(rows)
        }
        self.show(dict(zip(self._files, (cells for _, cells in rows), strict=True)))

    def action_do(self, what: str) -> None:
        """Ask for something to be done with the file at the cursor."""
        key = self.cursor_key
        if key is not None:
            self.post_message(self.Wanted(what, self._files[key]))
