# SPDX-License-Identifier: MIT
"""Archives: their format, what a file has besides its data, their chain, and how to restore."""
