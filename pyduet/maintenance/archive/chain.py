# SPDX-License-Identifier: MIT
"""Which archives belong together: a full one, and the incremental ones after it.

Each has an identity, and says which one it comes after. The ledger knows them all, and each archive
says it of itself, in a comment that tar passes over.
"""

import dataclasses
import json
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from pyduet._text.names import path_of, text_of
from pyduet.maintenance.archive import pax

_KEYWORD = b"comment"
_WORD = "duet"
#: What of a link is a path.
_PATHS = ("archive", "before", "tree")


@dataclass(frozen=True, slots=True)
class Link:
    """An archive of a chain.

    Attributes:
        id: of the archive.
        parent: id of the one that it comes after; None of a full one.
        archive: its path when it was written.
        before: the path of the one that it comes after; empty of a full one.
        tree: the directory that is in it.
        begun: when, in seconds since 1970.

    """

    id: str
    parent: str | None
    archive: str
    before: str
    tree: str
    begun: float

    @classmethod
    def new(cls, archive: str, tree: str, parent: "Link | None") -> Self:
        """Return one for an archive that is about to be written."""
        return cls(
            uuid.uuid4().hex,
            parent.id if parent else None,
            archive,
            parent.archive if parent else "",
            tree,
            round(time.time(), 3),
        )

    @classmethod
    def of(cls, said: Any) -> Self:
        """Return it from what :attr:`kept` is.

        Raises:
            ValueError: it is something else.

        """
        try:
            link = cls(**{**said, **{name: path_of(said[name]) for name in _PATHS}})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("it is no archive's") from error
        if not (isinstance(link.id, str) and isinstance(link.parent, str | None)):
            raise ValueError("it is no archive's")  # noqa: TRY004 - as above
        return link

    @property
    def kept(self) -> dict[str, Any]:
        """All of it, as JSON has it, in whatever locale."""
        paths = {name: text_of(getattr(self, name)) for name in _PATHS}
        return {**dataclasses.asdict(self), **paths}

    @property
    def record(self) -> tuple[bytes, bytes]:
        """What the archive's first member says of it."""
        return _KEYWORD, f"{_WORD} {json.dumps(self.kept)}".encode()


def link_of(path: str) -> Link:
    """Return what an archive says of itself.

    Raises:
        ArchiveError: it is none of ours.
        OSError: it cannot be read.

    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return read_link(fd, path)
    finally:
        os.close(fd)


def read_link(fd: int, path: str) -> Link:
    """Return what an open archive says of itself; as :func:`link_of`."""
    strange = pax.ArchiveError(
        f"{path}: it is no archive of duet run backup; if tar wrote it, tar restores it, and if it "
        "was compressed since, it has to be expanded first"
    )
    try:
        first = next(pax.members(fd, path), None)
        said = b"" if first is None else first.known.get(_KEYWORD, b"")
        word, _, text = said.decode().partition(" ")
        if word != _WORD:
            raise strange
        return Link.of(json.loads(text))
    except pax.ArchiveError:
        raise strange from None
    except (ValueError, RecursionError) as error:
        raise strange from error


def current(chain: Sequence[Link]) -> list[Link]:
    """Return the last full archive of a chain and those after it."""
    start = max((at for at, link in enumerate(chain) if link.parent is None), default=0)
    return list(chain[start:])
