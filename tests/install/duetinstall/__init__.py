# SPDX-License-Identifier: GPL-2.0-only
"""Real Debian systems in virtual machines, to install Duet on."""
