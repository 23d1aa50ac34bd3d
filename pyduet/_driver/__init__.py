# SPDX-License-Identifier: MIT
"""What talks to the driver: the numbers of the interface, calls, descriptors, sysfs."""
