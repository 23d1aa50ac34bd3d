# SPDX-License-Identifier: MIT
"""Items by the thousand, without a Python object for each."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyduet._driver import abi
from pyduet.events import Item, decode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Batch:
    """What one read of a task returned; frozen.

    Iterating yields :class:`Item` objects, merged where they can be, which is
    what most programs want. Who has more items than time takes :meth:`rows`,
    or with NumPy :meth:`array`; ``docs/performance.md`` has what each costs.
    ``len()`` counts the driver's items, merged none.

    Thread-safety: all of it, it never changes.
    """

    __slots__ = ("_data",)

    def __init__(self, data: bytes = b"") -> None:
        """Wrap what was read.

        Args:
            data: whole items of ``abi.ITEM.size`` bytes.

        Raises:
            ValueError: ``data`` holds a part of an item.

        """
        if len(data) % abi.ITEM.size:
            raise ValueError(f"{len(data)} bytes are no whole number of items")
        self._data = data

    def __len__(self) -> int:
        """Return how many of the driver's items there are."""
        return len(self._data) // abi.ITEM.size

    def __iter__(self) -> Iterator[Item]:
        """Yield the items, neighbours with the same news merged."""
        return decode(self._data)

    @property
    def data(self) -> memoryview:
        """The items as the driver wrote them: ``struct duet_item`` of ``duet.h``."""
        return memoryview(self._data)

    def rows(self) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Yield each item as inode number, generation, task, page index, state, number of pages.

        As the driver wrote them: the number of pages is 0 where one page is
        meant, and of an overflow. Nothing is merged.
        """
        return abi.ITEM.iter_unpack(self._data)

    def array(self) -> "NDArray[np.void]":
        """Return the items as a structured NumPy array that owns its memory.

        The fields are ``ino``, ``generation``, ``task``, ``index``, ``state``
        and ``pages``; ``pages`` is at least 1, and 0 of an overflow.

        Raises:
            ModuleNotFoundError: NumPy is not installed.

        """
        try:
            import numpy as np
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Batch.array() needs NumPy: pip install numpy", name="numpy"
            ) from error
        items = np.frombuffer(self._data, np.dtype(_FIELDS)).copy()
        pages = items["pages"]
        pages[(pages == 0) & (items["state"] != abi.ITEM_OVERFLOW)] = 1
        return items


#: ``struct duet_item`` for NumPy; a unit test holds it against ``abi.Item``.
_FIELDS: Any = {
    "names": ["ino", "generation", "task", "index", "state", "pages"],
    "formats": ["u8", "u4", "u1", "u8", "u2", "u4"],
    "offsets": [
        abi.Item.uuid.offset + abi.Uuid.ino.offset,
        abi.Item.uuid.offset + abi.Uuid.gen.offset,
        abi.Item.uuid.offset + abi.Uuid.tid.offset,
        abi.Item.idx.offset,
        abi.Item.state.offset,
        abi.Item.nr.offset,
    ],
    "itemsize": abi.ITEM.size,
}
