# SPDX-License-Identifier: MIT
"""How things are written and read back: numbers, names, JSON."""
