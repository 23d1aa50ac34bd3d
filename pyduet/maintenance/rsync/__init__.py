# SPDX-License-Identifier: MIT
"""What is known of rsync(1): its options, its remote shell, and what it prints."""
