# SPDX-License-Identifier: MIT
"""One run: the guest from start to end, its output, and the verdict."""

import contextlib
import os
import queue
import selectors
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import terminal
from .accel import choose_accel
from .console import Console
from .disk import SMALLEST_MIB, disk_image, mkfs_command
from .driver import build_module
from .errors import EXIT_TIMEOUT, EXIT_TROUBLE, LabError, UsageError
from .host import PROJECT, cache_dir, complain, say
from .initramfs import base_initramfs, run_archive
from .kernel import get_kernel
from .machine import Machine
from .series import Series

# Ends the machine in terminal mode, where Ctrl-C is the guest's.
_ESCAPE = b"\x1d"  # Ctrl-]
_QUEUE_LIMIT = 64 << 20
_OUTPUTS = ("stdout", "stderr", "terminal")


@dataclass
class Options:
    """What `lab run` and `lab shell` take."""

    series: Series
    command: list[str]
    fs: str = "ext4"
    smp: int | None = None
    mem: int | None = None
    disk_size: int | None = None
    disk_rate: int | None = None
    disk_from: Path | None = None
    icount: bool = False
    parallel: bool = False
    load: bool = True
    share: Path | None = None
    timeout: float | None = 600
    env: dict[str, str] = field(default_factory=dict)
    append: str = ""
    accel: str = "auto"
    terminal: bool = False
    verbose: bool = False


def run(options: Options) -> int:
    """Run COMMAND in a guest; the lab's exit status."""
    smp = _smp(options)
    size = options.disk_size or (256 if options.icount else 1024)
    if options.fs == "xfs" and options.icount and options.disk_size is None:
        size = SMALLEST_MIB["xfs"]
    if size < SMALLEST_MIB[options.fs]:
        raise UsageError(f"{options.fs} needs --disk-size {SMALLEST_MIB[options.fs]} or more")
    if options.disk_from is not None and options.fs != "ext4":
        raise UsageError("--disk-from works with --fs ext4 only")
    ramdisk = options.icount and options.fs != "tmpfs"
    if options.disk_rate is not None and (ramdisk or options.fs == "tmpfs"):
        raise UsageError("--disk-rate needs a disk: no --icount, no tmpfs")
    mem = options.mem or (1024 + size if ramdisk else 1024)

    kernel = get_kernel(options.series)
    module = build_module(kernel)[1] if options.load else None
    accel = options.accel
    if options.icount:
        accel = "tcg"
    elif accel == "auto":
        accel = choose_accel(kernel)

    append = [options.series.append, options.append]
    if ramdisk:
        append.append(f"brd.rd_nr=1 brd.rd_size={size << 10}")
    in_guest_mkfs = ramdisk and options.disk_from is None
    config = {
        "LAB_RELEASE": kernel.release,
        "LAB_MODULES": os.path.realpath(kernel.modules),
        "LAB_PORTS": "0",
        "LAB_SMP": str(smp),
        "LAB_FS": options.fs,
        "LAB_DISK_MIB": str(size),
        "LAB_RAMDISK": "1" if ramdisk else "",
        "LAB_MKFS": shlex.join(mkfs_command(options.fs)) if in_guest_mkfs else "",
        "LAB_SHARE": "1" if options.share else "",
        "LAB_MODULE": "/run/duet-lab/duet.ko" if module else "",
        "LAB_TTY": "rows {} cols {}".format(*terminal.size()) if options.terminal else "",
    }
    keep = [os.path.realpath(path) for path in (PROJECT, cache_dir())]
    files = {
        "config": _script(f"{name}={shlex.quote(value)}" for name, value in config.items()),
        "keep": _script(keep),
        "command": _command(options, smp, kernel.release),
    }
    if module:
        files["duet.ko"] = module
    initramfs = base_initramfs(kernel) + run_archive(files)
    with contextlib.ExitStack() as stack:
        disk = None
        if options.fs != "tmpfs" and not in_guest_mkfs:
            disk = stack.enter_context(disk_image(options.fs, size, options.disk_from))
        machine = Machine(
            vmlinux=kernel.vmlinux,
            initramfs=initramfs,
            accel=accel,
            smp=smp,
            mem=mem,
            icount=options.icount,
            parallel=options.parallel,
            append=" ".join(filter(None, append)),
            verbose=options.verbose,
            disk=disk,
            disk_rate=options.disk_rate,
            share=options.share,
            terminal=options.terminal,
        )
        say(f"booting {kernel.release} ({accel}{', icount' if options.icount else ''}, {smp} CPU)")
        return _Session(machine, options).run()


def _smp(options: Options) -> int:
    """The number of processors."""
    if options.icount:
        if options.smp is not None and options.smp > 1:
            raise UsageError("--icount counts one processor's instructions: use --smp 1")
        return 1
    return options.smp or min(2, os.cpu_count() or 1)


