# SPDX-License-Identifier: MIT
"""A file system of FUSE as a user's program makes one: odd, slow, broken or gone."""

import contextlib
import errno
import os
import select
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from mounts import mount

# Of linux/fuse.h: struct fuse_in_header, fuse_out_header, fuse_attr, and the answers.
_IN, _OUT = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_ATTR_OUT, _ENTRY_OUT = struct.Struct("=QII"), struct.Struct("=QQQQII")
_INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
_OPEN_OUT, _READ_IN, _DIRENT = struct.Struct("=QII"), struct.Struct("=QQI"), struct.Struct("=QQII")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ = 1, 2, 3, 14, 15
_INIT, _OPENDIR, _READDIR, _BATCH_FORGET, _DESTROY = 26, 27, 28, 42, 38
_RELEASE, _RELEASEDIR, _FLUSH, _ACCESS = 18, 29, 25, 34
_GETXATTR, _LISTXATTR, _IOCTL = 22, 23, 39
# fuse_getxattr_in, and what says how long the answer would be.
_XATTR_IN, _XATTR_OUT = struct.Struct("=II"), struct.Struct("=II")
_DIRECT_IO = 1
_BORN = 1_000_000_000


class Fuse:
    """A flat file system that this process serves; a context manager that makes away with it.

    Attributes:
        silent: whether it answers nothing any more.

    """

    def __init__(
        self,
        place: Path,
        files: Mapping[str, bytes | int | None],
        *,
        user: int = 0,
        ghosts: tuple[str, ...] = (),
        direct: bool = False,
        attributes: Mapping[str, bytes | int] | None = None,
        flags: int = errno.ENOSYS,
    ) -> None:
        """Mount it.

        Args:
            place: a directory.
            files: their content, or the error of who reads them; None for an empty directory.
            user: who alone may use it.
            ghosts: names that are listed, and cannot be found.
            direct: whether nothing of it is cached, nor can be mapped.
            attributes: of each file: their values, or the error of who reads them.
            flags: the error of who asks for a file's flags.

        """
        self.silent = False
        self._files = dict(files)
        self._attributes = attributes
        self._flags_error = flags
        self._ghosts = ghosts
        self._names = [*files, *ghosts]
        self._flags = _DIRECT_IO if direct else 0
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id={user},group_id={user}"
        mount("of a test", place, "fuse.test", data=options)
        self._end = os.eventfd(0)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Be gone."""
        self.die()

    def die(self) -> None:
        """End as a program does that crashes: what it mounted stays."""
        if self._thread.is_alive():
            os.eventfd_write(self._end, 1)
            self._thread.join()
            os.close(self._fd)
            os.close(self._end)

    def leave(self) -> None:
        """In a process that was forked: have no part in it any more."""
        os.close(self._fd)

    def _serve(self) -> None:
        while self._end not in select.select([self._fd, self._end], [], [])[0]:
            try:
                request = os.read(self._fd, 1 << 20)
            except FileNotFoundError:
                continue  # the request was taken back
            except OSError:
                return  # it was unmounted
            _, what, unique, node, *_ = _IN.unpack_from(request)
            if self.silent or what in (_FORGET, _BATCH_FORGET):
                continue
            answer = self._answer(what, node, request[_IN.size :])
            error, data = (-answer, b"") if isinstance(answer, int) else (0, answer)
            with_header = _OUT.pack(_OUT.size + len(data), error, unique) + data
            with contextlib.suppress(OSError):  # who asked has been killed
                os.write(self._fd, with_header)

    def _answer(self, what: int, node: int, request: bytes) -> bytes | int:
        if what == _INIT:
            return _INIT_OUT.pack(7, 31, 1 << 17, 0, 12, 9, 1 << 17, 1, 0, 0, 0)
        if what == _GETATTR:
            return _ATTR_OUT.pack(0, 0, 0) + self._attr(node)
        if what == _LOOKUP:
            name = os.fsdecode(request.partition(b"\0")[0])
            if name not in self._files:
                return errno.ENOENT
            number = self._names.index(name) + 2
            return _ENTRY_OUT.pack(number, 0, 0, 0, 0, 0) + self._attr(number)
        if what in (_OPEN, _OPENDIR):
            return _OPEN_OUT.pack(0, self._flags if what == _OPEN else 0, 0)
        if what == _READ:
            content = self._files[self._names[node - 2]]
            _, offset, size = _READ_IN.unpack_from(request)
            return content[offset : offset + size] if isinstance(content, bytes) else content or 0
        if what == _READDIR:
            return self._listed(_READ_IN.unpack_from(request)[1]) if node == 1 else b""
        if what == _IOCTL:
            return self._flags_error
        if what in (_LISTXATTR, _GETXATTR) and self._attributes is not None:
            return self._attribute(what, {} if node == 1 else self._attributes, request)
        if what in (_RELEASE, _RELEASEDIR, _FLUSH, _ACCESS, _DESTROY):
            return b""
        return errno.ENOSYS

    def _attribute(
        self, what: int, attributes: Mapping[str, bytes | int], request: bytes
    ) -> bytes | int:
        size, _ = _XATTR_IN.unpack_from(request)
        if what == _LISTXATTR:
            value: bytes | int = b"".join(os.fsencode(name) + b"\0" for name in attributes)
        else:
            name = os.fsdecode(request[_XATTR_IN.size :].rstrip(b"\0"))
            value = attributes.get(name, errno.ENODATA)
        if isinstance(value, int) or size >= len(value):
            return value
        return errno.ERANGE if size else _XATTR_OUT.pack(len(value), 0)

    def _listed(self, offset: int) -> bytes:
        listed = b""
        for number, name in enumerate(self._names):
            if number >= offset:
                raw = os.fsencode(name)
                listed += _DIRENT.pack(number + 2, number + 1, len(raw), 8) + raw
                listed += bytes(-len(listed) % 8)
        return listed

    def _attr(self, node: int) -> bytes:
        content = None if node == 1 else self._files[self._names[node - 2]]
        size = len(content) if isinstance(content, bytes) else 4096
        mode = 0o40755 if content is None else 0o100644
        times = _BORN, _BORN, _BORN, 0, 0, 0
        return _ATTR.pack(node, size, -(-size // 512), *times, mode, 1, 0, 0, 0, 4096, 0)
