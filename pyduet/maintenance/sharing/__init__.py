# SPDX-License-Identifier: MIT
"""How tasks share what they read: residency, neighbours, whose turn it is."""
