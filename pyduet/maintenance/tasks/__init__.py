# SPDX-License-Identifier: MIT
"""The maintenance tasks, a module each."""
