# SPDX-License-Identifier: MIT
"""``duet doctor``: what keeps Duet from working here, and the commands that mend it."""

import argparse
import os
import sys

from pyduet._text.names import printable
from pyduet.admin.diagnosis import Finding, Verdict, diagnose, is_healthy
from pyduet.cli.exits import Exit
from pyduet.cli.text import print_json

_COLOURS = {
    Verdict.OK: "32",
    Verdict.WARNING: "33",
    Verdict.BAD: "1;31",
    Verdict.UNKNOWN: "2",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Check the kernel, the module, the device, who may open it, the hooks, what "
        "was dropped, and how it is configured. Nothing is changed. Each thing that is not in "
        "order is followed by the command that mends it; most take root. Exits with 1 when "
        "something is bad."
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what every check finds; return 1 if one is bad."""
    findings = diagnose(options.device)
    healthy = is_healthy(findings)
    if options.json:
        print_json({"healthy": healthy, "checks": findings})
    else:
        coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        for finding in findings:
            print(_text(finding, coloured=coloured))
    return Exit.OK if healthy else Exit.FAILED


def _text(finding: Finding, *, coloured: bool) -> str:
    mark = f"{finding.verdict:7}"
    if coloured:
        mark = f"\033[{_COLOURS[finding.verdict]}m{mark}\033[0m"
    text = f"{mark}  {finding.name:9}  {printable(finding.found)}"
    return f"{text}\n{'':9}mend: {printable(finding.remedy)}" if finding.remedy else text
