# SPDX-License-Identifier: MIT
"""What this process may do."""

#: CAP_SYS_ADMIN of linux/capability.h.
_CAP_SYS_ADMIN = 21


def is_admin() -> bool:
    """Return whether this process has CAP_SYS_ADMIN, without which Duet hides its counters.

    In a user namespace it may have it, and not be told them all the same.
    """
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False
