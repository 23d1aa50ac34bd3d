# SPDX-License-Identifier: GPL-2.0-only
"""What the screens are made of."""
