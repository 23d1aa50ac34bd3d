# SPDX-License-Identifier: MIT
"""How the extents of a file are joined: a module for each file system that can do it."""
