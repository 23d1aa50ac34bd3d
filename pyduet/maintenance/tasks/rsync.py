# SPDX-License-Identifier: MIT
"""rsync, in the order of what is in memory: in batches, and once over all in the end."""

import collections
import contextlib
import os
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pyduet._text.numbers import plural
from pyduet.maintenance.files.page_cache import drop_written
from pyduet.maintenance.files.temporary import Temporary
from pyduet.maintenance.files.tree import Tree
from pyduet.maintenance.frame.inventory import Found, Inventory
from pyduet.maintenance.frame.ledger import Ledger, Record
from pyduet.maintenance.frame.problems import Problems
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.rsync import nesting, process, said
from pyduet.maintenance.rsync.options import OptionError, parse
from pyduet.maintenance.rsync.shell import Shell, target_of
from pyduet.maintenance.work import Problem, TargetError, Trouble, Work

#: Exit codes after which the other files may well be in order: some could not be transferred,
#: vanished, or were not deleted.
_PARTIAL = (23, 24, 25)
#: Files of a batch, where each is a run in a connection that is there; and where each is a
#: connection of its own, with a login.
_FILES, _MANY_FILES = 1000, 100_000
#: So many batches in a row fail before the last run has to do alone.
_FAILURES = 3
#: Lines of what a run said that are kept, to be told if it fails.
_TAIL = 20
#: Bytes of a path that rsync takes: MAXPATHLEN, with what it puts before and after.
_LONGEST = 4000
#: Options with which rsync copies nothing.
_COPY_NOTHING = {"dry-run", "list-only", "only-write-batch"}
#: The version from which on rsync does not follow links that were put in the place of directories
#: by others (CVE-2024-12747, CVE-2026-53797, CVE-2026-53801, CVE-2026-53802).
_SAFE = (3, 5, 0)


