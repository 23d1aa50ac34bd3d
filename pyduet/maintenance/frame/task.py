# SPDX-License-Identifier: MIT
"""What a maintenance task is: what it does with a file. The frame does the rest."""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pyduet.device import Device
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.inventory import Found, Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.problems import Problems
from pyduet.maintenance.work import LeftOut, Problem, Work, stamp_of


class Maintenance:
    """A maintenance task. Those of one's own need :meth:`process` and a ``kind``.

    The frame calls, in this order: :meth:`survey`; :meth:`begin`; :meth:`process` for every
    regular file, in whatever order is best; :meth:`finish`. A file that changed
    after it was processed is processed again; one that vanished is told to
    :meth:`vanished`.
    """

    #: What it is called, as in ``duet run KIND``: lower-case letters.
    kind: ClassVar[str]
    #: Whether a file that an earlier pass processed, and that has not changed
    #: since, is to be processed in this one.
    always: ClassVar[bool] = True

    #: Whether a file is to be processed again when only its name is another.
    by_name: ClassVar[bool] = False
    #: Whether others that want a file are to have it first, because it lies elsewhere afterwards.
    after_others: ClassVar[bool] = False
    #: How many files are processed at a time: one by :meth:`process`, more by
    #: :meth:`process_many`.
    batch: int = 1
    #: Bytes, from which on no more files are added to those; 0 for as many as memory allows.
    batch_bytes: int = 32 << 20
    #: What is wrong, of a task that looks at the tree by itself and leaves nothing out: it is told
    #: in place of what the frame has seen. None of others.
    problems: Problems | None = None
    #: Whether the task prints by itself, so that no bar of progress fits between.
    prints: bool = False
    #: Paths of files that the task itself writes: no work, wherever they are, and whatever other
    #: names they have.
    outputs: Sequence[str] = ()

    #: Paths of the files that the ledger is kept in, whether they are there or not. The frame sets
    #: it.
    ledger_files: Sequence[str] = ()
    #: Whether a list of the work is all that is wanted. The frame sets it.
    dry_run: bool = False
    #: Shows what is being done, in a word or two; for what takes long in :meth:`begin` and
    #: :meth:`finish`. The frame sets it.
    say: Callable[[str], object] = staticmethod(lambda _: None)
    #: Names something at the end, besides what :meth:`process` raises. The frame sets it.
    name: Callable[[Problem], object] = staticmethod(lambda _: None)
    #: Tells whoever runs the task something about the run, in a line. The frame sets it.
    note: Callable[[str], object] = staticmethod(lambda _: None)
    #: Tells what about the run wants somebody's attention, in a line. The frame sets it.
    warn: Callable[[str], object] = staticmethod(lambda _: None)

    def watching(self, device: Device, root: str) -> contextlib.AbstractContextManager[object]:
        """Ask Duet for more than the frame does, until the context ends; before :meth:`begin`.

        Not called when Duet is not asked.
        """
        del device, root
        return contextlib.nullcontext()

    def survey(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Find out what is worth the work; nothing is changed, since it may be all that is wanted.

        Here it is decided, too, whether the pass that an earlier run began can be gone on with:
        if not, by :meth:`Ledger.begin_anew`.

        Args:
            tree: the directory, by which all files are reached.
            ledger: what was done before; of a dry run, nothing is written to it.
            found: all that is there; not to be kept, there is another one later.

        Raises:
            OSError: nothing can be done.

        """

    def begin(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Prepare; when the pass was begun by an earlier run, ``ledger.resumed`` says so.

        Args:
            tree: the directory, by which all files are reached.
            ledger: what was done before.
            found: all that is there; not to be kept, there is another one later.

        """

    def process(self, reading: Reading, before: Record | None) -> Any:
        """Process a file.

        Args:
            reading: the open file.
            before: what the ledger has of it from the last time, if anything.

        Returns:
            What the ledger is to keep of it: anything that JSON can say.

        Raises:
            UnstableError: it changed meanwhile.
            BadFileError: something is wrong with it.
            TargetError: no other file can be processed, either.
            OSError: it could not be read, or what was to be done failed.

        """
        raise NotImplementedError

    def process_many(self, works: Sequence[Work]) -> Mapping[str, Any]:
        """Process files together, in place of :meth:`process`.

        Args:
            works: which; some may have changed, or be gone.

        Returns:
            What the ledger is to keep, by path, of those of which it is to keep anything.

        Raises:
            TargetError: it failed as a whole.

        """
        raise NotImplementedError

    def secure(self) -> None:
        """Have on the disk what the ledger is about to say was done."""

    def vanished(self, before: Record) -> None:
        """Take in that a file of the ledger is there no more."""

    def finish(self, found: Inventory) -> None:
        """End the pass; all files are processed, or named.

        Args:
            found: all that is there, anew.

        Raises:
            BadFileError: not all is as it should be.

        """

    def close(self) -> None:
        """Let go of what :meth:`survey` and :meth:`begin` took; also of a run that has failed."""

    def worth(self, found: Found, before: Record | None) -> bool:
        """Return whether a file is to be processed at all; nothing is opened to find that out.

        Args:
            found: the file, as it was found.
            before: what the ledger has of it, of this pass or the last one that ended.

        """
        return self.always or before is None or not before.holds(stamp_of(found.status))

    def left_out(self) -> Iterable[LeftOut]:
        """Return what the task has left as it is, by no fault; told at the end."""
        return ()

    def report(self) -> Mapping[str, int]:
        """Return what the task itself has counted, by names, for people to read."""
        return {}
