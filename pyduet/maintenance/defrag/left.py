# SPDX-License-Identifier: MIT
"""Why a file is left as it lies, and nobody has to do anything about it."""

import enum


class Left(enum.StrEnum):
    """Why a file is left as it lies: the code that programs see."""

    #: It has no more pieces than are good.
    GOOD = "good"
    #: The file system has no place where it would lie in fewer pieces.
    NO_BETTER_PLACE = "no-better-place"
    #: Immutable, append-only, or marked as not to be defragmented.
    PROTECTED = "protected"
    #: The kernel swaps to it.
    SWAP = "swap"
    #: Its extents are small because they are compressed.
    COMPRESSED = "compressed"
    #: The file system cannot do it with such a file: encrypted, or with its data journaled.
    UNSUPPORTED = "unsupported"


class LeftError(Exception):
    """Raised where it turns out that a file has to be left as it lies."""

    def __init__(self, why: Left) -> None:
        """Say why."""
        super().__init__(why)
        self.why = why
