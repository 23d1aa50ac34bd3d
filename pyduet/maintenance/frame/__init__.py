# SPDX-License-Identifier: MIT
"""What all maintenance tasks share: the work, its order, the ledger, the pace."""
