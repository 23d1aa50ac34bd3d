# SPDX-License-Identifier: MIT
"""The shell of ``duet debug``: one command a line."""