class Rsync(Maintenance):
    """Drives the real rsync.

    rsync sorts its list and waits for the end of it, so it is given files in
    batches, those that are in memory first. Which files these may be it says
    itself, in a dry run over everything: so all of its options count. What is
    not of one file, directories, links, deletions, is left to a plain run over
    everything in the end, which finds the files' data in place, and whose word
    is what counts.

    With options that would make of several runs something else than of one,
    that last run is all there is.
    """

    kind = "rsync"

    def __init__(
        self,
        target: str,
        options: Sequence[str] = (),
        *,
        source: str | None = None,
        stdout: Callable[[bytes], object] = lambda _: None,
        stderr: Callable[[bytes], object] = lambda _: None,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        """Prepare.

        Args:
            target: as rsync has it: a directory, HOST:DIR, or rsync://HOST/MODULE.
            options: rsync's own; ``-a`` is always given.
            source: the directory as it was written, which counts with ``--relative``.
            stdout: told what rsync prints, as it comes; an error of it ends the run.
            stderr: told each line of rsync's errors, and of what went wrong with a batch.
            tell: told what is to be known of the runs, when all is well.

        Raises:
            OptionError: rsync is not to be run with an option.
            ValueError: the target is none.

        """
        self._given = parse(options)
        self._target = target_of(target)
        self._written = source
        self._stdout = stdout
        self._stderr = stderr
        self._inform = tell
        self._mark = f"{secrets.token_hex(8)} "
        self._held = contextlib.ExitStack()
        self._data = self._held.enter_context(contextlib.closing(Temporary()))
        self._data.execute("create table sent (name blob primary key, work blob) without rowid")
        self._runs = self._in_batches = self._failures = 0
        self._code = 0
        self.problems: Problems = self._held.enter_context(contextlib.closing(Problems()))
        given = self._given
        self.prints = bool(given.once or given.names is not None or given.totals)

    def survey(self, tree: Tree, ledger: Ledger, found: Inventory) -> None:
        """Ask rsync what it would send."""
        del ledger
        if shutil.which("rsync") is None:
            raise TargetError(0, "rsync is not installed", "rsync")
        self._tree = tree
        self._roots = tree.path, os.path.realpath(tree.path)
        self._refuse_nesting()
        self._without = [f"--exclude={name}" for name in self._ledger_names()]
        self._once = self._given.once or self._danger(found)
        self._shell = self._held.enter_context(
            contextlib.closing(Shell(self._target, self._given.rsh))
        )
        # A run in a connection that is there costs little, and the files are soon done.
        self.batch = _MANY_FILES if self._shell.connects else _FILES
        self.batch_bytes = 0 if self._shell.connects else type(self).batch_bytes
        if self._once:
            self._inform(f"rsync is run once, in its own order, because of {self._once}")
            if not self.dry_run or self._given.has & _COPY_NOTHING:
                return
        self._list()
        for first, further in found.links():
            self._data.execute(
                "update sent set work = ? where name = ?",
                (os.fsencode(first), os.fsencode(further.path)),
            )
        self._data.execute("create index by_work on sent (work)")

    def worth(self, found: Found, before: Record | None) -> bool:
        """Return whether rsync would send a file, and no batch has had it."""
        del before
        return any(self._names(found.path))

    def process_many(self, works: Sequence[Work]) -> Mapping[str, Any]:
        """Transfer a batch of files; what becomes of them is told by the last run."""
        names: list[bytes] = []
        for work in works:
            names += self._names(work.path)
            self._data.execute("delete from sent where work = ?", (os.fsencode(work.path),))
        if names and self._failures < _FAILURES:
            self._batch(names)
        return {}

    def finish(self, found: Inventory) -> None:
        """Settle the rest."""
        del found
        given = self._given
        if self._once:
            code, reason = self._run(
                given.words, self._source, self._target.name,
                stdin=None, stdout=self._show, in_lines=False, stderr=self._judge,
            )  # fmt: skip
        else:
            code, reason = self._run_beneath(
                given.last, self._target.name,
                stdout=self._show, in_lines=False, stderr=self._judge,
            )  # fmt: skip
        self._code = code
        if given.totals and self._in_batches:
            self._inform(
                f"rsync's totals are of its last run: {plural(self._in_batches, 'file')} were sent "
                "before, in batches"
            )
        if code and code not in _PARTIAL:
            raise self._ended(code, reason)
        if not code:
            # It has said something, but nothing that it counts as a failure.
            self.problems.clear()
        elif not self.problems:
            self.problems.name(Problem(".", Trouble.FAILED, _words(code, reason)))

    def close(self) -> None:
        """End the connection, and forget the names."""
        self._held.close()

    def report(self) -> Mapping[str, int]:
        """Return how often rsync was run, what batches sent, and how the last run ended."""
        counts = {"rsync_runs": self._runs, "files_in_batches": self._in_batches}
        return {**counts, "rsync_exit_code": self._code} if self._code else counts

    def _names(self, path: str) -> list[bytes]:
        """Return the names to be sent of a file, of which the frame knows the first."""
        rows = self._data.execute("select name from sent where work = ?", (os.fsencode(path),))
        return [name for (name,) in rows]

    def _list(self) -> None:
        """Take the names of what rsync would send, now that nothing is changed yet.

        Where it is run once it says them, too, for a dry run: as it is then given PATH.
        """
        options = [*self._given.list_only, "--no-motd", "--dry-run"]
        options.append(f"--out-format={self._mark}%i%n")
        tail: collections.deque[bytes] = collections.deque(maxlen=_TAIL)
        mark = self._mark.encode()

        def take(lines: Iterator[bytes]) -> None:
            names = map(self._below, said.sent(lines, mark))
            self._data.executemany(
                "insert or ignore into sent values (?, ?)",
                ((name, name) for name in names if self.dry_run or _fits(name)),
            )

        if self._given.once:
            code, reason = self._run(
                options, self._source, self._target.name,
                stdin=None, stdout=take, stderr=tail.append,
            )  # fmt: skip
        else:
            code, reason = self._run_beneath(
                options, self._target.name, stdout=take, stderr=tail.append
            )
        # What is wrong with a file the last run says as well.
        if code and code not in _PARTIAL:
            self._pass_on(tail)
            raise self._ended(code, reason)

    def _batch(self, names: Sequence[bytes]) -> None:
        tail: collections.deque[bytes] = collections.deque(maxlen=_TAIL)
        mark = self._mark.encode()

        def show(lines: Iterator[bytes]) -> None:
            for line in lines:
                if (part := said.shown(line, mark)) is None:
                    continue
                words, is_sent = part
                self._in_batches += is_sent
                if self._given.names is not None:
                    self._stdout(words)

        with tempfile.TemporaryFile() as file:
            # With ./ the directory itself is sent, and no name looks like a comment.
            file.writelines(b"./" + name + b"\n" for name in names)
            file.seek(0)
            code, reason = self._run_beneath(
                [
                    *self._given.batch, "--relative", "--files-from=-", "--ignore-missing-args",
                    "--no-motd", f"--out-format={self._mark}%i{self._given.names or ''}",
                ],
                self._target.directory, stdin=file, stdout=show, stderr=tail.append,
            )  # fmt: skip
        if self._target.host is None:
            self._drop(names)
        if not code or code in _PARTIAL:
            self._failures = 0
            return
        self._pass_on(tail)
        self._failures += 1
        self._warn(
            f"{_words(code, reason)}: {plural(len(names), 'file')} of a batch left to the last run"
            + (", and so are all others" if self._failures == _FAILURES else "")
        )

    @property
    def _source(self) -> str:
        """The directory, as rsync is given it that is run once."""
        written = self._written if "relative" in self._given.has else None
        return f"{(written or self._tree.path).rstrip('/')}/"

    def _below(self, name: bytes) -> bytes:
        """Return a name that rsync says as the path below the directory."""
        if "relative" not in self._given.has or "files-from" in self._given.has:
            return name
        # Of PATH that is what comes after a /./ in it.
        above = os.path.normpath(self._source.partition("/./")[2] or self._source)
        return name.lstrip(b"/").removeprefix(os.fsencode(above.lstrip("/")) + b"/")

    def _run_beneath(
        self, options: Sequence[str], target: str, **streams: Any
    ) -> tuple[int, str | None]:
        """Run rsync with the directory that is held as its source, whatever became of its name."""
        return self._run(
            [*options, *self._shell.options], "./", target,
            cwd=f"/proc/self/fd/{self._tree.fd}", **streams,
        )  # fmt: skip

    def _run(
        self,
        options: Sequence[str],
        source: str,
        target: str,
        *,
        stderr: Callable[[bytes], object],
        **how: Any,
    ) -> tuple[int, str | None]:
        """Run rsync; returns its exit code, and in its words why it was that."""
        self._runs += 1
        reason: str | None = None

        def hear(line: bytes) -> None:
            nonlocal reason
            reason = said.reason_of(line.rstrip(b"\n")) or reason
            stderr(line)

        command = ["rsync", "-a", *self._without, *options, "--", source, target]
        return process.run(command, stderr=hear, **how), reason

    def _show(self, printed: Iterator[bytes]) -> None:
        for part in printed:
            self._stdout(part)

    def _judge(self, line: bytes) -> None:
        """Pass a line of the last run's errors on, and take what it says of a file."""
        self._stderr(line)
        problem = said.problem_of(line.rstrip(b"\n"), self._roots, self._target.shown)
        if problem is not None:
            self.problems.name(problem)

    def _ended(self, code: int, reason: str | None) -> TargetError:
        return TargetError(0, _words(code, reason), self._target.shown)

    def _refuse_nesting(self) -> None:
        """Refuse a target that would be copied into itself.

        Raises:
            OptionError: it is one.

        """
        has = self._given.has
        # With a list of files, what is copied is what it names.
        if self._target.host is not None or has & {"dry-run", "list-only", "files-from"}:
            return
        for path in nesting.within(self._tree.path, self._target.name):
            if path != "." and (
                ("one-file-system" in has and _device(self._target.name) != self._tree.device)
                or ("relative" not in has and nesting.is_left_out(path, self._given.filters))
            ):
                continue
            where = "is PATH itself" if path == "." else f"lies in PATH, as {path}"
            raise OptionError(
                f"{self._target.shown} {where}, and would be copied into itself: name another "
                "target" + ("" if path == "." else f", or leave it out: -- '--exclude=/{path}'")
            )

    def _ledger_names(self) -> Iterator[str]:
        """Yield the ledger as a pattern of rsync, where it lies in the directory.

        Before all other rules it is excluded: it is not copied while it is written, nor removed
        with ``--remove-source-files``, and what has its name at the target stays.
        """
        above = "/"
        has = self._given.has
        if "relative" in has and "files-from" not in has:
            written = f"{(self._written or self._tree.path).rstrip('/')}/"
            _, dot, rest = written.partition("/./")
            above = os.path.normpath("/" + (rest if dot else written).lstrip("/"))
        for file in self.ledger_files:
            for path in nesting.within(self._tree.path, file):
                yield nesting.pattern(os.path.join(above, path))

    def _danger(self, found: Inventory) -> str | None:
        """Return why others might have root copy what is elsewhere, by batches.

        rsync looks up a name that it is given as it is written. From 3.5.0 on it follows no link
        but root's and its user's for that, and older ones follow all. What it finds by itself
        it does not look up that way.
        """
        if os.geteuid():
            return None
        directory: Found | None = None
        version = _version()
        for one in found:
            if stat.S_ISDIR(one.status.st_mode):
                directory = one
                if _is_others(one) and version < _SAFE:
                    return (
                        f"{one.path or '.'}: rsync {'.'.join(map(str, version))} would follow "
                        "links that others put in the place of directories: from "
                        f"{'.'.join(map(str, _SAFE))} on it does not"
                    )
            elif stat.S_ISLNK(one.status.st_mode) and not one.status.st_uid:
                above = os.path.dirname(one.path)
                theirs = directory is None or directory.path != above or _is_others(directory)
                if theirs and self._leads_away(one):
                    return (
                        f"{one.path}: others may put this link of root's in the place of a "
                        "directory, and rsync would follow it"
                    )
        return None

    def _leads_away(self, link: Found) -> bool:
        """Return whether a link leads out of the tree, or may when it is moved."""
        try:
            with self._tree.held(link.path, link.status) as fd:
                target = os.readlink("", dir_fd=fd)
        except OSError:
            return False
        return target.startswith("/") or ".." in target.split("/")

    def _drop(self, names: Sequence[bytes]) -> None:
        """Send the files that were written to the disk, and out of memory."""
        with contextlib.suppress(OSError), Tree(self._target.name) as target:
            for name in names:
                with contextlib.suppress(OSError), target.opened(os.fsdecode(name)) as fd:
                    drop_written(fd)

    def _pass_on(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self._stderr(line)

    def _warn(self, words: str) -> None:
        self._stderr(f"duet: {words}\n".encode(errors="surrogateescape"))


def _fits(name: bytes) -> bool:
    """Return whether a name can be in a list: it has one on each line, and no more than fits."""
    return len(name) <= _LONGEST and not re.search(rb"[\r\n]", name)


def _words(code: int, reason: str | None) -> str:
    return f"rsync ended with {code}: {reason or 'it gave no reason'}"


def _device(path: str) -> int:
    """Return the device of the file system that a path is on, or will be."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return os.stat(path).st_dev


def _is_others(directory: Found) -> bool:
    """Return whether others than root may rename what is in a directory."""
    return bool(directory.status.st_uid or directory.status.st_mode & 0o022)


def _version() -> tuple[int, ...]:
    """Return the version of rsync that is installed; (0,) where it does not tell."""
    done = subprocess.run(["rsync", "--version"], capture_output=True, check=False)
    found = re.match(rb"rsync +version v?(\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else (0,)
