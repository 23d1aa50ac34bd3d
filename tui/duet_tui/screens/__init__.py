# SPDX-License-Identifier: MIT
"""The five screens, and those that open from them."""
