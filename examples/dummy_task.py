#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The dummy task of Duet's cover letter: fetch items of a directory, count them, mark files done.

usage: dummy_task.py DIRECTORY [SECONDS]
"""

import sys

from pyduet import Device, Mask

directory, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else None
items = pages = 0
with Device() as device, device.register(directory, Mask.ADDED, name="dummy", ranges=True) as task:
    for item in task.events(timeout=seconds):
        items, pages = items + 1, pages + item.pages
        task.mark_done(item.file)
    print(f"{items} items, {pages} pages, {len(list(task.marked()))} files marked done")
