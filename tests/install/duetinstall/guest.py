# SPDX-License-Identifier: MIT
"""A machine that runs a Debian system: its disks, its kernels, and commands to it."""

import base64
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple, Self

from duetlab.console import Console
from duetlab.disk import mkfs_command
from duetlab.host import output_of, program
from duetlab.machine import tied_to

from duetinstall.image import kernels, run_inside, take_out
from duetinstall.line import Line, LineError

#: Kernel arguments; those about the emulation are the lab's (duetlab/machine.py says why).
_APPEND = (
    "root=/dev/vda rw console=ttyS0 loglevel=5 panic=-1 oops=panic tsc=reliable mitigations=off "
    "rcupdate.rcu_cpu_stall_timeout=60 random.trust_cpu=on audit=0 no_timer_check "
    "cryptomgr.notests net.ifnames=0 systemd.show_status=0"
)
_BOOT_SECONDS = 300


class Done(NamedTuple):
    """What became of a command."""

    status: int
    output: str


class Guest:
    """A system on a copy of an image, with a disk of packages; a context manager.

    Commands are run as root by the guest's own agent.
    """

    def __init__(self, image: Path, packages: Path, log: Path) -> None:
        """Prepare the disks.

        Args:
            image: is copied.
            packages: a directory with a repository of packages.
            log: where the console's lines go.

        """
        self._room = Path(tempfile.mkdtemp(prefix="duet-install-", dir=image.parent))
        self._image = self._room / "root.img"
        self._log = log
        self.console = Console(show=False)
        output_of(["cp", "--sparse=always", str(image), str(self._image)], "copying the image")
        self.make_disk("packages", packages, 64)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Return the guest, which has not booted yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it, and remove its disks."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._room)

    def make_disk(self, label: str, content: Path, size_mib: int) -> Path:
        """Make an ext4 disk with a label and what is in a directory."""
        disk = self._room / f"{label}.img"
        with disk.open("wb") as file:
            file.truncate(size_mib << 20)
        output_of([*mkfs_command("ext4", content), "-L", label, str(disk)], f"making disk {label}")
        return disk

    def inside(self, command: str) -> str:
        """Run a command in the system while the machine is off, without emulating it."""
        return run_inside(self._image, self._room / "packages.img", command)

    def boot(self, kernel: str) -> str:
        """Boot a kernel of the image, by what its release begins with; returns its release."""
        release = next(one for one in kernels(self._image) if one.startswith(kernel))
        for name in ("vmlinuz", "initrd.img"):
            take_out(self._image, f"/boot/{name}-{release}", self._room / name)
        sockets = {name: self._room / f"{name}.socket" for name in ("qmp", "agent")}
        for path in sockets.values():
            path.unlink(missing_ok=True)
        command = [
            program("qemu-system-x86_64", "qemu-system-x86"),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"),
            *("-machine", "pc,usb=off,vmport=off", "-smp", "2", "-m", "1024M"),
            *("-accel", "tcg,thread=single", "-cpu", "max,-cx16"),
            *("-kernel", str(self._room / "vmlinuz"), "-initrd", str(self._room / "initrd.img")),
            *("-append", _APPEND),
            *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
            *("-qmp", f"unix:{sockets['qmp']},server=on,wait=off"),
            *("-chardev", f"socket,id=agent,path={sockets['agent']},server=on,wait=off"),
            *("-device", "virtio-serial-pci"),
            *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        ]
        for name, disk in (("root", self._image), ("packages", self._room / "packages.img")):
            command += ["-drive", f"if=none,id={name},file={disk},format=raw,cache=unsafe"]
            command += ["-device", f"virtio-blk-pci,drive={name}"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=tied_to(os.getpid()),
        )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        self._qmp = Line(sockets["qmp"], 30)
        self._qmp.ask("qmp_capabilities")
        self._agent = self._answering(sockets["agent"])
        return release

    def _answering(self, path: Path) -> Line:
        """Return the line to the agent, as soon as that answers: then the system is up."""
        end = time.monotonic() + _BOOT_SECONDS
        while True:
            line = Line(path, 30)
            try:
                line.sync(5)
            except LineError as error:
                line.close()
                dead = self._process is None or self._process.poll() is not None
                if dead or time.monotonic() > end:
                    raise AssertionError(
                        f"the system does not come up: {error}\n{self.console.tail(40)}"
                    ) from error
            else:
                return line

    def shut_down(self) -> None:
        """Have the system shut down, and wait for its end."""
        assert self._process is not None
        self._agent.ask("guest-exec", path="systemctl", arg=["--no-block", "poweroff"])
        self._process.wait(_BOOT_SECONDS)
        self._agent.close()
        self._qmp.close()

    def run(self, command: str, seconds: float = 600) -> Done:
        """Run a command of the shell; returns its status, and its output with its errors."""
        pid = self._agent.ask(
            "guest-exec",
            path="/bin/sh",
            arg=["-c", f"exec 2>&1; {command}"],
            capture_output=True,
        )["pid"]
        end = time.monotonic() + seconds
        pause = 0.05
        while True:
            state = self._agent.ask("guest-exec-status", pid=pid)
            if state["exited"]:
                break
            if time.monotonic() > end:
                raise AssertionError(f"{command}: not done after {seconds:.0f} s")
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)
        output = base64.b64decode(state.get("out-data", "")).decode(errors="replace")
        return Done(state.get("exitcode", -state.get("signal", 1)), output)

    def do(self, command: str, seconds: float = 600) -> str:
        """Run a command that has to succeed; returns its output."""
        done = self.run(command, seconds)
        if done.status:
            journal = self.run("journalctl -b --no-pager | grep -v qemu-ga | tail -30").output
            raise AssertionError(
                f"{command}: status {done.status}\n{done.output}\n--- the journal\n{journal}"
            )
        return done.output

    def eventually(self, command: str, seconds: float = 180) -> str:
        """Run a command until it succeeds; returns its output."""
        end = time.monotonic() + seconds
        while (done := self.run(command)).status:
            if time.monotonic() > end:
                self.do(command)
            time.sleep(0.3)
        return done.output

    def plug(self, disk: Path) -> None:
        """Plug a disk in."""
        node = {"driver": "file", "filename": str(disk)}
        self._qmp.ask("blockdev-add", driver="raw", node_name="plugged", file=node)
        self._qmp.ask("device_add", driver="virtio-blk-pci", drive="plugged", id="plugged")

    def unplug(self) -> None:
        """Unplug the disk, and wait until the system has let it go."""
        self._qmp.ask("device_del", id="plugged")
        self._qmp.event("DEVICE_DELETED", 180, device="plugged")
        self._qmp.ask("blockdev-del", node_name="plugged")

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with self._log.open("ab") as log:
            while data := os.read(process.stdout.fileno(), 1 << 16):
                log.write(data)
                log.flush()
                self.console.feed(data)
