# SPDX-License-Identifier: MIT
"""What each command of the shell does; how they are called is in ``grammar``."""

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from pyduet import DuetError, FileId, Item, Mask, Task, TaskHandle, TaskInfo
from pyduet._text.jsonable import to_jsonable
from pyduet._text.names import printable, user_name
from pyduet._text.numbers import plural
from pyduet.cli.shell import show
from pyduet.cli.shell.lines import UsageError
from pyduet.cli.shell.session import Session
from pyduet.cli.shell.show import Answer, Row
from pyduet.cli.text import print_grid

_Thing = TypeVar("_Thing")

#: Items that one read has room for: 32 MiB of them.
MOST_ITEMS = 1 << 20
#: Files whose paths are asked for together.
_SOME = 1024


def status(session: Session, _: argparse.Namespace) -> Answer:
    """Tell whether Duet is on, and how many tasks there are."""
    info = session.device.info()
    row: Row = {"on": info.on, "tasks": info.tasks, "max_tasks": info.max_tasks}
    return Answer.lines(
        row, [f"on, {info.tasks} of {plural(info.max_tasks, 'task')}" if info.on else "off"]
    )


def start(session: Session, options: argparse.Namespace) -> Answer:
    """Switch Duet on."""
    session.device.start(options.max_tasks)
    max_tasks = session.device.info().max_tasks
    return Answer({"on": True, "max_tasks": max_tasks}, note=f"on, for {plural(max_tasks, 'task')}")


def stop(session: Session, _: argparse.Namespace) -> Answer:
    """Switch Duet off, which ends all tasks, those of the shell as well."""
    session.device.stop()
    session.drop_all()
    return Answer({"on": False}, note="off")


def list_tasks(session: Session, _: argparse.Namespace) -> Answer:
    """List the tasks."""
    tasks = [(task, session.is_own(task)) for task in session.device.tasks()]
    heads = ("id", "owner", "mask", "flags", "pending", "done", "told", "name", "path")
    cells = [_cells(task, own) for task, own in tasks]
    data = [{**to_jsonable(task), "own": own} for task, own in tasks]
    return Answer(data, lambda: print_grid(heads, cells, "><<<>>><<"))


def _cells(task: TaskInfo, own: bool) -> list[str]:
    flags = [name for name in ("ranges", "no_scan", "snapshot", "gone") if getattr(task, name)]
    return [
        str(task.id),
        f"{printable(user_name(task.uid))}:{task.pid}",
        ",".join(task.mask.names),
        ",".join(["own"] * own + flags) or "-",
        str(task.pending),
        str(task.done),
        str(task.delivered),
        printable(task.name),
        printable(task.path),
    ]


def register(session: Session, options: argparse.Namespace) -> Answer:
    """Register a task, which the shell holds."""
    task = session.device.register(
        options.path,
        options.mask,
        name=options.name,
        ranges=options.ranges,
        no_scan=options.no_scan,
        snapshot=options.snapshot,
    )
    session.keep(task)
    row: Row = {"id": task.id, "name": task.name, "mask": options.mask.names, "path": task.path}
    return Answer.lines(row, [str(task.id)])


def deregister(session: Session, options: argparse.Namespace) -> Answer:
    """End a task, whoever registered it."""
    info = session.known(options.id)
    if session.is_own(info):
        session.drop(options.id)
    else:
        session.device.end(options.id, pid=info.pid)
    return Answer({"id": options.id}, note=f"task {options.id} has ended")


def read(session: Session, options: argparse.Namespace) -> Answer:
    """Read a task of the shell."""
    remedy = f"only who holds its descriptor can read it; see what is pending: items {options.id}"
    task = session.own(options.id, remedy)
    items = task.read(min(options.max, MOST_ITEMS))
    return _items(task, items, "" if items else "nothing is pending")


def pending(session: Session, options: argparse.Namespace) -> Answer:
    """Tell what is pending of any task, and leave it pending."""
    task = _task(session, options)
    return _items(task, task.pending())


def _items(task: Task | TaskHandle, items: Iterable[Item], note: str = "") -> Answer:
    found = _with_paths(task, items, lambda item: item.file)
    return Answer.of(found, lambda it: show.item_row(*it), lambda it: show.item_line(*it), note)


def bitmap(session: Session, options: argparse.Namespace) -> Answer:
    """Tell which files are marked done."""
    task = _task(session, options)
    found = _with_paths(task, task.marked(), lambda file: file)
    return Answer.of(found, lambda it: show.file_row(*it), lambda it: show.file_line(*it))


def _with_paths(
    task: Task | TaskHandle, things: Iterable[_Thing], file_of: Callable[[_Thing], FileId]
) -> Iterator[tuple[_Thing, str | None]]:
    """Yield things of files with the files' paths, asked for with few calls."""
    rest = iter(things)
    while some := list(itertools.islice(rest, _SOME)):
        try:
            paths = task.paths_of(dict.fromkeys(map(file_of, some)))
        except DuetError:
            paths = {}  # the task ended meanwhile; what was read before is told all the same
        yield from ((thing, paths.get(file_of(thing))) for thing in some)


