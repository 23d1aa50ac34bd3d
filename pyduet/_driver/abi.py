# SPDX-License-Identifier: MIT
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


class Register(enum.IntFlag):
    """``DUET_REGISTER_*``: how a task is registered."""

    RANGES = 0x0001
    INHERIT = 0x0002
    NONBLOCK = 0x0004
    NO_SCAN = 0x0008
    SNAPSHOT = 0x0010


class Feature(enum.IntFlag):
    """``DUET_FEATURE_*``: what the driver has beyond what every one has."""

    TABLE = 0x0001


class Drop(enum.IntEnum):
    """``enum duet_drop``: why something was dropped, an index of counters."""

    LIMIT = 0
    TASK_LIMIT = 1
    NOMEM = 2


class Event(enum.IntEnum):
    """``enum duet_event``: a kind of event, an index of counters and of bits."""

    ADDED = 0
    REMOVED = 1
    DIRTY = 2
    FLUSHED = 3


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
        ("pad", ctypes.c_uint8 * 2),
        ("nr", ctypes.c_uint32),
    ]


#: The same as :class:`Item` for decoding many at once: ino, gen, tid, idx, state, nr.
ITEM = struct.Struct("=QIB3xQH2xI")

#: Alone in an item's state: the task was not told all.
ITEM_OVERFLOW = 0x8000


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


# The calls from 0x10 on. Their structures may grow at the end; pointers are
# 64-bit numbers.

ABI_VERSION = 1

CHAIN_LENGTHS = 16

#: What ``Dump.cursor`` comes back as when there is no more.
CURSOR_END = 2**64 - 1


class Info(ctypes.Structure):
    """``struct duet_info``."""

    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("abi_version", ctypes.c_uint32),
        ("on", ctypes.c_uint32),
        ("max_tasks", ctypes.c_uint32),
        ("nr_tasks", ctypes.c_uint32),
        ("node_pages", ctypes.c_uint32),
        ("node_bytes", ctypes.c_uint32),
        ("file_bytes", ctypes.c_uint32),
        ("hooks_found", ctypes.c_uint32),
        ("hooks_alive", ctypes.c_uint32),
        ("page_shift", ctypes.c_uint32),
        ("item_size", ctypes.c_uint32),
        ("limit", ctypes.c_uint64),
        ("task_limit", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("nr_files", ctypes.c_uint64),
        ("nr_nodes", ctypes.c_uint64),
        ("events", ctypes.c_uint64 * 8),
        ("drops", ctypes.c_uint64 * 8),
        ("features", ctypes.c_uint64),
        ("register_flags", ctypes.c_uint64),
        ("masks", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64 * 8),
    ]


class RegisterArgs(ctypes.Structure):
    """``struct duet_register``."""

    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("mask", ctypes.c_uint32),
        ("dirfd", ctypes.c_int32),
        ("tid", ctypes.c_uint32),
        ("path", ctypes.c_uint64),
        ("name", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("item_size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    ]


class FileRef(ctypes.Structure):
    """``struct duet_file_ref``: a file, in a batch."""

    _fields_ = [
        ("ino", ctypes.c_uint64),
        ("gen", ctypes.c_uint32),
        ("result", ctypes.c_int32),
    ]


#: The same as :class:`FileRef` for many at once: ino, gen, result.
FILE_REF = struct.Struct("=QIi")


class Marks(ctypes.Structure):
    """``struct duet_marks``."""

    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
        ("nr", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("files", ctypes.c_uint64),
    ]


class Paths(ctypes.Structure):
    """``struct duet_paths``."""

    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
        ("nr", ctypes.c_uint32),
        ("len", ctypes.c_uint32),
        ("files", ctypes.c_uint64),
        ("buf", ctypes.c_uint64),
    ]


class Rescan(ctypes.Structure):
    """``struct duet_rescan``."""

    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
    ]


