# SPDX-License-Identifier: MIT
"""Makes the man pages of what the tree says elsewhere, so that nothing is said twice."""
