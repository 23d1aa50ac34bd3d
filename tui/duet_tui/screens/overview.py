# SPDX-License-Identifier: MIT
"""Whether Duet is on, its settings, what it takes, what it tells; without the module, why."""

import time
from collections.abc import Iterable
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, Input, Label, Static, Switch

from duet_tui.cost import cost_of
from duet_tui.plan import Plan, ends
from duet_tui.screens.base import DuetScreen
from duet_tui.view import View
from duet_tui.widgets.bars import bar
from duet_tui.widgets.chart import Chart
from duet_tui.widgets.dialogs import Confirm
from pyduet._text.names import printable
from pyduet._text.numbers import plural, size
from pyduet.admin.diagnosis import Finding, Verdict
from pyduet.info import DriverInfo

_FIELDS = ("max_tasks", "limit", "task_limit")
_RATES = ("added", "removed", "dirtied", "flushed", "dropped")
_HOOK_STYLES = {"alive": "green", "silent": "bold red", "missing": "bold red"}
_MARKS = {
    Verdict.OK: ("✓", "green"),
    Verdict.WARNING: ("!", "yellow"),
    Verdict.BAD: ("✗", "bold red"),
    Verdict.UNKNOWN: ("?", "dim"),
}
#: Seconds between two diagnoses while the module is missing.
_DIAGNOSE = 5.0
_BAR = 12


class Field(Horizontal):
    """A setting: its name, the field, and what it is now."""

    def __init__(self, name: str, label: str) -> None:
        """Make the field of a setting."""
        super().__init__(classes="field")
        self._setting, self._label = name, label

    def compose(self) -> ComposeResult:
        """Make the widgets."""
        yield Label(self._label)
        yield Input(compact=True, id=self._setting, max_length=20)
        yield Label("", id=f"{self._setting}_now", classes="now")


