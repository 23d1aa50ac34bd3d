# SPDX-License-Identifier: MIT
"""The VM lab: stock Debian kernels in QEMU, with the host's files as user land."""
