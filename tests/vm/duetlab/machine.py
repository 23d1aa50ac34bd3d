# SPDX-License-Identifier: MIT
"""QEMU: its arguments, its process, and its lines to the lab."""

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .host import cache_dir, output_of, program

# A TCG of QEMU 7.2 returns garbage flags from cmpxchg16b, which crashes 6.12.
_TCG_CPU = "max,-cx16"

# Before this version a processor may translate code that another is patching, and keep the
# translation: a static key that is switched under load, as tracepoints are, ends in "Oops: int3".
# (QEMU: "accel/tcg: Always lock pages before translation".) One thread emulates all of them then.
_TCG_THREADS_SINCE = (8, 1)

# Emulation is slow, which is no trouble: the watchdogs of the kernel get more patience. The lab's
# marks go through /dev/kmsg, which must not be rate limited.
_APPEND = (
    "console=ttyS0 rdinit=/init panic=-1 oops=panic printk.devkmsg=on tsc=reliable "
    "rcupdate.rcu_cpu_stall_timeout=60 random.trust_cpu=on audit=0 no_timer_check "
    "cryptomgr.notests 8250.nr_uarts=1 i8042.noaux i8042.nokbd"
)

_PR_SET_PDEATHSIG = 1


def _version(qemu: str) -> tuple[int, int]:
    """Major and minor version of a QEMU."""
    words = output_of([qemu, "--version"], "asking QEMU for its version")
    found = re.search(r"version (\d+)\.(\d+)", words)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@dataclass
class Machine:
    """What to start."""

    vmlinux: Path
    initramfs: bytes
    accel: str
    smp: int = 1
    mem: int = 512
    icount: bool = False
    parallel: bool = False
    append: str = ""
    verbose: bool = False
    disk: int | None = None
    disk_rate: int | None = None
    root: bool = True
    share: Path | None = None
    terminal: bool = False
    ports: dict[str, socket.socket] = field(default_factory=dict)

    def command(self, initramfs: int, lines: dict[str, int]) -> list[str]:
        """QEMU's command line; files come as descriptors, so nothing is left lying about."""
        loglevel = "ignore_loglevel" if self.verbose else "loglevel=5"
        qemu = program("qemu-system-x86_64", "qemu-system-x86")
        command = [
            qemu,
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", "pc,usb=off,vmport=off"),
            # Without ACPI a kernel finds processors in a table with one of each package.
            *("-smp", f"{self.smp},sockets={self.smp}", "-m", f"{self.mem}M"),
            *("-kernel", str(self.vmlinux), "-initrd", f"/proc/self/fd/{initramfs}"),
            *("-append", f"{_APPEND} {loglevel} {self.append}".strip()),
        ]
        if self.accel == "kvm":
            command += ["-accel", "kvm", "-cpu", "host"]
        else:
            safe = self.parallel or _version(qemu) >= _TCG_THREADS_SINCE
            thread = "multi" if safe and not self.icount else "single"
            command += ["-accel", f"tcg,thread={thread}", "-cpu", _TCG_CPU]
        if self.icount:
            command += ["-icount", "shift=0,sleep=off"]
        for name, descriptor in lines.items():
            command += ["-chardev", f"socket,id={name},fd={descriptor}"]
        command += ["-serial", "chardev:console"]
        if "control" in lines:
            command += ["-device", "virtio-serial-pci"]
        for number, name in ((1, "stdout"), (2, "stderr"), (3, "control")):
            if name in lines:
                command += ["-device", f"virtserialport,chardev={name},nr={number}"]
        if "terminal" in lines:
            command += ["-device", "virtconsole,chardev=terminal,nr=0"]
        if self.root:
            command += _directory("root", Path("/"), ",readonly=on")
        if self.share is not None:
            command += _directory("share", self.share, "")
        if self.disk is not None:
            drive = f"if=none,id=disk,file=/proc/self/fd/{self.disk},format=raw"
            drive += ",cache=unsafe,discard=unmap,detect-zeroes=off"
            if self.disk_rate is not None:
                drive += f",throttling.bps-total={self.disk_rate << 20}"
            command += ["-drive", drive, "-device", "virtio-blk-pci,drive=disk"]
        return command

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start QEMU; it never outlives the block, nor the lab."""
        names = ["console"]
        if self.root:
            names += ["control", "terminal"] if self.terminal else ["control", "stdout", "stderr"]
        with contextlib.ExitStack() as stack:
            lines: dict[str, int] = {}
            theirs_open: list[socket.socket] = []
            for name in names:
                ours, theirs = socket.socketpair()
                self.ports[name] = stack.enter_context(ours)
                lines[name] = theirs.fileno()
                theirs_open.append(theirs)
            initramfs = stack.enter_context(temporary_file())
            with os.fdopen(os.dup(initramfs), "wb") as handle:
                handle.write(self.initramfs)
            passed = [initramfs, *lines.values()]
            if self.disk is not None:
                passed.append(self.disk)
            process = subprocess.Popen(
                self.command(initramfs, lines),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=passed,
                # The terminal's Ctrl-C is the lab's to handle.
                start_new_session=True,
                preexec_fn=tied_to(os.getpid()),
            )
            try:
                # With QEMU the only holder, its end is the end of file on ours.
                for theirs in theirs_open:
                    theirs.close()
                yield process
            finally:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


def tied_to(parent: int) -> Callable[[], None]:
    """What a new process runs first, to be killed by the kernel when its parent dies."""

    def tie() -> None:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return tie


def _directory(tag: str, path: Path, options: str) -> list[str]:
    """The arguments that export a directory of the host over 9p."""
    escaped = str(path).replace(",", ",,")
    fsdev = f"local,id={tag},path={escaped},security_model=none,multidevs=remap{options}"
    return ["-fsdev", fsdev, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


@contextlib.contextmanager
def temporary_file() -> Iterator[int]:
    """A file without a name, as a descriptor."""
    directory = cache_dir() / "tmp"
    directory.mkdir(exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as handle:
        yield handle.fileno()