class Overview(DuetScreen):
    """The first screen."""

    MODE = "overview"
    FIRST = "#switch"
    HELP = """
    # Overview

    *o* or the switch turns Duet on and off. Off ends every task of every process: you are asked.

    Type other settings into the fields; what they cost is said below before anything is done.
    *Enter* or *Apply* makes the change, *Escape* and *Revert* leave it. Sizes are bytes or as
    `64M`; `0` is the driver's default. For another number of tasks Duet is off for a moment.

    *d* asks the doctor what keeps Duet from working here, and what mends it.

    The charts show folios a second, of watched files; *dropped* is what tasks could not be told.
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("o", "switch", "On/off"),
        Binding("s", "settings", "Settings"),
        Binding("a", "apply", "Apply"),
        Binding("r", "revert", "Revert"),
        Binding("d", "doctor", "Doctor"),
    ]

    def __init__(self) -> None:
        """Begin with nothing typed."""
        super().__init__()
        #: What the fields were given last: what differs was typed.
        self._given = dict.fromkeys(_FIELDS, "")
        self._diagnosed = -_DIAGNOSE
        self._findings: list[Finding] = []
        self._told: list[tuple[str, str, str, str]] = []
        self._facts: list[tuple[str, Text]] = []
        #: Whether the doctor was asked for, though nothing is missing.
        self._asked = False

    def body(self) -> Iterable[Widget]:
        """Return the widgets between the bars."""
        settings = Vertical(
            Horizontal(
                Label("Duet is"), Switch(id="switch"), Label("", id="state"), classes="field"
            ),
            Field("max_tasks", "Tasks at a time"),
            Field("limit", "Limit, all tasks"),
            Field("task_limit", "Limit, one task"),
            Horizontal(
                Button("Apply", id="apply", compact=True, variant="primary"),
                Button("Revert", id="revert", compact=True),
                classes="buttons",
            ),
            VerticalScroll(Static("", id="cost", markup=False), id="cost_scroll", can_focus=False),
            id="settings",
            classes="panel",
        )
        settings.border_title = "Settings"
        facts = VerticalScroll(Static("", id="facts"), classes="panel", id="facts_panel")
        facts.border_title = "State"
        charts = Vertical(
            *(Chart(name, id=f"rate_{name}") for name in _RATES), id="rates", classes="panel"
        )
        charts.border_title = "Folios a second"
        doctor = VerticalScroll(Static("", id="findings"), id="doctor", classes="panel")
        doctor.border_title = "What is missing"
        yield doctor
        yield Horizontal(settings, facts, id="upper")
        yield charts

    # Showing

    def show(self, view: View) -> None:
        """Show a look at the driver."""
        if not view.kernel:
            return  # nobody has looked yet
        if view.info is None or self._asked:
            self._diagnose()
        self._turn(doctor=view.info is None or self._asked)
        if view.info is None:
            return
        self._show_settings(view, view.info)
        self._show_facts(_facts(view, view.info))
        hidden = "" if view.counters else "(only root is told)"
        for name in _RATES:
            self.query_one(f"#rate_{name}", Chart).show(
                self.duet.history.module.series(name), hidden
            )

    def _turn(self, *, doctor: bool) -> None:
        """Show the doctor's findings, or the rest."""
        if doctor != self.has_class("-doctor"):
            self.set_class(doctor, "-doctor")
            self.query_one("#doctor" if doctor else "#switch").focus()

    def _show_facts(self, rows: list[tuple[str, Text]]) -> None:
        if rows == self._facts:
            return
        self._facts = rows
        table = Table.grid(padding=(0, 1))
        table.add_column(width=7)
        table.add_column(ratio=1)
        for row in rows:
            table.add_row(*row)
        self.query_one("#facts", Static).update(table)

    def _show_settings(self, view: View, info: DriverInfo) -> None:
        switch = self.query_one("#switch", Switch)
        if switch.value != info.on:
            with switch.prevent(Switch.Changed):
                switch.value = info.on
        self._label("#state", "on" if info.on else "off")
        values = {
            "max_tasks": str(info.max_tasks),
            "limit": exact(info.limit),
            "task_limit": exact(info.task_limit),
        }
        for name, value in values.items():
            field = self.query_one(f"#{name}", Input)
            if field.value == self._given[name] != value:
                self._given[name] = value
                field.value = value
            self._given[name] = value
            self._label(
                f"#{name}_now", f"{size(getattr(info, name))}" if "limit" in name else "1 to 255"
            )
        controls: list[Widget] = [
            switch,
            *self.query("#settings Input, #settings Button").results(Widget),
        ]
        for control in controls:
            # Said to who asks, and below to who only looks.
            control.tooltip = view.refusal or None
            control.disabled = bool(view.refusal)
        self._show_cost()

    def _label(self, selector: str, text: str) -> None:
        label = self.query_one(selector, Label)
        if label.content != text:
            label.update(text)

    def _show_cost(self) -> None:
        view = self.duet.view
        if view.info is None:
            return
        style = ""
        if view.refusal:
            words = f"Nothing can be changed: {view.refusal}."
        else:
            try:
                words = self._plan(view.info).words(view)
            except ValueError as error:
                words, style = str(error), "$text-error"
        self.say("#cost", Content.styled(words, style) if style else Content(words))

    def _diagnose(self) -> None:
        now = time.monotonic()
        if now - self._diagnosed < _DIAGNOSE:
            return
        self._diagnosed = now

        def show(findings: list[Finding]) -> None:
            if (told := _told(self.duet.view.problem, findings)) != self._told:
                self._findings, self._told = findings, told
                self.query_one("#findings", Static).update(_prescription(told))

        self.duet.quietly(self.duet.backend.findings, show)

    # Acting

    def allows(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what may not be done."""
        del parameters
        view = self.duet.view
        if action not in ("switch", "settings", "apply", "revert"):
            return True
        if view.info is None:
            return False
        return None if view.refusal else True

    def on_switch_changed(self, event: Switch.Changed) -> None:
        """Ask before the switch is what it says."""
        info = self.duet.view.info
        if info is not None and event.value != info.on:
            with event.switch.prevent(Switch.Changed):
                event.switch.value = info.on
            self.action_switch()

    def action_switch(self) -> None:
        """Switch on or off; off is asked where it ends tasks."""
        view, backend = self.duet.view, self.duet.backend
        info = view.info
        if info is None or view.refusal:
            return
        if not info.on:
            said = f"Duet is on, for {plural(info.max_tasks, 'task')}"
            self.duet.act(lambda: backend.start(info.max_tasks), said=said)
        elif not info.tasks:
            self.duet.act(backend.stop, said="Duet is off")
        else:

            def answered(yes: bool | None) -> None:
                if yes:
                    self.duet.act(
                        backend.stop, said=f"Duet is off; {plural(info.tasks, 'task')} ended"
                    )

            self.app.push_screen(Confirm("Switch Duet off?", ends(view), "Switch off"), answered)

    def action_doctor(self) -> None:
        """Show or hide what keeps Duet from working here."""
        self._asked = not self._asked
        self._diagnosed = -_DIAGNOSE
        self.show(self.duet.view)

    def action_settings(self) -> None:
        """Go to the fields."""
        self.query_one("#max_tasks").focus()

    def on_input_changed(self) -> None:
        """Say what it would cost."""
        self._show_cost()

    def on_input_submitted(self) -> None:
        """Make the change."""
        self.action_apply()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Make the change, or forget it."""
        (self.action_apply if event.button.id == "apply" else self.action_revert)()

    def _plan(self, info: DriverInfo) -> Plan:
        texts = {name: self.query_one(f"#{name}", Input).value for name in _FIELDS}
        return Plan.of(info, **texts)

    def action_apply(self) -> None:
        """Make the change that was typed."""
        view = self.duet.view
        info = view.info
        if info is None or view.refusal:
            return
        try:
            plan = self._plan(info)
        except ValueError as error:
            self.duet.complain(error)
            return
        if not plan:
            self.app.notify("nothing was changed in the fields")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self.duet.act(
                    lambda: plan.run(self.duet.backend, info), said="the settings are made"
                )
                self._given = {name: self.query_one(f"#{name}", Input).value for name in _FIELDS}
                self.focus_first()  # or the next digit would go to the field

        if plan.needs_restart(info):
            self.app.push_screen(
                Confirm(
                    "Switch off and on, for other settings?",
                    f"{plan.words(view)}\n\n{ends(view)}",
                    "Do it",
                ),
                answered,
            )
        else:
            answered(True)

    def action_revert(self) -> None:
        """Forget what was typed."""
        for name in _FIELDS:
            self.query_one(f"#{name}", Input).value = self._given[name]
        self.focus_first()

    def action_leave(self) -> None:
        """Leave a field, forgetting what was typed."""
        if isinstance(self.focused, Input):
            self.action_revert()

    def export(self) -> tuple[Any, list[str]]:
        """Return what is on the screen."""
        view = self.duet.view
        if view.info is None or self._asked:
            lines = [f"{mark:2}{name:10}{text}" for mark, _, name, text in self._told]
            return {"problem": view.problem, "findings": self._findings}, lines
        module = self.duet.history.module
        rates = {name: module.series(name) for name in _RATES}
        about = {name: getattr(view, name) for name in ("info", "hooks", "kernel", "version")}
        lines = _lines(_facts(view, view.info))
        lines += [f"{name:9}{values[-1]:,.1f} folios/s" for name, values in rates.items() if values]
        return {**about, "rates": rates}, lines


def exact(number: int) -> str:
    """Return a number of bytes as it can be typed, with a unit where it is whole."""
    for unit, bits in (("G", 30), ("M", 20), ("K", 10)):
        if number and not number % (1 << bits):
            return f"{number >> bits}{unit}"
    return str(number)


def _facts(view: View, info: DriverInfo) -> list[tuple[str, Text]]:
    """Return what the panel of the state says: names and texts."""

    def told(text: str) -> str:
        return text if view.counters else "(only root is told)"

    def counts(numbers: dict[str, int]) -> str:
        return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in numbers.items())

    cost = cost_of(info, info.max_tasks) if info.node_bytes else None
    part = info.bytes / info.limit if info.limit else 0
    dropped = {name: count for name, count in info.drops._asdict().items() if count}
    tables = "none"
    if info.on:
        tables = f"{size(cost.tables)}, beside the limit" if cost else told("")
    rows = [
        ("memory", told(f"{size(info.bytes)} of {size(info.limit)}")),
        ("", f"{bar(info.bytes, info.limit, _BAR)} {part:.0%}" if view.counters else ""),
        ("files", told(f"{info.files:,}") + (f" ({info.file_bytes:,} bytes each)" if cost else "")),
        ("nodes", told(f"{info.nodes:,}") + (f" ({info.node_bytes:,} bytes each)" if cost else "")),
        ("tables", tables),
        ("events", told(counts(info.events._asdict()))),
        ("dropped", told(counts(dropped) or "nothing")),
    ]
    version = view.version or "(no version told)"
    if info.abi_version:
        version += f", interface {info.abi_version}"
    more = [("module", version), ("kernel", view.kernel)]
    if view.problem:
        more.append(("but", view.problem))
    texts = [(name, Text(printable(text))) for name, text in [*rows, *more] if text]
    texts.insert(len(texts) - len(more), ("hooks", _hooks(view.hooks)))
    return texts


