# SPDX-License-Identifier: MIT
"""What it saves to run a cluster's tasks where their blocks are in memory: see docs/cluster.md."""