class End(ctypes.Structure):
    """``struct duet_end``."""

    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class Dump(ctypes.Structure):
    """``struct duet_dump``: the argument of every DUMP call."""

    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("tid", ctypes.c_uint32),
        ("cursor", ctypes.c_uint64),
        ("first", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("len", ctypes.c_uint32),
        ("nr", ctypes.c_uint32),
        ("buf", ctypes.c_uint64),
        ("size", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    ]


class TaskInfo(ctypes.Structure):
    """``struct duet_task_info``: what DUMP_TASKS returns."""

    _fields_ = [
        ("tid", ctypes.c_uint32),
        ("mask", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("uid", ctypes.c_uint32),
        ("dev", ctypes.c_uint32),
        ("fd", ctypes.c_int32),
        ("gone", ctypes.c_uint32),
        ("age", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("pending", ctypes.c_uint64),
        ("files", ctypes.c_uint64),
        ("done", ctypes.c_uint64),
        ("delivered", ctypes.c_uint64),
        ("drops", ctypes.c_uint64 * 8),
        ("overflows", ctypes.c_uint64),
        ("item_size", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("reserved", ctypes.c_uint64 * 5),
        ("name", ctypes.c_char * (NAME_LEN + 1)),
        ("path", ctypes.c_char * PATH_LEN),
    ]


class Table(ctypes.Structure):
    """``struct duet_table``, which is not stable."""

    _fields_ = [
        ("flags", ctypes.c_uint32),
        ("longest", ctypes.c_uint32),
        ("buckets", ctypes.c_uint64),
        ("nodes", ctypes.c_uint64),
        ("chains", ctypes.c_uint64 * CHAIN_LENGTHS),
        ("reserved", ctypes.c_uint64 * 2),
    ]


class NodeInfo(ctypes.Structure):
    """``struct duet_node_info``: what DUMP_NODES returns; not stable."""

    _fields_ = [
        ("bucket", ctypes.c_uint64),
        ("ino", ctypes.c_uint64),
        ("gen", ctypes.c_uint32),
        ("dev", ctypes.c_uint32),
        ("idx", ctypes.c_uint64),
        ("tid", ctypes.c_uint32),
        ("queued", ctypes.c_uint32),
        ("cached", ctypes.c_uint64),
        ("dirty", ctypes.c_uint64),
        ("bits", ctypes.c_uint64 * 8),
    ]


IOC_STATUS: int = ioctl_opt.IOWR(IOC_MAGIC, 1, StatusArgs)
IOC_INIT: int = ioctl_opt.IOWR(IOC_MAGIC, 2, InitArgs)
IOC_BMAP: int = ioctl_opt.IOWR(IOC_MAGIC, 3, BmapArgs)
IOC_GPATH: int = ioctl_opt.IOWR(IOC_MAGIC, 4, GpathArgs)

IOC_INFO: int = ioctl_opt.IOWR(IOC_MAGIC, 0x10, Info)
IOC_REGISTER: int = ioctl_opt.IOWR(IOC_MAGIC, 0x11, RegisterArgs)
IOC_MARKS: int = ioctl_opt.IOWR(IOC_MAGIC, 0x12, Marks)
IOC_PATHS: int = ioctl_opt.IOWR(IOC_MAGIC, 0x13, Paths)
IOC_RESCAN: int = ioctl_opt.IOW(IOC_MAGIC, 0x14, Rescan)
IOC_END: int = ioctl_opt.IOW(IOC_MAGIC, 0x15, End)

IOC_TABLE: int = ioctl_opt.IOWR(IOC_MAGIC, 0x20, Table)
IOC_DUMP_TASKS: int = ioctl_opt.IOWR(IOC_MAGIC, 0x21, Dump)
IOC_DUMP_NODES: int = ioctl_opt.IOWR(IOC_MAGIC, 0x22, Dump)
IOC_DUMP_PENDING: int = ioctl_opt.IOWR(IOC_MAGIC, 0x23, Dump)
IOC_DUMP_MARKS: int = ioctl_opt.IOWR(IOC_MAGIC, 0x24, Dump)
