# SPDX-License-Identifier: MIT
"""Files as maintenance reaches them: opened safely, read once, dropped from memory."""
