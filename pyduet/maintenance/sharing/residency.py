# SPDX-License-Identifier: MIT
"""A task's eye on the page cache: keeps an order true, as far as Duet tells."""

from collections.abc import Sequence

from pyduet._driver import abi
from pyduet.device import Device
from pyduet.errors import DuetError, OffError, TaskGoneError
from pyduet.events import FileId, Mask
from pyduet.maintenance.frame.order import Order
from pyduet.maintenance.sharing.neighbours import PREFIX, Neighbours
from pyduet.maintenance.work import Work
from pyduet.task import Task

_ADDED, _REMOVED = abi.Page.ADDED.value, abi.Page.REMOVED.value


class Watch:
    """A registered task, or the lack of one: then nothing is known to be cached.

    When Duet is switched off meanwhile, the work goes on without it.

    Thread-safety: none.
    """

    def __init__(self, device: Device, kind: str, root: str) -> None:
        """Register; who begins has to be seen by the others before it looks for its work.

        Args:
            device: stays the caller's.
            kind: of the maintenance task.
            root: its directory.

        Raises:
            OffError, TooManyTasksError, UnsupportedFilesystemError,
            PathNotFoundError, PermissionDeniedError: as of :meth:`Device.register`.

        """
        self._task: Task | None = device.register(
            root, Mask.EXISTS, name=f"{PREFIX}{kind}", ranges=True
        )
        self.neighbours = Neighbours(device, self._task)
        #: Why Duet tells nothing any more.
        self.lost: DuetError | None = None

    def close(self) -> None:
        """End the task; its neighbours no longer wait for it."""
        if self._task is not None:
            self._task.close()
            self._task = None

    def look(self, order: Order) -> None:
        """Tell an order what has changed in the page cache."""
        task = self._task
        if task is None:
            return
        try:
            while batch := task.read_batch():
                for ino, generation, _, _, state, pages in batch.rows():
                    if state == abi.ITEM_OVERFLOW:
                        # What it knows of the rest stays true; this brings what it missed.
                        task.rescan()
                    elif state & _ADDED:
                        order.told(FileId(ino, generation), pages or 1)
                    elif state & _REMOVED:
                        order.told(FileId(ino, generation), -(pages or 1))
        except (OffError, TaskGoneError) as error:
            self._lose(error)

    def done(self, works: Sequence[Work]) -> None:
        """Be told no more of files, and let the neighbours know."""
        if self._task is not None:
            try:
                self._task.mark_many(work.identity for work in works)
            except (OffError, TaskGoneError) as error:
                self._lose(error)
            except DuetError:
                pass  # no room for marks: it is told of them all the same, and others keep them

    def _lose(self, error: DuetError) -> None:
        self.lost = error
        self.close()