def _hooks(hooks: dict[str, str]) -> Text:
    by_word: dict[str, list[str]] = {}
    for name, word in hooks.items():
        by_word.setdefault(word, []).append(name)
    text = Text()
    for word, names in by_word.items():
        text.append("; " if text else "")
        text.append(word, _HOOK_STYLES.get(word, ""))
        text.append(f": {', '.join(names)}")
    return text


def _lines(rows: list[tuple[str, Text]]) -> list[str]:
    return [f"{name:9}{text.plain}" for name, text in rows]


def _told(problem: str, findings: list[Finding]) -> list[tuple[str, str, str, str]]:
    """Return the rows of the doctor: mark, style, name, text."""
    head = [("", "bold", "", problem)] if problem else []
    if problem:
        head.append(("", "", "", "This screen comes alive when that is mended."))
    rows = []
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        rows.append((mark, style, finding.name, finding.found))
        if finding.remedy:
            rows.append(("", "bold", "", f"mend it: {finding.remedy}"))
    return [*head, *rows]


def _prescription(rows: list[tuple[str, str, str, str]]) -> Table:
    table = Table.grid(padding=(0, 1))
    for width in (1, 9, None):
        table.add_column(width=width, ratio=None if width else 1)
    for mark, style, name, text in rows:
        table.add_row(Text(mark, style), name, Text(printable(text), "" if mark else style))
    return table


SCREEN = Overview
