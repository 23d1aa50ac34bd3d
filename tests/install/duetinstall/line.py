# SPDX-License-Identifier: MIT
"""A socket on which QEMU, or the guest's agent, answers lines of JSON with lines of JSON."""

import json
import socket
import time
from pathlib import Path
from typing import Any


class LineError(Exception):
    """It answered with an error, or not in time."""


class Line:
    """One command at a time, over QMP or the guest agent's protocol."""

    def __init__(self, path: Path, seconds: float) -> None:
        """Connect; the socket has to appear in so many seconds."""
        self._socket = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + seconds
        while True:
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > end:
                    raise LineError(f"{path} does not appear") from None
                time.sleep(0.1)
        self._rest = b""
        #: What was told without being asked for.
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def ask(self, command: str, seconds: float = 60, **arguments: Any) -> Any:
        """Return the answer to a command; arguments as of :meth:`say`. Events are kept."""
        self.say(command, **arguments)
        while True:
            answer = self._line(time.monotonic() + seconds, command)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LineError(f"{command}: {answer['error']['desc']}")
            self.events.append(answer)

    def say(self, command: str, **arguments: Any) -> None:
        """Give a command that is not answered; arguments have - where Python has _."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        request = {"execute": command, "arguments": named}
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    def sync(self, seconds: float) -> None:
        """Ensure that the agent answers, and that what it answers is for this connection."""
        number = time.time_ns() >> 10
        self.say("guest-sync", id=number)
        end = time.monotonic() + seconds
        while self._line(end, "guest-sync").get("return") != number:
            pass  # an answer to somebody before us

    def event(self, name: str, seconds: float, **data: Any) -> dict[str, Any]:
        """Return an event with such data, which may have come already."""
        end = time.monotonic() + seconds
        while True:
            for event in self.events:
                if event.get("event") == name and data.items() <= event["data"].items():
                    self.events.remove(event)
                    return event
            self.events.append(self._line(end, name))

    def _line(self, end: float, what: str) -> dict[str, Any]:
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0:
                raise LineError(f"{what}: no answer in time")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                raise LineError(f"{what}: the machine is gone")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        # The agent begins with 0xff after a reset of its line.
        found: dict[str, Any] = json.loads(line.lstrip(b"\xff"))
        return found
