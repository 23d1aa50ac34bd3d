# SPDX-License-Identifier: GPL-2.0-only
"""The numbers of ``/dev/duet``: structures, calls and flags.

This is the one module of the library where a number of the interface is
written. Everything here mirrors ``driver/uapi/duet.h`` name for name, and a
unit test compares the two with a C compiler. Programs do not need it: they
use :class:`pyduet.Device` and :class:`pyduet.Task`.
"""

import ctypes
import enum
import struct

import ioctl_opt

NAME_LEN = 255
PATH_LEN = 4096

MAX_TASKS = 255
DEFAULT_TASKS = 8

IOC_MAGIC = 0xDE


class Page(enum.IntFlag):
    """``DUET_PAGE_*`` and ``DUET_FD_NONBLOCK``: a registration mask, and an item's state."""

    ADDED = 0x0001
    REMOVED = 0x0002
    DIRTY = 0x0004
    FLUSHED = 0x0008
    MODIFIED = 0x0010
    EXISTS = 0x0020
    FD_NONBLOCK = 0x0040


class Status(enum.IntFlag):
    """``DUET_STATUS_*``: what a STATUS call asks for, one flag a call."""

    START = 0x0001
    STOP = 0x0002
    REPORT = 0x0004
    PRINT_BMAP = 0x0008
    PRINT_ITEM = 0x0010
    PRINT_LIST = 0x0020


class Bmap(enum.IntFlag):
    """``DUET_BMAP_*``: what a BMAP call does, one flag a call."""

    SET = 0x0001
    RESET = 0x0002
    CHECK = 0x0004


class Uuid(ctypes.Structure):
    """``struct duet_uuid``."""

    _fields_ = [
        ("ino", ctypes.c_uint64),
        ("gen", ctypes.c_uint32),
        ("tid", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
    ]


class Item(ctypes.Structure):
    """``struct duet_item``: a read returns whole ones."""

    _fields_ = [
        ("uuid", Uuid),
        ("idx", ctypes.c_uint64),
        ("state", ctypes.c_uint16),
        ("pad", ctypes.c_uint8 * 6),
    ]


#: The same as :class:`Item` for decoding many at once: ino, gen, tid, idx, state.
ITEM = struct.Struct("=QIB3xQH6x")


class TaskAttrs(ctypes.Structure):
    """``struct duet_task_attrs``: one task of ``Status.PRINT_LIST``."""

    _fields_ = [
        ("id", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("fd", ctypes.c_int32),
        ("name", ctypes.c_char * NAME_LEN),
        ("pad2", ctypes.c_uint8),
        ("regmask", ctypes.c_uint32),
        ("path", ctypes.c_char * PATH_LEN),
    ]


class _StatusUnion(ctypes.Union):
    _fields_ = [
        ("maxtasks", ctypes.c_uint16),
        ("id", ctypes.c_uint8),
        ("numtasks", ctypes.c_uint16),
    ]


class StatusArgs(ctypes.Structure):
    """``struct duet_ioctl_status_args``; the attributes of PRINT_LIST follow it."""

    _anonymous_ = ("union",)
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint16),
        ("pad", ctypes.c_uint8 * 2),
        ("union", _StatusUnion),
        ("pad2", ctypes.c_uint8 * 2),
    ]


class TaskList(ctypes.Structure):
    """A STATUS argument with room for every task there can be behind it."""

    _fields_ = [
        ("head", StatusArgs),
        ("tasks", TaskAttrs * MAX_TASKS),
    ]


class InitArgs(ctypes.Structure):
    """``struct duet_ioctl_init_args``."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("name", ctypes.c_char * NAME_LEN),
        ("pad", ctypes.c_uint8),
        ("regmask", ctypes.c_uint32),
        ("path", ctypes.c_char * PATH_LEN),
    ]


class BmapArgs(ctypes.Structure):
    """``struct duet_ioctl_bmap_args``."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("flags", ctypes.c_uint16),
        ("pad", ctypes.c_uint8 * 2),
        ("uuid", Uuid),
    ]


class GpathArgs(ctypes.Structure):
    """``struct duet_ioctl_gpath_args``."""

    _fields_ = [
        ("size", ctypes.c_uint32),
        ("pad", ctypes.c_uint8 * 4),
        ("uuid", Uuid),
        ("path", ctypes.c_char * PATH_LEN),
    ]


IOC_STATUS: int = ioctl_opt.IOWR(IOC_MAGIC, 1, StatusArgs)
IOC_INIT: int = ioctl_opt.IOWR(IOC_MAGIC, 2, InitArgs)
IOC_BMAP: int = ioctl_opt.IOWR(IOC_MAGIC, 3, BmapArgs)
IOC_GPATH: int = ioctl_opt.IOWR(IOC_MAGIC, 4, GpathArgs)
