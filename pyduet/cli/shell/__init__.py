# SPDX-License-Identifier: GPL-2.0-only
"""The shell of ``duet debug``: one command a line."""
