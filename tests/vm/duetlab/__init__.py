# SPDX-License-Identifier: GPL-2.0-only
"""The VM lab: stock Debian kernels in QEMU, with the host's files as user land."""
