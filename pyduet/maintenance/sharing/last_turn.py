# SPDX-License-Identifier: MIT
"""Whose turn a file is: a task that changes how files lie comes after those that only read."""

import time
from collections import deque

from pyduet.maintenance.frame.order import Order
from pyduet.maintenance.sharing.neighbours import Neighbours
from pyduet.maintenance.work import Work

#: Files asked about at a time.
_COUNT = 256


class LastTurn:
    """Work is put off while a neighbour wants it.

    What defragmentation has moved lies elsewhere: a scrub would have to read
    it anew, and to a backup of a snapshot it is another file. What others have
    read stays in memory meanwhile, since they hold it for the task.

    Thread-safety: none.
    """

    def __init__(self, neighbours: Neighbours, patience: float) -> None:
        """Begin with nothing put off.

        Args:
            neighbours: to ask.
            patience: seconds to wait while none of them gets done with anything.

        """
        self._neighbours = neighbours
        self._patience = patience
        self._waiting: deque[Work] = deque()
        self._ready: deque[Work] = deque()
        self._moved = time.monotonic()

    def __bool__(self) -> bool:
        """Whether anything is put off."""
        return bool(self._waiting or self._ready)

    def next(self, order: Order) -> Work | None:
        """Take out of an order what nobody else wants, what is cached first; None: not now."""
        while (best := order.best()) and best[1]:
            order.remove(best[0])
            self._waiting.append(best[0])
        is_late = time.monotonic() - self._moved >= self._patience
        if is_late:
            self._neighbours.forget_idle(self._patience)
        if not self._ready:
            self._ask()
        if self._ready:
            return self._taken(self._ready.popleft())
        ahead = order.ahead(_COUNT)
        wanted = self._neighbours.wanted(ahead)
        if is_late and self._waiting:
            return self._taken(self._waiting.popleft())
        for work, is_wanted in zip(ahead, wanted, strict=True):
            if not is_wanted or is_late:
                order.remove(work)
                return self._taken(work)
        return None

    def _ask(self) -> None:
        waiting: deque[Work] = deque()
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(_COUNT, len(self._waiting)))]
            for work, is_wanted in zip(some, self._neighbours.wanted(some), strict=True):
                (waiting if is_wanted else self._ready).append(work)
        self._waiting = waiting

    def _taken(self, work: Work) -> Work:
        self._moved = time.monotonic()
        return work