def _script(lines: Iterator[str] | list[str]) -> bytes:
    """Lines for the guest's shell, file names that are no text included."""
    return os.fsencode("".join(f"{line}\n" for line in lines))


def _command(options: Options, smp: int, release: str) -> bytes:
    """The script that becomes COMMAND."""
    path = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    if (PROJECT / ".venv/bin").is_dir():
        path.insert(0, str(PROJECT / ".venv/bin"))
    # Where there is no virtual environment: the Python that runs the lab.
    path.append(os.path.dirname(os.path.realpath(sys.executable)))
    env = {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "USER": "root",
        "LOGNAME": "root",
        "SHELL": "/bin/bash",
        "PATH": ":".join(path),
        "PYTHONPATH": str(PROJECT),
        "DUET_LAB": "1",
        "DUET_LAB_KERNEL": options.series.name,
        "DUET_LAB_RELEASE": release,
        "DUET_LAB_FS": options.fs,
        "DUET_LAB_SMP": str(smp),
    }
    if options.terminal:
        # Not LINES and COLUMNS: they would outvote the terminal's own size when it changes.
        env["TERM"] = os.environ.get("TERM") or "xterm"
    env |= options.env
    words = ["exec", "/usr/bin/env", "-i", *(f"{name}={value}" for name, value in env.items())]
    return _script([shlex.join(["cd", str(PROJECT)]), shlex.join([*words, *options.command])])


class _Writer:
    """Writes to one of the lab's outputs from a thread of its own.

    The guest waits for the lab with interrupts off; so the lab always reads at once, however
    slow whoever reads from the lab is.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._pending = 0
        self._written = 0
        self.broken = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        """Queue data."""
        self._pending += len(data)
        self._queue.put(data)

    @property
    def full(self) -> bool:
        """Whether so much is queued that the guest has to wait after all."""
        return self._pending - self._written > _QUEUE_LIMIT

    def finish(self) -> None:
        """Wait until all is written."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (data := self._queue.get()) is not None:
            view = memoryview(data)
            while view and not self.broken:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except BlockingIOError:
                    time.sleep(0.01)
                except OSError:
                    self.broken = True
            self._written += len(data)


