# SPDX-License-Identifier: MIT
"""Scrub: finds files whose content has changed though nobody wrote them."""

from collections.abc import Mapping
from typing import Any

import xxhash

from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.frame.work import BadFileError, Trouble


class Scrub(Maintenance):
    """Compares each file with the checksum that the ledger has of it, on any file system.

    A file that is as it was last time, by its size and times, has to have the
    same content; of one that changed the new checksum is kept. What was cached
    is read from memory, and says nothing about the disk then: the file is due
    again in the next pass.

    The checksum is XXH3 of 128 bits: it finds faults, not forgeries.
    """

    kind = "scrub"

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Count anew."""
        del tree, found
        counts: list[int] = ledger.note("counts", [0, 0])
        #: Files compared with an older checksum, and those that got their first, or a new one.
        self.verified, self.recorded = counts
        self._ledger = ledger

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Read a file, and compare."""
        digest = xxhash.xxh3_128()
        for piece in reading.pieces():
            digest.update(piece)
        reading.check()
        found = digest.hexdigest()
        if before is not None and before.stamp == reading.stamp:
            if before.note != found:
                raise BadFileError(
                    Trouble.CORRUPT,
                    f"its content is not that of the last pass, and nobody wrote it: xxh3 {found}, "
                    f"was {before.note}; restore it from a backup",
                )
            self.verified += 1
        else:
            self.recorded += 1
        self._ledger.remark("counts", [self.verified, self.recorded])
        return found

    def report(self) -> Mapping[str, int]:
        """Return how many files were compared, and how many got their first, or a new checksum."""
        return {"verified": self.verified, "recorded": self.recorded}
