# SPDX-License-Identifier: MIT
"""What the tests that need no Duet share."""

import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A shell has what it starts in the background ignore Ctrl-C, and so all that this starts. What is
# handled here is not ignored there.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, however slow the machine is: who looks for others says so.
settings.register_profile(
    "steady",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of three files."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(3):
        (tree / f"file{number}").write_text(f"content {number}\n")
    return tree
