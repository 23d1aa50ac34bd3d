# SPDX-License-Identifier: MIT
"""``duet setup``: has Duet be as the administrator's configuration says."""

import argparse
import dataclasses

from pyduet._text.numbers import plural, size
from pyduet.admin.config import DEFAULT_FILE, Config, ConfigError, Refusal, apply, read
from pyduet.cli.exits import Exit
from pyduet.cli.text import print_json, say, warn
from pyduet.device import Device


def add(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Have Duet be as the configuration says, as far as that ends no task: what is "
        "left is said, with what to do. A configuration with a mistake in it changes nothing. "
        "systemd runs this when the module is loaded."
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"with its drop-ins, FILE.d/*.toml (default: {DEFAULT_FILE}, if there is one)",
    )
    parser.add_argument("--check", action="store_true", help="only check it; needs no Duet")
    parser.add_argument("--json", action="store_true", help="print an object")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        config = read(options.config or DEFAULT_FILE, needed=options.config is not None)
    except ConfigError as error:
        warn(str(error))
        return Exit.USAGE
    refusals: list[Refusal] = []
    words = f"fine: {_wanted(config)}"
    if not options.check:
        with Device(options.device) as device:
            refusals = apply(device, config)
            info = device.info()
        words = f"Duet is {_state(info.on, info.max_tasks, info.limit, info.task_limit)}"
    if options.json:
        settings = dataclasses.asdict(config)
        files = settings.pop("files")
        print_json(
            {"files": files, "settings": settings, "applied": not options.check, "left": refusals}
        )
    else:
        say(options, f"{words}; {_source(config)}")
    for refusal in refusals:
        warn(f"{refusal.setting} is not applied: {refusal.reason}")
    return Exit.IN_USE if refusals else Exit.OK


def _state(on: bool, max_tasks: int, limit: int, task_limit: int) -> str:
    """Return how Duet is, or is to be; limits of 0 are the driver's defaults."""
    whole, each = (size(one) if one else "the driver's default" for one in (limit, task_limit))
    return (
        f"{'on' if on else 'off'}: {plural(max_tasks, 'task')} at a time, {whole} for all of them, "
        f"{each} unread for each"
    )


def _wanted(config: Config) -> str:
    return _state(config.on, config.max_tasks, config.limit, config.task_limit)


def _source(config: Config) -> str:
    if not config.files:
        return f"there is no {DEFAULT_FILE}, so these are the defaults"
    return f"by {', '.join(config.files)}"
