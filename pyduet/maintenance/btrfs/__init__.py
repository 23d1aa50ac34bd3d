# SPDX-License-Identifier: MIT
"""What is known of btrfs: its trees, subvolumes and send streams."""