def set_marks(session: Session, options: argparse.Namespace) -> Answer:
    """Mark files done."""
    files = session.files(options.id, options.files)
    session.device.task(options.id).mark_many(files)
    return _marked(files, marked=True)


def reset_marks(session: Session, options: argparse.Namespace) -> Answer:
    """Take done marks away."""
    files = session.files(options.id, options.files)
    session.device.task(options.id).unmark_many(files)
    return _marked(files, marked=False)


def _marked(files: list[FileId], *, marked: bool) -> Answer:
    rows: list[Row] = [{**_numbers(file), "marked": marked} for file in files]
    what = files[0] if len(files) == 1 else plural(len(files), "file")
    return Answer(rows, note=f"{what}: {'marked done' if marked else 'not marked any more'}")


def check(session: Session, options: argparse.Namespace) -> Answer:
    """Tell whether files are done."""
    files = session.files(options.id, options.files)
    task = session.device.task(options.id)
    done = task.are_done(files)
    marked = set(task.marked()) if any(done) else set()
    checked = [(file, is_done, file in marked) for file, is_done in zip(files, done, strict=True)]
    return Answer.of(
        checked,
        lambda it: {**_numbers(it[0]), "done": it[1], "marked": it[2]},
        lambda it: f"{it[0].ino}:{it[0].generation}  {_verdict(*it[1:])}",
    )


def _verdict(done: bool, marked: bool) -> str:
    if marked:
        return "done"
    return "not marked, but of no interest to the task" if done else "not done"


def getpath(session: Session, options: argparse.Namespace) -> Answer:
    """Tell the path of a file."""
    files = session.files(options.id, options.file)
    if len(files) != 1:
        raise UsageError("getpath: one file at a time; see: help getpath")
    path = session.device.task(options.id).path_of(files[0])
    row: Row = {**_numbers(files[0]), "path": path}
    return Answer.lines(row, [printable(path)])


def _numbers(file: FileId) -> Row:
    return {"ino": file.ino, "generation": file.generation}


def table(session: Session, options: argparse.Namespace) -> Answer:
    """Tell the shape of the table of nodes, or what is in some of it."""
    if options.first is not None:
        nodes = session.device.nodes(options.first, options.end)
        return Answer.of(nodes, to_jsonable, show.node_line)
    table = session.device.table()
    load = table.nodes / max(1, table.buckets)
    shape = {"buckets": table.buckets, "nodes": table.nodes, "longest": table.longest, "load": load}
    last = len(table.chains) - 1
    chains = [
        f"buckets with {nodes} nodes{' or more' * (nodes == last)}: {buckets}"
        for nodes, buckets in enumerate(table.chains)
        if buckets
    ]
    return Answer.lines(to_jsonable(table), [*show.pairs(shape), *chains])


def info(session: Session, _: argparse.Namespace) -> Answer:
    """Tell how Duet is set, and the counters."""
    row = to_jsonable(session.device.info())
    return Answer.lines(row, show.pairs(row))


def hooks(session: Session, _: argparse.Namespace) -> Answer:
    """Tell of each hook whether it works."""
    hooks = session.device.hooks()
    return Answer.lines(hooks, show.pairs(hooks))


def rescan(session: Session, options: argparse.Namespace) -> Answer:
    """Have a task told anew what is cached."""
    _task(session, options).rescan()
    return Answer({"id": options.id}, note=f"what is cached is news to task {options.id} again")


def _task(session: Session, options: argparse.Namespace) -> TaskHandle:
    return session.device.task(session.known(options.id).id)


_MEANING = {
    Mask.ADDED: "a page came into the page cache since the last read",
    Mask.REMOVED: "a page went out of it",
    Mask.DIRTY: "a page became dirty",
    Mask.FLUSHED: "write-back of a dirty page began",
    Mask.MODIFIED: "state: a page is dirty now and was not when last told, or the other way round",
    Mask.EXISTS: "state: a page is cached now and was not when last told, or the other way round",
}


def masks(_session: Session, _: argparse.Namespace) -> Answer:
    """Explain the masks."""
    rows: list[Row] = [
        {
            "name": bit.names[0],
            "value": int(bit),
            "meaning": meaning,
            "excludes": bit.excluded.names,
        }
        for bit, meaning in _MEANING.items()
    ]
    lines = [f"{bit.names[0]:8}  {bit:#06x}  {meaning}" for bit, meaning in _MEANING.items()]
    lines += [
        f"{bit.names[0]} excludes {' and '.join(bit.excluded.names)}"
        for bit in (Mask.MODIFIED, Mask.EXISTS)
    ]
    return Answer.lines(rows, lines)
