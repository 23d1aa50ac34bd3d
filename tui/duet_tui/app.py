# SPDX-License-Identifier: MIT
"""The application: looks at the driver once a second, and shows it on the screen in sight."""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from textual.app import App, ScreenStackError, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from duet_tui.backend import Backend
from duet_tui.changes import Drops, beginning, changes
from duet_tui.screens.base import TITLES, DuetScreen
from duet_tui.track import History
from duet_tui.view import View
from pyduet._place import Place
from pyduet._text.jsonable import to_jsonable

_T = TypeVar("_T")

#: Seconds between two looks when nothing is told, and the fewest when much is.
_EVERY, _SOON = 1.0, 0.1
#: Lines of the log that are kept.
_LOG = 5000


def _screen(name: str) -> Callable[[], Screen[Any]]:
    """Return what makes the screen of a mode; it is imported when it is first wanted."""

    def make() -> Screen[Any]:
        import importlib

        module = importlib.import_module(f"duet_tui.screens.{name}")
        made: Screen[Any] = module.SCREEN()
        return made

    return make


class DuetApp(App[None]):
    """Duet's screens.

    Attributes:
        backend: what is looked at.
        view: the last look.
        history: rates, from all looks.
        records: the log, the last of it: time, kind and text of each.
        noted: how many there were.

    """

    TITLE = "Duet"
    CSS_PATH = "duet.tcss"
    MODES: ClassVar[dict[str, Any]] = {name: _screen(name) for name in TITLES}
    DEFAULT_MODE = "overview"
    ENABLE_COMMAND_PALETTE = True
    HELP = "Duet tells what the page cache does."
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"show('{name}')", title, show=False)
            for number, (name, title) in enumerate(TITLES.items(), 1)
        ),
        Binding("x", "export", "Export"),
        Binding("f1", "toggle_help", "Help", priority=True),
        Binding("f2", "toggle_light", "Light or dark", show=False),
        Binding("ctrl+p", "command_palette", "Menu"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, backend: Backend) -> None:
        """Make the application; :meth:`run` starts it.

        Args:
            backend: what to look at.

        """
        super().__init__()
        self.backend = backend
        self.view = View(backend.now())
        self.history = History()
        self.records: deque[tuple[float, str, str]] = deque(maxlen=_LOG)
        self.noted = 0
        self._drops = Drops()
        self._changed = asyncio.Event()
        self._attributes: Any = None
        self._uevents: Any = None

    def on_mount(self) -> None:
        """Look at what there is, and begin to follow it."""
        for view in self.backend.past():
            self._take(view)
        self.run_worker(self._follow(), name="follow", exit_on_error=False)

    # Following

    async def _follow(self) -> None:
        self._listen()
        try:
            while True:
                await self.look()
                try:
                    await asyncio.wait_for(self._changed.wait(), _EVERY)
                    # Much may be told together.
                    await asyncio.sleep(_SOON)
                except TimeoutError:
                    pass
                self._changed.clear()
        finally:
            for source in (self._attributes, self._uevents):
                if source is not None:
                    source.close()

    def _listen(self) -> None:
        if not self.backend.live:
            return
        from duet_tui.wake import Attributes, Uevents

        self._attributes = Attributes(self._changed.set)
        try:
            self._uevents = Uevents(self._on_uevent)
        except (ImportError, OSError) as error:
            self.note("error", f"no uevents, only a look every second: {error}")

    def _on_uevent(self, words: str) -> None:
        self.note("uevent", words)
        if "change" not in words and self._attributes is not None:
            self._attributes.detach()  # they are of a device that went, or will be
        self._changed.set()

    async def look(self) -> None:
        """Look now, and show it."""
        view = await asyncio.to_thread(self.backend.look)
        self._take(view)
        if self._attributes is not None:
            (self._attributes.attach if view.loaded else self._attributes.detach)()
        for screen in reversed(self.screen_stack):
            if isinstance(screen, DuetScreen):
                if screen.is_mounted:
                    screen.refresh_view(view)
                break

    def _take(self, view: View) -> None:
        before, self.view = self.view, view
        # The first look finds everything new: that is one line.
        for words in changes(before, view) if before.kernel else [beginning(view)]:
            self.note("change", words)
        if words := self._drops.take(view):
            self.note("change", words)
        self.history.take(view)

    # Telling

    def note(self, kind: str, text: str) -> None:
        """Add a line to the log."""
        self.records.append((self.backend.now(), kind, text))
        self.noted += 1
        with contextlib.suppress(ScreenStackError):
            if isinstance(self.screen, DuetScreen) and self.screen.is_mounted:
                self.screen.noted()

    def complain(self, error: BaseException | str) -> None:
        """Tell of what went wrong, and log it."""
        text = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:
            text = f"{error.filename}: {error.strerror}"
        self.note("error", text)
        self.notify(text, severity="error", timeout=8, markup=False)

    def tell(self, text: str) -> None:
        """Tell of what was done, and log it."""
        self.note("done", text)
        self.notify(text, markup=False)

    # Acting

    def act(
        self, do: Callable[[], _T], then: Callable[[_T], None] | None = None, said: str = ""
    ) -> None:
        """Do something that may take a while in a thread; tell what came of it, and look.

        Args:
            do: what.
            then: called with what it returned.
            said: what to tell when it is done.

        """

        async def run() -> None:
            try:
                result = await asyncio.to_thread(do)
            except (OSError, ValueError) as error:
                self.complain(error)
            else:
                if said:
                    self.tell(said)
                if then is not None:
                    then(result)
            self._changed.set()

        self.run_worker(run(), name="act", group="act", exit_on_error=False)

    def quietly(
        self,
        do: Callable[[], _T],
        then: Callable[[_T], None],
        failed: Callable[[OSError | ValueError], None] | None = None,
    ) -> None:
        """Ask something that may take a while in a thread.

        Args:
            do: what.
            then: called with the answer.
            failed: called with the error; without it the user is told.

        """

        async def run() -> None:
            try:
                answer = await asyncio.to_thread(do)
            except (OSError, ValueError) as error:
                (failed or self.complain)(error)
            else:
                then(answer)

        self.run_worker(run(), name="ask", group="ask", exit_on_error=False)

    def export(self, name: str, collect: Callable[[], tuple[Any, list[str]]]) -> None:
        """Ask for a file and write what ``collect`` returns to it.

        Args:
            name: what the file may be called, without a suffix.
            collect: returns an object for JSON and lines of text.

        """
        from duet_tui.widgets.dialogs import AskExport

        data, lines = collect()

        def write(answer: tuple[str, str] | None) -> None:
            if answer is None:
                return
            kind, path = answer
            text = json.dumps(to_jsonable(data), indent=1) if kind == "json" else "\n".join(lines)
            self.act(lambda: _write(path, text + "\n"), said=f"written: {path}")

        stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.backend.now()))
        self.push_screen(AskExport(f"duet-{name}-{stamp}"), write)

    # Keys

    def action_export(self) -> None:
        """Ask for a file, and write what is on the screen to it."""
        if isinstance(self.screen, DuetScreen):
            self.export(self.screen.MODE, self.screen.export)

    def action_show(self, name: str) -> None:
        """Show a screen."""
        self.switch_mode(name)

    def action_toggle_help(self) -> None:
        """Show or hide the help for what has the keyboard."""
        from duet_tui.widgets.help import Help

        if isinstance(self.screen, Help):
            self.screen.dismiss()
        else:
            self.push_screen(Help(self.screen))

    def action_show_help_panel(self) -> None:
        """Show the help; it is Textual's palette that asks."""
        self.action_toggle_help()

    def action_toggle_light(self) -> None:
        """Change between a light and a dark screen."""
        self.theme = "textual-dark" if not self.current_theme.dark else "textual-light"

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Yield the commands of the palette: screens, the switch, and Textual's own."""
        for name, title in TITLES.items():
            yield SystemCommand(
                f"Screen: {title}", f"Show {title}", lambda name=name: self.action_show(name)
            )
        yield SystemCommand(
            "Switch on or off", "Switch Duet on or off", lambda: self._on_overview("switch")
        )
        yield SystemCommand(
            "Settings", "Set limits and tasks at a time", lambda: self._on_overview("settings")
        )
        if isinstance(screen, DuetScreen):
            yield SystemCommand(
                "Export", "Write what is on the screen to a file", self.action_export
            )
            yield from self._of_screen(screen)
        yield from super().get_system_commands(screen)

    def _of_screen(self, screen: DuetScreen) -> Iterable[SystemCommand]:
        """Yield what the keys of a screen do, as far as they can now."""
        for node, binding, enabled, _ in screen.active_bindings.values():
            if node is screen and enabled and binding.show:
                title = f"{TITLES[screen.MODE]}: {binding.description}"
                key = self.get_key_display(binding)

                async def run(action: str = binding.action) -> None:
                    await screen.run_action(action)

                yield SystemCommand(title, f"Key {key}", run)

    def _on_overview(self, action: str) -> None:
        async def go() -> None:
            await self.switch_mode("overview")
            await self.screen.run_action(f"screen.{action}")

        self.run_worker(go())


def _write(path: str, text: str) -> None:
    # Not over what is there: that would be somebody else's work.
    with (
        Place(path) as place,
        open(place.make(place.name), "w", encoding="utf-8", errors="surrogateescape") as file,
    ):
        file.write(text)
