# SPDX-License-Identifier: MIT
"""How long interrupts or preemption are off in Duet, whatever a user makes long."""
