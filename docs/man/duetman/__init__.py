# SPDX-License-Identifier: GPL-2.0-only
"""Makes the man pages of what the tree says elsewhere, so that nothing is said twice."""
