# SPDX-License-Identifier: MIT
"""Where a command's items come from: a task of the driver, or a recording; and a copy of them."""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator

from pyduet._place import open_to_write
from pyduet._text.names import printable
from pyduet.batch import Batch
from pyduet.cli import arguments
from pyduet.device import Device
from pyduet.errors import PathNotFoundError, PermissionDeniedError
from pyduet.events import FileId, Mask
from pyduet.stream import Stream


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says where from."""
    parser.add_argument("path", metavar="PATH", nargs="?", help="the directory or file")
    parser.add_argument("--record", metavar="FILE", help="write all that is told to a recording")
    parser.add_argument("--replay", metavar="FILE", help="of a recording, instead of a PATH")
    parser.add_argument(
        "--name",
        type=arguments.task_name,
        default=f"{parser.prog} {os.getpid()}",
        metavar="NAME",
        help="the task's, for people (default: duet COMMAND PID)",
    )
    parser.set_defaults(usage_error=parser.error)


@contextlib.contextmanager
def opened(options: argparse.Namespace, mask: Mask) -> Iterator[Stream]:
    """Register a task, or open a recording; ends it afterwards.

    Args:
        options: of :func:`add_arguments`.
        mask: for the task.

    Raises:
        DuetError: as of ``Device.register``.
        RecordingError: it is no recording.

    """
    if (options.path is None) == (options.replay is None):
        options.usage_error("give either a PATH or --replay FILE")
    if options.replay is not None:
        from pyduet.recording import Recording, ReplayedStream

        with ReplayedStream(Recording.load(options.replay)) as stream:
            yield stream
        return
    with (
        Device(options.device) as device,
        device.register(options.path, mask, name=options.name, ranges=True) as task,
    ):
        if options.record is None:
            yield task
            return
        with open(open_to_write(options.record), "w", encoding="utf-8") as file:
            from pyduet.recording import RecordedStream, Recorder

            recorder = Recorder(file, task)
            recorder.sample(device)
            yield RecordedStream(task, recorder)
            # Who was interrupted wants the end as well.
            with contextlib.suppress(OSError):
                recorder.sample(device)


def path_of(stream: Stream, file: FileId) -> str | None:
    """Return the path of a file, None where there is none to tell."""
    try:
        return stream.path_of(file)
    except (PathNotFoundError, PermissionDeniedError):
        return None


def name_of(stream: Stream, file: FileId) -> str:
    """Return what to call a file on a line: its path, or its number where there is none to tell."""
    path = path_of(stream, file)
    if path is None:
        return f"({file})" if file.ino else "(files that are not known)"
    return printable(path)


def batches_for(stream: Stream, seconds: float) -> Iterator[Batch]:
    """Yield the batches of the next seconds; ends early when the stream does."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        batch = stream.read_batch()
        if batch:
            yield batch
        elif not stream.wait(left):
            return
