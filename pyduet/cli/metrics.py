# SPDX-License-Identifier: MIT
"""``duet metrics``: Prometheus' text format, for node_exporter's textfile collector."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pyduet._place import replace
from pyduet._text.names import user_name
from pyduet.admin.privilege import is_admin
from pyduet.cli.text import warn
from pyduet.device import Device
from pyduet.errors import DuetError, NotLoadedError
from pyduet.info import DriverInfo, TaskInfo

if TYPE_CHECKING:
    from prometheus_client import Metric

#: By the collector, which is another user.
_READABLE = 0o644


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Print what Duet counts in Prometheus' text format. Where the module is not "
        "loaded that says duet_loaded 0. Counters are told to root alone."
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="replace a file at one stroke, as node_exporter's textfile collector wants it",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Now(Collector):
        def collect(self) -> Iterable["Metric"]:
            return metrics

    metrics = list(_metrics(options.device))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Now())
    text = generate_latest(registry)
    if options.output:
        replace(options.output, text, _READABLE)
    else:
        # In UTF-8, as the format has it, whatever the locale.
        sys.stdout.flush()
        sys.stdout.buffer.write(text)


def _metrics(path: str) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    try:
        device = Device(path)
    except NotLoadedError:
        yield GaugeMetricFamily("duet_loaded", "Whether the kernel module is loaded.", 0)
        return
    with device:
        info, tasks = device.info(), device.tasks()
        hooks = {}
        try:
            hooks = device.hooks()
        except DuetError as error:  # there is a device, but no sysfs
            warn(f"nothing is told of the hooks: {error}")
    yield GaugeMetricFamily("duet_loaded", "Whether the kernel module is loaded.", 1)
    yield from _of_info(info)
    alive = GaugeMetricFamily(
        "duet_hook_state", "The state of each hook, which has value 1.", labels=["hook", "state"]
    )
    for name, word in hooks.items():
        alive.add_metric([name, word], 1)
    if hooks:
        yield alive
    yield from _of_tasks(tasks)


def _of_info(info: DriverInfo) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    for name, words, value in (
        ("duet_on", "Whether Duet is switched on.", int(info.on)),
        ("duet_tasks", "Registered tasks.", info.tasks),
        ("duet_max_tasks", "Tasks that can be registered.", info.max_tasks),
        ("duet_memory_limit_bytes", "What files, nodes and marks may take.", info.limit),
        ("duet_task_limit_bytes", "What one task may have unread.", info.task_limit),
    ):
        yield GaugeMetricFamily(name, words, value)
    if not is_admin():
        return
    for name, words, value in (
        ("duet_memory_bytes", "What files, nodes and marks take.", info.bytes),
        ("duet_files", "Entries of files.", info.files),
        ("duet_nodes", "Nodes, each for some pages of a file.", info.nodes),
    ):
        yield GaugeMetricFamily(name, words, value)
    events = CounterMetricFamily(
        "duet_events", "Folios of watched files that the hooks told of.", labels=["event"]
    )
    for name, number in info.events._asdict().items():
        events.add_metric([name], number)
    yield events
    drops = CounterMetricFamily(
        "duet_drops", "How often a task could not be told something.", labels=["cause"]
    )
    for name, number in info.drops._asdict().items():
        drops.add_metric([name], number)
    yield drops


def _of_tasks(tasks: list[TaskInfo]) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ["task", "name", "user", "path"]
    families = (
        (GaugeMetricFamily, "age_seconds", "Time since the registration.", "age"),
        (GaugeMetricFamily, "done_files", "Files marked done.", "done"),
        (CounterMetricFamily, "items", "Items that the task has read.", "delivered"),
        (CounterMetricFamily, "overflows", "Overflow items that it was given.", "overflows"),
    )
    admins = (
        (GaugeMetricFamily, "pending_bytes", "What waits for the task's reader.", "pending"),
        (GaugeMetricFamily, "files", "Entries of files that the task wants.", "files"),
    )
    for kind, name, words, attribute in families + (admins if is_admin() else ()):
        family = kind(f"duet_task_{name}", words, labels=labels)
        for task in tasks:
            values = [str(task.id), task.name, user_name(task.uid), task.path]
            family.add_metric([_utf8(value) for value in values], getattr(task, attribute))
        yield family


def _utf8(text: str) -> str:
    """Return text that can be encoded, whatever bytes a path has."""
    return text.encode(errors="backslashreplace").decode()
