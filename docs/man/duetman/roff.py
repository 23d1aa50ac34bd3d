# SPDX-License-Identifier: MIT
"""Markdown to roff, with pandoc."""

import datetime
import os
import re
import subprocess
import time

import pyduet


def from_markdown(text: str, *, section: int, manual: str) -> str:
    """Return a man page of the name ``duet``.

    Args:
        text: Markdown; headings of the first level are the page's sections.
        section: of the manual.
        manual: what that section is called.

    Raises:
        OSError: there is no pandoc.
        subprocess.CalledProcessError: pandoc failed, and said why on stderr.

    """
    metadata = {
        "title": "DUET",
        "section": section,
        "header": manual,
        "footer": f"Duet {pyduet.__version__}",
        "date": _date(),
    }
    command = ["pandoc", "--standalone", "--from=gfm+definition_lists", "--to=man"]
    command += [f"--metadata={name}={value}" for name, value in metadata.items()]
    try:
        page = subprocess.run(
            command, input=text, stdout=subprocess.PIPE, encoding="utf-8", check=True
        ).stdout
    except FileNotFoundError as error:
        raise OSError("pandoc is not installed; run: make setup") from error
    # Neither hyphens nor wide gaps: names that are broken are not found.
    page = re.sub(r"^(\.TH .*\n)(?:\.hy\n)?", r"\1.nh\n.ad l\n", page, flags=re.MULTILINE)
    # Lines of code are long: they are indented as the text is, and no more.
    page = re.sub(r"^\.IP\n(?=\.(?:nf|EX)$)", ".PP\n", page, flags=re.MULTILINE)
    # Several terms of one definition.
    return page.replace("\n.PD 0\n.P\n.PD\n", "\n.TQ\n")


def _date() -> str:
    """Return today; who builds reproducibly says what day it is."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    seconds = int(epoch) if epoch else time.time()
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).date().isoformat()
