# SPDX-License-Identifier: MIT
"""Maintenance that works first on what is in memory: one frame, and the tasks that it runs."""

from pyduet.maintenance.files.direct import Direct
from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.files.statx import Identity, Status
from pyduet.maintenance.files.tree import Found, Tree
from pyduet.maintenance.frame.frame import Frame, Options, Progress, Use
from pyduet.maintenance.frame.inventory import Inventory
from pyduet.maintenance.frame.ledger import Ledger, LedgerError, Record
from pyduet.maintenance.frame.problems import Problems
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.work import (
    BadFileError,
    LeftOut,
    Problem,
    ReplacedError,
    Stamp,
    TargetError,
    Trouble,
    UnstableError,
    Work,
)

__all__ = [
    "BadFileError",
    "Direct",
    "Found",
    "Frame",
    "Identity",
    "Inventory",
    "Ledger",
    "LedgerError",
    "LeftOut",
    "Maintenance",
    "Options",
    "Problem",
    "Problems",
    "Progress",
    "Reading",
    "Record",
    "ReplacedError",
    "Stamp",
    "Status",
    "TargetError",
    "Tree",
    "Trouble",
    "UnstableError",
    "Use",
    "Work",
]
