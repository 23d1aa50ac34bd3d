# SPDX-License-Identifier: MIT
"""What administers a machine: configuration, diagnosis, privileges."""
