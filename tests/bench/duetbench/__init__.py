# SPDX-License-Identifier: GPL-2.0-only
"""The bench: measures in the lab, on the host orders and reports."""
