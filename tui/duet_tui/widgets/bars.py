# SPDX-License-Identifier: MIT
"""Numbers drawn with characters: they say the same without colours."""

from collections.abc import Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def bar(part: float, whole: float, width: int) -> str:
    """Return a bar that is filled as far as ``part`` is of ``whole``; some of it for any part."""
    if width < 1:
        return ""
    filled = round(width * min(1.0, part / whole)) if whole > 0 else 0
    if part > 0:
        filled = max(1, filled)
    return "█" * filled + "░" * (width - filled)


def columns(values: Sequence[float], top: float, width: int, height: int) -> list[str]:
    """Return the lines of a chart, the last value at the right.

    Args:
        values: one for each column; those that do not fit are left out.
        top: the value that fills a column.
        width: of the chart, in characters.
        height: in lines.

    """
    shown = list(values)[-width:] if width > 0 else []
    shown = [0.0] * (width - len(shown)) + shown
    steps = [_steps(value, top, 8 * height) for value in shown]
    return [
        "".join(_EIGHTHS[min(8, max(0, step - 8 * (height - 1 - line)))] for step in steps)
        for line in range(height)
    ]


def _steps(value: float, top: float, most: int) -> int:
    if value <= 0 or top <= 0:
        return 0
    return max(1, min(most, round(most * value / top)))


def rate(value: float) -> str:
    """Return a number a second, as short as it stays useful."""
    return f"{value:,.1f}" if 0 < value < 10 else f"{value:,.0f}"
