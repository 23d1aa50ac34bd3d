# SPDX-License-Identifier: MIT
"""A table that is brought up to date cell by cell, sorted, filtered, and keeps its cursor."""

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import DataTable
from textual.widgets.data_table import RowKey

from duet_tui.screens.base import Cell

#: Characters that left and right scroll.
_COLUMNS = 8


class Grid(DataTable[Cell]):
    """Rows of cells, each with a key.

    Attributes:
        found: the rows that contain what was searched, by key, in no order.

    """

    HELP = """
    # A table

    Move with the arrows; *s* sorts by the next column and *S* the other way round, as does a click
    on a head. */* searches.
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "sort_next", "Sort"),
        Binding("S,shift+s", "sort_back", "Reverse", show=False),
    ]

    def __init__(
        self,
        columns: Sequence[str],
        *,
        sort: int | None = 0,
        reverse: bool = False,
        id: str | None = None,  # noqa: A002 -- Textual's
    ) -> None:
        """Make an empty table.

        Args:
            columns: their heads.
            sort: number of the column to sort by; None leaves rows as they are given.
            reverse: largest first.
            id: of the widget.

        """
        super().__init__(id=id, cursor_type="row", zebra_stripes=False)
        self._heads = list(columns)
        self._sorted = sort
        self._reverse = reverse
        self._search = ""
        self._all: dict[str, tuple[Cell, ...]] = {}
        self.found: dict[str, tuple[Cell, ...]] = {}
        #: Whether the cursor is where somebody has put it. Until then it is on the first row.
        self._is_held = False

    def on_key(self) -> None:
        """Keep the cursor on its row from here on."""
        self._is_held = True

    def on_click(self) -> None:
        """Keep the cursor on its row from here on."""
        self._is_held = True

    def on_mount(self) -> None:
        """Make the columns."""
        for number, head in enumerate(self._heads):
            self.add_column(self._head(number, head), key=str(number))

    def _head(self, number: int, head: str) -> Cell:
        arrow = ("", " ▲", " ▼")[0 if number != self._sorted else 1 + self._reverse]
        return Cell(head + arrow, style="bold")

    @property
    def search(self) -> str:
        """What a row has to contain to be shown, upper or lower case."""
        return self._search

    @search.setter
    def search(self, text: str) -> None:
        self._search = text.casefold()
        self.show(self._all)

    @property
    def cursor_key(self) -> str | None:
        """The key of the row at the cursor; None in an empty table."""
        if not self.row_count:
            return None
        return self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value

    def show(self, rows: Mapping[str, tuple[Cell, ...]]) -> None:
        """Show other rows; those that stay are changed cell by cell."""
        self._all = dict(rows)
        wanted = {key: row for key, row in rows.items() if self._matches(row)}
        if not self.columns:
            self.found = wanted
            return
        at = self.cursor_key
        moved = False
        for key in self.found.keys() - wanted.keys():
            self.remove_row(key)
            moved = True
        for key, row in wanted.items():
            known = self.found.get(key)
            if known is None:
                self.add_row(*row, key=key)
                moved = True
                continue
            for number, (cell, was) in enumerate(zip(row, known, strict=True)):
                if cell.plain != was.plain or cell.style != was.style:
                    self.update_cell(key, str(number), cell, update_width=len(cell) > len(was))
                    moved = moved or number == self._sorted
        self.found = wanted
        if moved:
            self._sort(at)

    def extend(self, rows: Mapping[str, tuple[Cell, ...]]) -> None:
        """Show further rows, whose keys are new; those that are there are not looked at."""
        self._all.update(rows)
        wanted = {key: row for key, row in rows.items() if self._matches(row)}
        at = self.cursor_key
        for key, row in wanted.items():
            self.add_row(*row, key=key)
        self.found.update(wanted)
        if wanted:
            self._sort(at)

    def _matches(self, row: tuple[Cell, ...]) -> bool:
        return not self._search or any(self._search in cell.plain.casefold() for cell in row)

    def _sort(self, at: str | None) -> None:
        if self._sorted is not None:
            self.sort(str(self._sorted), key=lambda cell: cell.value, reverse=self._reverse)
        if not self._is_held:
            self.move_cursor(row=0, animate=False)
        elif at in self.found:
            self.move_cursor(row=self.get_row_index(at), animate=False)

    def sort_by(self, column: int, *, reverse: bool) -> None:
        """Sort by a column."""
        if self._sorted is None:
            return
        self._sorted, self._reverse = column, reverse
        for number, (head, known) in enumerate(zip(self._heads, self.ordered_columns, strict=True)):
            known.label = self._head(number, head)
        self._sort(self.cursor_key)
        self._update_count += 1
        self.refresh()

    def _update_dimensions(self, new_rows: Iterable[RowKey]) -> None:
        """Have rows drawn anew that were drawn before it was known how wide their columns are.

        What is drawn is kept, and it is not looked how wide it was:
        https://github.com/Textualize/textual/issues/3533
        """
        super()._update_dimensions(new_rows)
        self._update_count += 1
        self.refresh()

    def action_cursor_right(self) -> None:
        """Show columns further right; the cursor is a whole row."""
        self.scroll_relative(x=_COLUMNS, animate=False)

    def action_cursor_left(self) -> None:
        """Show columns further left."""
        self.scroll_relative(x=-_COLUMNS, animate=False)

    def action_sort_next(self) -> None:
        """Sort by the next column."""
        if self._sorted is not None:
            self.sort_by((self._sorted + 1) % len(self._heads), reverse=self._reverse)

    def action_sort_back(self) -> None:
        """Sort the other way round."""
        if self._sorted is not None:
            self.sort_by(self._sorted, reverse=not self._reverse)

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by what was clicked; the other way round at the second click."""
        event.stop()
        again = event.column_index == self._sorted
        self.sort_by(event.column_index, reverse=not self._reverse if again else False)
