# SPDX-License-Identifier: MIT
"""Run a cluster's tasks where the blocks that they read are in memory, and those blocks first."""
