# SPDX-License-Identifier: MIT
"""``python -m pyduet`` is the ``duet`` command."""

import sys

from pyduet.cli import main

sys.exit(main())
