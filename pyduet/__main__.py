# SPDX-License-Identifier: GPL-2.0-only
"""``python -m pyduet`` is the ``duet`` command."""

import sys

from pyduet.cli import main

sys.exit(main())
