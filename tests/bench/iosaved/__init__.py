# SPDX-License-Identifier: GPL-2.0-only
"""Measures how much I/O maintenance tasks save with Duet, in the lab."""
