# SPDX-License-Identifier: MIT
"""The administrator's configuration: read, checked, and applied as far as no task is ended."""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyduet._driver import abi
from pyduet._text.numbers import bytes_of
from pyduet.device import Device
from pyduet.errors import AlreadyError, InUseError

DEFAULT_FILE = "/etc/duet/duet.toml"

#: The one section there is.
_SECTION = "duet"


class ConfigError(ValueError):
    """A configuration that cannot be; ``str()`` is one line: file, key, value, remedy.

    Attributes:
        file: the file that is to be corrected.

    """

    def __init__(self, file: str, words: str) -> None:
        super().__init__(f"{file}: {words}")
        self.file = file


@dataclass(frozen=True, slots=True)
class Config:
    """What the administrator wants.

    Attributes:
        on: whether Duet is to be on.
        max_tasks: how many tasks may be registered at a time, 1 to 255.
        limit: bytes that all tasks may take together; 0 is the driver's default.
        task_limit: bytes that what a task has not read yet may take; 0 likewise.
        files: what it was read from, in order; none means that all is as
            without a configuration.

    """

    on: bool = True
    max_tasks: int = abi.DEFAULT_TASKS
    limit: int = 0
    task_limit: int = 0
    files: tuple[str, ...] = ()


def read(file: str | os.PathLike[str] = DEFAULT_FILE, *, needed: bool = True) -> Config:
    """Return the configuration of a file and of its drop-ins, all of it checked.

    The drop-ins are ``FILE.d/*.toml`` in the order of their names; what comes
    later wins. Names that begin with a dot are left to editors.

    Args:
        file: the file.
        needed: whether it is an error that it is not there.

    Raises:
        ConfigError: something in it is unknown, of the wrong type or out of
            range, or a file is no TOML.
        OSError: a file cannot be read.

    """
    name = os.fspath(file)
    values: dict[str, Any] = {}
    files = []
    for path in [name, *_drop_ins(f"{name}.d")]:
        try:
            values.update(_read_one(path))
        except FileNotFoundError:
            # A drop-in that is a link to nowhere was meant to be there.
            if needed or path != name:
                raise
        else:
            files.append(path)
    return Config(**values, files=tuple(files))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A setting that was not applied.

    Attributes:
        setting: its key.
        reason: a sentence that says why, and how it could be.

    """

    setting: str
    reason: str


def apply(device: Device, config: Config) -> list[Refusal]:
    """Have Duet be as configured, as far as that ends no task; needs CAP_SYS_ADMIN.

    Duet is switched off, or off and on again, only while no task is registered.

    Args:
        device: Duet's.
        config: how it is to be.

    Returns:
        What was not applied; all else was.

    Raises:
        PermissionDeniedError: without CAP_SYS_ADMIN; nothing was done.
        DuetError: the driver failed.

    """
    now = device.info()
    refusals = []
    # Before the start: it sizes the tables by them.
    for name, value, current in (
        ("limit", config.limit, now.limit),
        ("task_limit", config.task_limit, now.task_limit),
    ):
        # What is so already would be a change event to all who listen.
        if value != current and (refusal := _refusal(device, name, value)):
            refusals.append(refusal)
    if now.on and not now.tasks and not (config.on and config.max_tasks == now.max_tasks):
        # A task that registers between the question and this is ended and told so, as by duet stop.
        with contextlib.suppress(AlreadyError):
            device.stop()
    if config.on and not device.is_on():
        with contextlib.suppress(AlreadyError):
            device.start(config.max_tasks)
    elif not config.on and device.is_on():
        reason = "cannot switch Duet off: tasks are registered; to end them: duet stop"
        refusals.append(Refusal("on", f"{reason}, then: duet setup"))
    if config.max_tasks != device.info().max_tasks and (
        refusal := _refusal(device, "max_tasks", config.max_tasks)
    ):
        refusals.append(refusal)
    return refusals


def _refusal(device: Device, name: str, value: int) -> Refusal | None:
    try:
        device.set_limits(**{name: value})
    except InUseError as error:
        return Refusal(name, f"{error}, then: duet setup")
    return None


def _drop_ins(directory: str) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return [
        os.path.join(directory, name)
        for name in sorted(names)
        if name.endswith(".toml") and not name.startswith(".")
    ]


def _read_one(file: str) -> dict[str, Any]:
    """Return the settings of one file."""
    import tomllib

    raw = Path(file).read_bytes()
    try:
        content = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(file, f"this is no TOML: {error}; correct it there") from None
    values = {}
    for section, keys in content.items():
        if not isinstance(keys, dict):
            raise ConfigError(file, f"{_shown(section, keys)} is in no section; see [{_SECTION}]")
        if section != _SECTION:
            raise ConfigError(
                file, f"{_cut(f'[{section}]')} is an unknown section; use [{_SECTION}]"
            )
        for key, value in keys.items():
            try:
                values[key] = _KEYS[key](value)
            except KeyError:
                words = f"is an unknown key; use {', '.join(_KEYS)}"
                raise ConfigError(file, f"[{section}] {_shown(key, value)} {words}") from None
            except ValueError as error:
                raise ConfigError(file, f"[{section}] {_shown(key, value)} {error}") from None
    return values


# What a key may be; the error follows the key and its value.


def _switch(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("is neither on nor off; give true or false")  # noqa: TRY004 -- one kind
    return value


def _tasks(value: object) -> int:
    possible = f"give a whole number from 1 to {abi.MAX_TASKS}"
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"is no whole number; {possible}")  # noqa: TRY004 -- one kind
    if not 1 <= value <= abi.MAX_TASKS:
        raise ValueError(f"is out of range; {possible}")
    return value


def _size(value: object) -> int:
    if isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return bytes_of(str(value))
    possible = f"a number of bytes below 2^63, or as {json.dumps('64M')}"
    raise ValueError(f"is no size; give {possible}, or 0 for the driver's default")


_KEYS: dict[str, Callable[[object], bool | int]] = {
    "on": _switch,
    "max_tasks": _tasks,
    "limit": _size,
    "task_limit": _size,
}


def _shown(key: str, value: object) -> str:
    """Return a setting as TOML has it, on one line and not long."""
    try:
        # JSON writes nearly all that TOML knows as TOML does, and escapes what is not printable.
        text = json.dumps(value, default=str)
    except ValueError:  # Python writes no numbers of thousands of digits
        text = "(a very long number)"
    return _cut(f"{key} = {text}")


def _cut(text: str, most: int = 80) -> str:
    text = ascii(text)[1:-1] if not text.isprintable() else text
    return text if len(text) <= most else f"{text[:most]}…"
