# SPDX-License-Identifier: MIT
"""Measures how much I/O maintenance tasks save with Duet, in the lab."""
