# SPDX-License-Identifier: GPL-2.0-only
"""Maintenance that works first on what is in memory: one frame, and the tasks that it runs."""

from pyduet.maintenance.frame import Frame, Options, Progress
from pyduet.maintenance.ledger import Ledger, LedgerError, Record
from pyduet.maintenance.reading import Reading
from pyduet.maintenance.task import Maintenance
from pyduet.maintenance.work import (
    BadFileError,
    Problem,
    Stamp,
    TargetError,
    Trouble,
    UnstableError,
    Work,
)

__all__ = [
    "BadFileError",
    "Frame",
    "Ledger",
    "LedgerError",
    "Maintenance",
    "Options",
    "Problem",
    "Progress",
    "Reading",
    "Record",
    "Stamp",
    "TargetError",
    "Trouble",
    "UnstableError",
    "Work",
]