class _Session:
    """The guest's life."""

    def __init__(self, machine: Machine, options: Options) -> None:
        self._machine = machine
        self._options = options
        self._console = Console(show=options.verbose)
        self._status: int | None = None
        self._notes: list[str] = []
        self._failed: str | None = None
        self._guest_ended = False
        self._escaped = False
        self._broken = False
        self._held: set[str] = set()
        self._closed: set[str] = set()
        self._control = b""
        self._begin = time.monotonic()

    def run(self) -> int:
        """From start to verdict."""
        writers = {name: _Writer(2 if name == "stderr" else 1) for name in _OUTPUTS}
        with self._machine.running() as process:
            timed_out = self._watch(writers)
            if process.stdout is not None and self._status is None and not timed_out:
                words = b""
                with contextlib.suppress(Exception):
                    process.wait(timeout=1)
                    words = process.stdout.read()
                if process.poll() not in (None, 0) and words.strip():
                    raise LabError("QEMU failed:\n" + words.decode(errors="replace").strip())
        # Whoever reads the lab's output may take their time; the machine is gone by now.
        for writer in writers.values():
            writer.finish()
        self._broken = writers["stdout"].broken or writers["terminal"].broken
        return self._verdict(timed_out=timed_out)

    def _watch(self, writers: dict[str, _Writer]) -> bool:
        """Carry the guest's output until it ends; whether the time ran out."""
        timeout = self._options.timeout
        deadline = None if timeout is None else self._begin + timeout
        resized = _on_resize(wanted=self._options.terminal)
        timed_out = False
        with (
            selectors.DefaultSelector() as selector,
            contextlib.ExitStack() as stack,
        ):
            for name, port in self._machine.ports.items():
                port.settimeout(0)
                selector.register(port, selectors.EVENT_READ, name)
            keyboard: int | None = None
            if self._options.terminal:
                keyboard = stack.enter_context(terminal.raw_keyboard())
                if keyboard is not None:
                    selector.register(keyboard, selectors.EVENT_READ, "keyboard")
                selector.register(resized, selectors.EVENT_READ, "resize")
            end_by: float | None = None
            while True:
                now = time.monotonic()
                if deadline is not None and now > deadline:
                    timed_out = True
                    break
                if self._guest_ended:
                    # All that matters was sent; the mark in the kernel's log comes last.
                    end_by = end_by or now + 15
                    if self._console.ended or now > end_by:
                        break
                if self._escaped or self._console.cannot_start:
                    break
                if writers["stdout"].broken or writers["terminal"].broken:
                    break
                self._hold_back(writers, selector)
                gone = False
                for key, _ in selector.select(0.25):
                    if not self._event(key, writers, selector):
                        gone = gone or key.data == "console"
                if gone:
                    break  # QEMU ended
            self._rest(writers)
        self._console.close()
        return timed_out

    def _hold_back(self, writers: dict[str, _Writer], selector: selectors.BaseSelector) -> None:
        """Read no line whose output is not taken."""
        for name, writer in writers.items():
            port = self._machine.ports.get(name)
            if port is None or name in self._closed:
                continue
            if writer.full != (name in self._held):
                if writer.full:
                    selector.unregister(port)
                    self._held.add(name)
                else:
                    selector.register(port, selectors.EVENT_READ, name)
                    self._held.discard(name)

    def _event(
        self,
        key: selectors.SelectorKey,
        writers: dict[str, _Writer],
        selector: selectors.BaseSelector,
    ) -> bool:
        """Take what came on one line; False when the line is closed."""
        if key.data == "keyboard":
            data = os.read(key.fd, 4096)
            if _ESCAPE in data:
                self._escaped = True
            elif data:
                self._send("terminal", data)
            else:
                selector.unregister(key.fileobj)
            return True
        if key.data == "resize":
            os.read(key.fd, 4096)
            self._send("control", "winsize {} {}\n".format(*terminal.size()).encode())
            return True
        port = self._machine.ports[key.data]
        try:
            data = port.recv(1 << 18)
        except BlockingIOError:
            return True
        except ConnectionError:
            data = b""
        if not data:
            selector.unregister(port)
            self._closed.add(key.data)
            return False
        self._take(key.data, data, writers)
        return True

    def _take(self, name: str, data: bytes, writers: dict[str, _Writer]) -> None:
        """Data of one line."""
        if name == "console":
            self._console.feed(data)
        elif name == "control":
            *lines, self._control = (self._control + data).split(b"\n")
            for line in lines:
                self._word(line.decode(errors="replace"))
        else:
            writers[name].put(data)

    def _word(self, line: str) -> None:
        """One line of the guest's init."""
        verb, _, rest = line.partition(" ")
        if verb == "status":
            self._status = int(rest)
        elif verb == "failed":
            self._failed = rest
        elif verb == "trouble":
            self._notes.append(rest)
        elif verb == "running":
            self._progress(f"running after {time.monotonic() - self._begin:.1f} s")
        elif verb == "end":
            self._guest_ended = True

    def _progress(self, text: str) -> None:
        """A word between; the terminal is raw by then."""
        if not self._options.terminal:
            say(text)

    def _rest(self, writers: dict[str, _Writer]) -> None:
        """What still lies in the lines."""
        for name, port in self._machine.ports.items():
            with contextlib.suppress(OSError):
                while data := port.recv(1 << 18):
                    self._take(name, data, writers)

    def _send(self, name: str, data: bytes) -> None:
        """Send to the guest; what it does not take in time is lost, as on any serial line."""
        port = self._machine.ports[name]
        port.settimeout(2)
        with contextlib.suppress(OSError):
            port.sendall(data)
        port.settimeout(0)

    def _verdict(self, *, timed_out: bool) -> int:
        """Show what is to be shown, and the exit status."""
        console = self._console
        trouble = bool(console.trouble or self._notes)
        if console.trouble:
            complain(f"the kernel complained:\n{console.report()}")
        for note in self._notes:
            complain(note)
        if timed_out:
            complain(
                f"time ran out after {self._options.timeout:g} s (--timeout); "
                f"the kernel's last words:\n{console.tail()}"
            )
            return EXIT_TIMEOUT
        if self._failed is not None or console.cannot_start:
            if trouble:
                return EXIT_TROUBLE
            raise LabError(
                f"the guest: {self._failed or console.cannot_start}; the kernel's last words:\n"
                + console.tail()
            )
        if self._broken:
            return 128 + signal.SIGPIPE
        if self._escaped:
            complain("ended by Ctrl-]")
            return self._status if self._status is not None else 130
        if not self._guest_ended:
            if trouble:
                # A panic comes before COMMAND's status, or after it.
                return self._status or EXIT_TROUBLE
            if self._status is None:
                raise LabError(
                    "the guest ended before COMMAND did; the kernel's last words:\n"
                    + console.tail()
                )
        if not console.ended and not trouble:
            complain(f"the kernel's log did not end as it should; its end:\n{console.tail()}")
            trouble = True
        if trouble:
            return self._status or EXIT_TROUBLE
        return self._status or 0


def _on_resize(*, wanted: bool) -> socket.socket:
    """A descriptor that becomes readable whenever the terminal changes its size."""
    ours, theirs = socket.socketpair()
    ours.settimeout(0)
    theirs.settimeout(0)
    if wanted:

        def tell(_signal: int, _frame: object) -> None:
            with contextlib.suppress(OSError):
                theirs.send(b"w")

        signal.signal(signal.SIGWINCH, tell)
    return ours
