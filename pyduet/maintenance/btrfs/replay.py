# SPDX-License-Identifier: MIT
"""What a send stream without data does, without doing it: where each file is in the end.

A stream names a file by the path that it has at that point. Commands that are put
off until the end need the path of the end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pyduet.maintenance.btrfs.sendstream import Attr, Cmd, Command, StreamError

_CAPABILITY = b"security.capability"
_CREATE = (Cmd.MKFILE, Cmd.MKDIR, Cmd.MKNOD, Cmd.MKFIFO, Cmd.MKSOCK, Cmd.SYMLINK)
#: What stays as it is and where it is.
_PLAIN = (Cmd.SET_XATTR, Cmd.REMOVE_XATTR, Cmd.TRUNCATE, Cmd.CHMOD, Cmd.CHOWN)


@dataclass(slots=True, eq=False)
class _Item:
    """A file, a directory or the like, whatever its names."""

    names: "list[_Name]" = field(default_factory=list)
    #: Bytes of it that the stream wants, in its order.
    wanted: list[range] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Name:
    """A name in a directory; that of the subvolume itself has no parent."""

    name: bytes
    parent: "_Name | None"
    item: _Item
    children: "dict[bytes, _Name]" = field(default_factory=dict)


class Replay:
    """Takes a stream of ``btrfs send --no-data``, command by command.

    What an incremental stream does not make was there before: such names come
    into being when they are named first.

    Thread-safety: none.
    """

    def __init__(self, keep: Callable[[bytes], object]) -> None:
        """Begin.

        Args:
            keep: is given the encoded commands that stay where they are in the
                stream; the others are put off, see :meth:`late`.

        """
        self._keep = keep
        self._root = _Name(b"", None, _Item())
        self._root.item.names.append(self._root)
        self._self: tuple[bytes, int] | None = None
        self._data: dict[_Item, None] = {}
        self._clones: list[tuple[Command, _Item, _Item | None]] = []
        self._times: dict[_Item, Command] = {}
        self._capabilities: dict[_Item, Command] = {}
        self._end: bytes | None = None

    def take(self, command: Command, encoded: bytes) -> None:
        """Take a command.

        Raises:
            StreamError: it does not fit to those before, or is not known.

        """
        if not self._put_off(command):
            self._move(command)
            self._keep(encoded)

    def data(self) -> Iterator[tuple[bytes, list[range]]]:
        """Yield the files of which the stream wants data: final path, and the bytes of it."""
        for item in self._data:
            yield self._path(item), item.wanted

    def late(self) -> Iterator[bytes]:
        """Yield, encoded and with final paths, what comes after all data: the end of the stream.

        First the clones, whose sources are complete then; each in the stream's
        order, since one may be the source of another. Then the capabilities,
        which a write takes away, and the times.
        """
        for command, item, source in self._clones:
            paths = {int(Attr.PATH): self._path(item)}
            if source is not None:
                paths[Attr.CLONE_PATH] = self._path(source)
            yield command.but(paths).encoded()
        for commands in (self._capabilities, self._times):
            for item, command in commands.items():
                if item.names:
                    yield command.but({Attr.PATH: self._path(item)}).encoded()
        if self._end is None:
            raise StreamError("it has no end")
        yield self._end

    def _put_off(self, command: Command) -> bool:
        """Keep what has to wait for data; returns whether it was."""
        match command.number:
            case Cmd.UPDATE_EXTENT:
                item = self._item(command[Attr.PATH])
                offset = command.integer(Attr.FILE_OFFSET)
                item.wanted.append(range(offset, offset + command.integer(Attr.SIZE)))
                self._data[item] = None
            case Cmd.CLONE:
                source = (command[Attr.CLONE_UUID], command.integer(Attr.CLONE_CTRANSID))
                # A clone of another subvolume has a path there, which stays.
                mine = source == self._self
                self._clones.append(
                    (
                        command,
                        self._item(command[Attr.PATH]),
                        self._item(command[Attr.CLONE_PATH]) if mine else None,
                    )
                )
            case Cmd.UTIMES:
                self._times[self._item(command[Attr.PATH])] = command
            case Cmd.SET_XATTR if command[Attr.XATTR_NAME] == _CAPABILITY:
                self._capabilities[self._item(command[Attr.PATH])] = command
            case Cmd.END:
                self._end = command.encoded()
            case _:
                return False
        return True

    def _move(self, command: Command) -> None:
        """Make, move and remove names as a command does."""
        match command.number:
            case Cmd.SUBVOL | Cmd.SNAPSHOT:
                self._self = command[Attr.UUID], command.integer(Attr.CTRANSID)
            case number if number in _CREATE:
                self._attach(command[Attr.PATH], _Item())
            case Cmd.LINK:
                self._attach(command[Attr.PATH], self._item(command[Attr.PATH_LINK]))
            case Cmd.RENAME:
                name = self._name(command[Attr.PATH])
                self._detach(name)
                moved = self._attach(command[Attr.PATH_TO], name.item)
                moved.children = name.children
                for child in moved.children.values():
                    child.parent = moved
            case Cmd.UNLINK | Cmd.RMDIR:
                self._detach(self._name(command[Attr.PATH]))
            case Cmd.REMOVE_XATTR if command[Attr.XATTR_NAME] == _CAPABILITY:
                self._capabilities.pop(self._item(command[Attr.PATH]), None)
            case number if number not in _PLAIN:
                raise StreamError(f"it has a command {command.number}, which is not expected")

    def _item(self, path: bytes) -> _Item:
        return self._name(path).item

    def _name(self, path: bytes) -> _Name:
        """Return the name at a path as it is by now."""
        name = self._root
        for part in filter(None, path.split(b"/")):
            name = name.children.get(part) or self._add(name, part, _Item())
        return name

    def _attach(self, path: bytes, item: _Item) -> _Name:
        directory, _, name = path.rpartition(b"/")
        parent = self._name(directory)
        if name in parent.children:
            self._detach(parent.children[name])
        return self._add(parent, name, item)

    def _add(self, parent: _Name, name: bytes, item: _Item) -> _Name:
        made = _Name(name, parent, item)
        parent.children[name] = made
        item.names.append(made)
        return made

    def _detach(self, name: _Name) -> None:
        if name.parent is None:
            raise StreamError("it moves the subvolume itself")
        del name.parent.children[name.name]
        name.item.names.remove(name)

    def _path(self, item: _Item) -> bytes:
        """Return a path of the end."""
        if not item.names:
            raise StreamError("it wants data of a file that has no name in the end")
        parts = []
        name: _Name | None = item.names[0]
        while name is not None and name.parent is not None:
            parts.append(name.name)
            name = name.parent
        return b"/".join(reversed(parts))
