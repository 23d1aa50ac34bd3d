# SPDX-License-Identifier: MIT
"""One task: its rates, its most cached files, what is pending, its done marks."""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, Input, Static, TabbedContent, TabPane

from duet_tui.changes import owner_of
from duet_tui.screens.base import Cell, DuetScreen, number
from duet_tui.screens.tasks import ask_to_end
from duet_tui.view import CachedFile, View
from duet_tui.widgets.bars import bar
from duet_tui.widgets.chart import Chart
from duet_tui.widgets.files import Files
from pyduet._text.names import printable
from pyduet._text.numbers import age, plural, size
from pyduet.events import FileId, Item, State
from pyduet.info import TaskInfo

#: Rows of a table at most: to look at, not to count.
_ROWS = 500
_BAR = 16
_RATES = ("delivered", "dropped", "done")
_TABS = {"rates": "Rates", "cached": "Most cached", "pending": "Pending", "bitmap": "Bitmap"}


class TaskScreen(DuetScreen):
    """What there is to know of a task, and to do with it."""

    FIRST = "Tabs"
    HELP = """
    # A task

    *Left* and *right* change the pages while the tabs have the keyboard; so do *F5* to *F8*.

    *Most cached* and *Pending* are of the moment when they were opened; *g* gets them anew. What is
    pending is looked at, and stays pending. The bitmap takes a path or `INODE:GENERATION`; *Check*
    also says done of a file that is of no interest to the task.
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(f"f{key}", f"tab('{name}')", title, show=False)
            for key, (name, title) in enumerate(_TABS.items(), 5)
        ),
        Binding("g", "get", "Get anew"),
        Binding("w", "rescan", "Rescan"),
        Binding("d", "end", "End task"),
    ]

    def __init__(self, task: TaskInfo, mode: str, file: str = "") -> None:
        """Make the screen of a task.

        Args:
            task: which.
            mode: that it was opened from.
            file: to begin with in the field of the bitmap, which is then opened.

        """
        super().__init__()
        self.MODE = mode  # type: ignore[misc]
        self.task_info = task
        self._file = file
        self._ended = ""
        self._marks = -1
        self._exports: dict[str, list[Any]] = {}

    def body(self) -> Iterable[Widget]:
        """Return the widgets between the bars."""
        yield Static("", id="task_facts")
        with TabbedContent(initial="bitmap" if self._file else "rates"):
            with TabPane(_TABS["rates"], id="rates"):
                for name in _RATES:
                    yield Chart(name, id=f"rate_{name}")
            with TabPane(_TABS["cached"], id="cached"):
                yield Static("", id="cached_said", classes="said", markup=False)
                yield Files(
                    ("cached", "residency", "pages", "dirty", "path"),
                    sort=0,
                    reverse=True,
                    id="cached_files",
                )
            with TabPane(_TABS["pending"], id="pending"):
                yield Static("", id="pending_said", classes="said", markup=False)
                yield Files(("state", "first", "pages", "path"), sort=3, id="pending_files")
            with TabPane(_TABS["bitmap"], id="bitmap"), Vertical():
                yield Static("", id="counts", markup=False)
                with Horizontal(id="marks"):
                    yield Input(
                        self._file,
                        placeholder="a path, or INODE:GENERATION",
                        compact=True,
                        id="file",
                    )
                    yield Button("Check", id="check", compact=True, variant="primary")
                    yield Button("Set", id="set", compact=True)
                    yield Button("Reset", id="reset", compact=True)
                yield Static("", id="verdict", markup=False)
                yield Static("", id="bitmap_said", classes="said", markup=False)
                yield Files(("inode", "generation", "path"), sort=2, id="marked_files")

    # Showing

    def show(self, view: View) -> None:
        """Show a look at the driver."""
        now = view.find(self.task_info)
        if now is not None:
            self.task_info = now
        elif not self._ended:
            self._ended = time.strftime("%H:%M:%S", time.localtime(view.time))
            self.refresh_bindings()
        task = self.task_info
        self.say("#task_facts", _facts(task, view, self._ended))
        track = self.duet.history.of(task)
        for name in _RATES:
            hidden = "(only root is told)" if name == "dropped" and not view.counters else ""
            self.query_one(f"#rate_{name}", Chart).show(track.series(name), hidden)
        self.say("#counts", Content(_counts(task, view)))
        refusal = self._refusal(view)
        for control in self.query("#marks Button, #marks Input").results(Widget):
            control.disabled = bool(refusal)
            control.tooltip = refusal or None
        if refusal:
            self.say("#verdict", Content(f"Marks can be neither asked nor set: {refusal}."))
        if self._marks != task.done:
            self._marks = task.done
            if self._tab == "bitmap":
                self._get("bitmap")

    def _refusal(self, view: View) -> str:
        """Return why marks can be neither asked for nor set; empty if they can."""
        if self._ended:
            return "the task has ended"
        return view.refusal

    @property
    def _tab(self) -> str:
        return self.query_one(TabbedContent).active

    def action_tab(self, name: str) -> None:
        """Show another page."""
        self.query_one(TabbedContent).active = name

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Get what is on the page."""
        self._get(str(event.pane.id))
        if self._file:
            self._file = ""
            self.query_one("#file").focus()

    def action_get(self) -> None:
        """Get what is on the page anew."""
        self._get(self._tab)

    def _get(self, name: str) -> None:
        task, backend = self.task_info, self.duet.backend
        if self._ended:
            return
        if name == "cached":
            self._ask(name, lambda: backend.cached(task, _ROWS), self._show_cached)
        elif name == "pending":
            self._ask(
                name,
                lambda: self._with_paths(backend.pending(task.id), lambda item: item.file),
                self._show_pending,
            )
        elif name == "bitmap":
            self._ask(
                name,
                lambda: self._with_paths(backend.marked(task.id), lambda file: file),
                self._show_marked,
            )

    def _ask(self, name: str, do: Callable[[], Any], then: Callable[[Any], None]) -> None:
        said = self.query_one(f"#{name}_said", Static)
        said.update("looking …")
        self.duet.quietly(do, then, lambda error: said.update(str(error)))

    def _with_paths(
        self, things: Iterable[Any], file_of: Callable[[Any], FileId]
    ) -> tuple[list[Any], dict[FileId, str], bool]:
        """Return the first of some things of files, the paths, and whether there were more."""
        rest = iter(things)
        some = list(itertools.islice(rest, _ROWS))
        more = next(rest, None) is not None
        files = dict.fromkeys((self.task_info.id, file_of(one)) for one in some)
        return some, self.duet.backend.paths(files), more

    def _clock(self) -> str:
        return time.strftime("%H:%M:%S", time.localtime(self.duet.backend.now()))

    def _show_cached(self, found: list[CachedFile]) -> None:
        self._exports["cached"] = list(found)
        most = max((one.cached for one in found), default=0)
        rows = [(one.file, _cached_row(one, most)) for one in found]
        self.query_one("#cached_files", Files).show_files(rows)
        pages = sum(one.cached for one in found)
        first = (
            f"the {_ROWS} most cached files" if len(found) == _ROWS else plural(len(found), "file")
        )
        # A recording does not hold the sizes of files.
        unknown = any(one.pages is None for one in found)
        note = "; where the size is not known, of the most cached" if unknown else ""
        self.say(
            "#cached_said",
            Content(f"{self._clock()}  {first}, {plural(pages, 'page')} cached{note}"),
        )

    def _show_pending(self, answer: tuple[list[Item], dict[FileId, str], bool]) -> None:
        items, paths, more = answer
        self._exports["pending"] = [{"item": item, "path": paths.get(item.file)} for item in items]
        rows = [(item.file, _pending_row(item, paths.get(item.file))) for item in items]
        self.query_one("#pending_files", Files).show_files(rows)
        what = f"the first {_ROWS} of more" if more else plural(len(items), "item")
        self.say("#pending_said", Content(f"{self._clock()}  {what}, looked at and left pending"))

    def _show_marked(self, answer: tuple[list[FileId], dict[FileId, str], bool]) -> None:
        files, paths, more = answer
        self._exports["bitmap"] = [{"file": file, "path": paths.get(file)} for file in files]
        rows = [
            (file, (number(file.ino), number(file.generation), _path(file, paths.get(file))))
            for file in files
        ]
        self.query_one("#marked_files", Files).show_files(rows)
        what = (
            f"the first {_ROWS} of {self.task_info.done:,}" if more else plural(len(files), "file")
        )
        self.say("#bitmap_said", Content(f"{self._clock()}  marked done: {what}"))

    # Acting

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what may not be done."""
        del parameters
        if action in ("rescan", "end") and self._refusal(self.duet.view):
            return None
        return True

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Check, set or reset the file that was typed."""
        self._mark(str(event.button.id), self.query_one("#file", Input).value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Check the file that was typed."""
        self._mark("check", event.value)

    def on_files_wanted(self, event: Files.Wanted) -> None:
        """Do what is wanted with a file of a table."""
        if event.what == "bucket":
            from duet_tui.screens.buckets import BucketsScreen, OfFile

            self.app.push_screen(BucketsScreen(OfFile(event.file), self.MODE))
            return
        self.query_one("#file", Input).value = f"{event.file.ino}:{event.file.generation}"
        self._mark(event.what, f"{event.file.ino}:{event.file.generation}", aloud=True)

    def _mark(self, what: str, text: str, *, aloud: bool = False) -> None:
        if not text.strip():
            self.app.notify("type a path, or INODE:GENERATION, first")
            return
        if refusal := self._refusal(self.duet.view):
            self.duet.complain(refusal)
            return
        backend, task_id = self.duet.backend, self.task_info.id

        def do() -> str:
            file = backend.file_of(text)
            if what != "check":
                backend.mark(task_id, file, done=what == "set")
                return f"{file}: {'marked done' if what == 'set' else 'not marked any more'}"
            done = backend.is_done(task_id, file)
            marked = done and any(one == file for one in backend.marked(task_id))
            verdict = (
                "done"
                if marked
                else "not marked, but of no interest to the task"
                if done
                else "not done"
            )
            return f"{file}: {verdict}"

        def then(said: str) -> None:
            self.say("#verdict", Content(said))
            self.duet.note("done" if what != "check" else "told", f"task {task_id}, {said}")
            if aloud:
                self.app.notify(said, markup=False)
            if what != "check":
                self._get("bitmap")

        self.duet.act(do, then)

    def action_rescan(self) -> None:
        """Have the task told anew what is cached."""
        task_id = self.task_info.id
        said = f"what is cached is news to task {task_id} again"
        self.duet.act(lambda: self.duet.backend.rescan(task_id), said=said)

    def action_end(self) -> None:
        """Offer to end the task."""
        ask_to_end(self, self.task_info)

    def export(self) -> tuple[Any, list[str]]:
        """Return what is on the screen."""
        view = self.duet.view
        rows = self._exports.get(self._tab, [])
        lines = _facts(self.task_info, view, self._ended).plain.splitlines()
        tables = {"cached": "#cached_files", "pending": "#pending_files", "bitmap": "#marked_files"}
        if self._tab in tables:
            found = self.query_one(tables[self._tab], Files).found.values()
            lines += ["  ".join(cell.plain for cell in row) for row in found]
        return {"task": self.task_info, "page": self._tab, "rows": rows}, lines


def _facts(task: TaskInfo, view: View, ended: str) -> Content:
    flags = [name for name in ("ranges", "no_scan", "snapshot", "gone") if getattr(task, name)]
    owner = owner_of(task, view)
    if view.counters:
        unread = f"{bar(task.pending, task.limit, _BAR)} {size(task.pending)} of {size(task.limit)}"
    else:
        unread = f"at most {size(task.limit)}"
    parts: list[Any] = [
        (f"task {task.id}  {printable(task.name)}", "bold"),
        f"   {owner}   {age(task.age)} old",
    ]
    if ended:
        parts += ["   ", (f" has ended, seen at {ended} ", "$text-error reverse")]
    parts += [
        f"\npath    {printable(task.path)}",
        f"\nmask    {', '.join(task.mask.names)}"
        + (f"   flags {', '.join(flags)}" if flags else ""),
        f"\nunread  {unread}   delivered {task.delivered:,}   overflows {task.overflows:,}",
    ]
    return Content.assemble(*parts)


def _counts(task: TaskInfo, view: View) -> str:
    if view.counters and view.info is not None:
        seen = f"{view.info.files:,} seen by Duet, {task.files:,} of interest to the task"
    else:
        seen = "how many were seen is told to root alone"
    return f"Files: {task.done:,} done; {seen}"


def _path(file: FileId, path: str | None) -> Cell:
    return Cell(path) if path is not None else Cell(f"({file})", style="italic")


def _cached_row(one: CachedFile, most: int) -> tuple[Cell, ...]:
    whole = one.pages if one.pages is not None else most
    size_of = number(one.pages) if one.pages is not None else Cell("?", -1, right=True)
    drawn = Cell(bar(one.cached, whole, _BAR), one.cached / whole if whole else 0)
    return number(one.cached), drawn, size_of, number(one.dirty), _path(one.file, one.path)


def _pending_row(item: Item, path: str | None) -> tuple[Cell, ...]:
    overflow = bool(item.state & State.OVERFLOW)
    pages = Cell("?", 0, right=True) if overflow else number(item.pages)
    return Cell(str(item.state)), number(item.index), pages, _path(item.file, path)
