# SPDX-License-Identifier: MIT
"""The idle classes of I/O and processor, for a command that is nobody's hurry."""

import os

import psutil


def be_idle() -> str | None:
    """Give this process the idle classes of I/O and processor, for good.

    Returns:
        Why that was not possible, or None.

    """
    try:
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
        # SCHED_IDLE of sched(7): psutil has niceness alone, which is less.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (OSError, psutil.Error) as error:
        return f"no idle class: {error}"
    return None
