# SPDX-License-Identifier: MIT
"""Maintenance that works first on what is in memory: one frame, and the tasks that it runs."""

from pyduet.maintenance.files.reading import Reading
from pyduet.maintenance.frame.frame import Frame, Options, Progress
from pyduet.maintenance.frame.ledger import Ledger, LedgerError, Record
from pyduet.maintenance.frame.task import Maintenance
from pyduet.maintenance.frame.work import (
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
