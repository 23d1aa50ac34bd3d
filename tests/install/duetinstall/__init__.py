# SPDX-License-Identifier: MIT
"""Real Debian systems in virtual machines, to install Duet on."""
