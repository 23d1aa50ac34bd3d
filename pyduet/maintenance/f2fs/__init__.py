# SPDX-License-Identifier: MIT
"""The garbage collection of f2fs, which works on segments, not on files."""
