# SPDX-License-Identifier: MIT
"""The bench: measures in the lab, on the host orders and reports."""
