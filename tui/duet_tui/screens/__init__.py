# SPDX-License-Identifier: GPL-2.0-only
"""The five screens, and those that open from them."""
