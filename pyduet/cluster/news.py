# SPDX-License-Identifier: MIT
"""How a host tells others what its memory holds: messages, whatever carries them.

A message is a dictionary of plain values, so that JSON and every engine can carry it. Now and then,
and at first, it says all that is held; else what changed. So who listens from any moment on knows
soon, and who missed one notices.
"""

import secrets
import time
from collections.abc import Iterable
from typing import Protocol, TypedDict

from pyduet.cluster.blocks import Blocks

#: Messages from one that says all to the next.
_WHOLE = 10


class Message(TypedDict):
    """What a host says.

    Attributes:
        host: who, as its engine names it.
        run: of the program that says it: another one is another run, which counts anew.
        number: of the message in its run, from 0.
        whole: whether ``gained`` is all that is held.
        gained: blocks, in the order in which they came to be resident.
        lost: blocks that are held no more.

    """

    host: str
    run: str
    number: int
    whole: bool
    gained: list[str]
    lost: list[str]


class Announcer:
    """Makes the messages of one host."""

    def __init__(self, host: str, blocks: Blocks) -> None:
        """Take what is to be told.

        Args:
            host: as the engine names it.
            blocks: what is kept up; nobody else asks them for changes.

        """
        self._host, self._blocks = host, blocks
        self._run, self._number = secrets.token_hex(4), 0

    def message(self) -> Message:
        """Return what is to be told now; also that nothing changed, which says that it lives."""
        gained, lost = self._blocks.changes()
        whole = self._number % _WHOLE == 0
        message = Message(
            host=self._host,
            run=self._run,
            number=self._number,
            whole=whole,
            gained=list(self._blocks.resident if whole else gained),
            lost=[] if whole else list(lost),
        )
        self._number += 1
        return message


class Listener(Protocol):
    """Who wants to know what hosts hold: a :class:`~pyduet.cluster.pick.Picker`."""

    def gained(self, host: str, blocks: Iterable[str]) -> None:
        """Note what a host holds from now on."""

    def lost(self, host: str, blocks: Iterable[str]) -> None:
        """Note what a host holds no more."""


class Directory:
    """What hosts hold, as far as was heard.

    Of a host that missed to be heard nothing is known until it says all again: nobody is sent to
    what may be gone.

    Thread-safety: none; one thread tells and asks.
    """

    def __init__(self, patience: float = 30.0) -> None:
        """Know nothing.

        Args:
            patience: seconds for which what a silent host said is believed.

        """
        self._patience = patience
        self._held: dict[str, dict[str, None]] = {}
        self._last: dict[str, tuple[str, int]] = {}
        self._heard: dict[str, float] = {}
        self._listeners: list[Listener] = []

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of which is known what they hold."""
        return tuple(self._held)

    def held(self, host: str) -> tuple[str, ...]:
        """Return what a host holds, the last that it got last; nothing where that is not known."""
        return tuple(self._held.get(host, ()))

    def attach(self, listener: Listener) -> None:
        """Have somebody told what is known, and what is heard from here on."""
        self._listeners.append(listener)
        for host, held in self._held.items():
            listener.gained(host, held)

    def detach(self, listener: Listener) -> None:
        """Tell somebody no more."""
        self._listeners.remove(listener)

    def hear(self, message: Message) -> None:
        """Take a message; one that was heard already changes nothing."""
        host, run, number = message["host"], message["run"], message["number"]
        before = self._last.get(host)
        if before and before[0] == run and number <= before[1]:
            return
        if not message["whole"] and before != (run, number - 1):
            self.forget(host)
            return
        self._last[host], self._heard[host] = (run, number), time.monotonic()
        held = self._held.setdefault(host, {})
        gained, lost = message["gained"], message["lost"]
        if message["whole"]:
            now = set(gained)
            lost = [block for block in held if block not in now]
        self._tell(host, [block for block in gained if block not in held], lost)

    def forget(self, host: str) -> None:
        """Know nothing of a host until it says all again."""
        self._last.pop(host, None)
        self._heard.pop(host, None)
        self._tell(host, [], list(self._held.get(host, ())))
        self._held.pop(host, None)

    def expire(self) -> None:
        """Forget the hosts that were silent for too long."""
        now = time.monotonic()
        for host in [one for one, at in self._heard.items() if now - at > self._patience]:
            self.forget(host)

    def _tell(self, host: str, gained: list[str], lost: list[str]) -> None:
        held = self._held.get(host, {})
        for block in lost:
            held.pop(block, None)
        held.update(dict.fromkeys(gained))
        for listener in self._listeners:
            listener.lost(host, lost)
            listener.gained(host, gained)
