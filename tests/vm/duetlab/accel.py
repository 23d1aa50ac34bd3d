# SPDX-License-Identifier: MIT
"""KVM or TCG: KVM only where a stock kernel was seen to boot with it."""

import os
import time
from pathlib import Path

from .console import Console
from .host import cache_dir, locked, say
from .initramfs import base_initramfs, run_archive
from .kernel import Kernel
from .machine import Machine

_PROBE = "duet-lab: kvm boots"
_PROBE_SECONDS = 15


def choose_accel(kernel: Kernel) -> str:
    """The accelerator for this kernel on this host, since the host's last boot.

    /dev/kvm may exist, open, and still never run the guest; so the answer is a short boot.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict = cache_dir() / "accel" / f"{boot}-{kernel.release}"
    if verdict.exists():
        return verdict.read_text()
    with locked(f"accel-{kernel.release}"):
        if verdict.exists():
            return verdict.read_text()
        say(f"trying KVM (at most {_PROBE_SECONDS} s, once)")
        accel = "kvm" if _kvm_boots(kernel) else "tcg"
        verdict.parent.mkdir(exist_ok=True)
        for stale in verdict.parent.glob(f"*-{kernel.release}"):
            stale.unlink()
        partial = verdict.with_suffix(".partial")
        partial.write_text(accel)
        os.replace(partial, verdict)
        return accel


def _kvm_boots(kernel: Kernel) -> bool:
    """Whether the kernel reaches its first process with KVM within the time."""
    config = f"LAB_PROBE='{_PROBE}'\n".encode()
    initramfs = base_initramfs(kernel) + run_archive({"config": config})
    machine = Machine(kernel.vmlinux, initramfs, "kvm", root=False)
    console = Console(show=False)
    deadline = time.monotonic() + _PROBE_SECONDS
    with machine.running():
        line = machine.ports["console"]
        while (left := deadline - time.monotonic()) > 0:
            line.settimeout(left)
            try:
                data = line.recv(65536)
            except TimeoutError:
                return False
            if not data:
                return False
            console.feed(data)
            if any(_PROBE in seen for seen in console.lines):
                return True
    return False
