# SPDX-License-Identifier: MIT
"""duet doctor where there is no module, and its checks on trees of files that play a machine."""

import gzip
import json
import lzma
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import schema

from pyduet import __version__
from pyduet.admin.diagnosis import Finding, Verdict, diagnose, is_healthy
from pyduet.admin.machine import SOURCE as DRIVER

RELEASE = "6.12.30+deb12-amd64"
CHECKS = [
    "kernel", "installed", "loaded", "signature", "device",
    "access", "on", "hooks", "drops", "udev", "config", "setup",
]  # fmt: skip
OK, WARNING, BAD, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.BAD, Verdict.UNKNOWN

SYSFS = "/sys/class/misc/duet"
MODULES = f"/lib/modules/{RELEASE}"
INSTALLED = f"{MODULES}/updates/duet.ko"
LOCKDOWN = "/sys/kernel/security/lockdown"
SECURITYFS = "/sys/kernel/security/lsm"
ENFORCE = "/sys/module/module/parameters/sig_enforce"
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
FTRACE = "/proc/sys/kernel/ftrace_enabled"
SYSTEMCTL = "/usr/bin/systemctl"
CONFIG = "/etc/duet/duet.toml"
LOCKED = "none [integrity] confidentiality\n"

MODULE = b"\x7fELF\0license=GPL\0srcversion=AB12\0depends=\0vermagic=%s SMP\0\0" % RELEASE.encode()
SIGNED = MODULE + b"\x01\x02~Module signature appended~\n"


def systemctl(load: str, active: str, *others: str) -> str:
    """A program that says of a unit what systemctl would."""
    lines = [f"LoadState={load}", f"ActiveState={active}", *others]
    return "#!/bin/sh\n" + "".join(f"echo {line}\n" for line in lines)


#: A machine on which all is well.
HEALTHY: dict[str, str | bytes] = {
    "/proc/sys/kernel/osrelease": f"{RELEASE}\n",
    "/proc/sys/kernel/arch": "x86_64\n",
    "/proc/sys/kernel/tainted": "12288\n",
    FTRACE: "1\n",
    "/proc/sys/vm/min_free_kbytes": "1000\n",
    f"{MODULES}/modules.dep": "kernel/fs/f.ko:\nupdates/duet.ko: kernel/fs/f.ko\n",
    f"{MODULES}/build": "",
    INSTALLED: MODULE,
    "/sys/module/duet/srcversion": "AB12\n",
    "/sys/module/duet/version": "0.1.0\n",
    "/sys/module/duet/taint": "OE\n",
    LOCKDOWN: "[none] integrity confidentiality\n",
    SECURITYFS: "lockdown\n",
    ENFORCE: "N\n",
    f"{SYSFS}/dev": "1:3\n",
    f"{SYSFS}/enabled": "1\n",
    f"{SYSFS}/tasks": "2\n",
    f"{SYSFS}/max_tasks": "8\n",
    f"{SYSFS}/limit_bytes": "3000\n",
    f"{SYSFS}/task_limit_bytes": "400\n",
    **{f"{SYSFS}/drops/{name}": "0\n" for name in ("limit", "task_limit", "nomem")},
    **{f"{SYSFS}/hooks/{name}": "alive\n" for name in ("added", "removed", "dirtied")},
    **{f"{SYSFS}/hooks/{name}": "detached\n" for name in ("flushed", "evicted")},
    "/etc/udev/rules.d/60-duet.rules": 'KERNEL=="duet", MODE="0660"\n',
    CONFIG: "[duet]\nmax_tasks = 8\n",
    "/run/systemd/system/anything": "",
    SYSTEMCTL: systemctl("loaded", "active", "ReloadResult=success"),
}


def machine(root: Path, changes: dict[str, str | bytes | None]) -> Path:
    """Make the files of a healthy machine with some changed, None for those that are not there."""
    for name, content in {**HEALTHY, **changes}.items():
        path = root / name[1:]
        if content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if (program := root / SYSTEMCTL[1:]).exists():
        program.chmod(0o755)
    node = root / "dev/duet"
    if "/dev/duet" not in changes:
        node.parent.mkdir(exist_ok=True)
        node.symlink_to("/dev/null")
    return root


def findings(root: Path, device: str = "/dev/duet") -> dict[str, Finding]:
    found = diagnose(device, root=root, source=root / "driver")
    assert [finding.name for finding in found] == CHECKS
    return {finding.name: finding for finding in found}


NOT_LOADED: dict[str, str | bytes | None] = {
    name: None for name in HEALTHY if "duet" in name and name.startswith("/sys")
}
NOT_INSTALLED: dict[str, str | bytes | None] = {INSTALLED: None, f"{MODULES}/modules.dep": ""}
FOR_DKMS: dict[str, str | bytes | None] = {f"/usr/src/duet-{__version__}/dkms.conf": ""}
BUILT: dict[str, str | bytes | None] = {"/driver/duet.ko": MODULE, "/driver/Kbuild": ""}


def test_all_is_well(tmp_path: Path) -> None:
    """But that everybody may open the null device, which plays the device's part."""
    found = findings(machine(tmp_path, {}))
    bad = {name: finding for name, finding in found.items() if finding.verdict is not OK}
    assert set(bad) == {"device"}
    assert (bad["device"].verdict, bad["device"].remedy) == (WARNING, "chmod o= /dev/duet")
    assert is_healthy(list(found.values()))
    assert all(not finding.remedy for finding in found.values() if finding.verdict is OK)
    assert found["on"].found == "on, 2 of 8 tasks in use"
    assert found["hooks"].found == "alive: added, removed, dirtied; detached: flushed, evicted"


Changes = dict[str, str | bytes | None]
DEBIAN = "apt install linux-image-amd64"
INSTALL = "make -C {root}/driver modules_install && depmod"
MOK = "/var/lib/dkms/mok"
SIGN = (
    f"{MODULES}/build/scripts/sign-file sha256 {MOK}.key {MOK}.pub {{file}} && depmod && "
    f"mokutil --import {MOK}.pub && reboot"
)
PROVE = "duet watch . --count 1 --timeout 0"

#: check, what is changed, verdict, a part of what is found, remedy ({root}: of the tree)
CASES: list[tuple[str, Changes, Verdict, str, str]] = [
    ("kernel", {"/proc/sys/kernel/osrelease": "6.1.0-45-amd64"}, OK, "6.1.0", ""),
    ("kernel", {"/proc/sys/kernel/osrelease": "6.8.1"}, OK, "6.8.1", ""),
    ("kernel", {"/proc/sys/kernel/osrelease": "6.13.0"}, WARNING, "6.13.0 on x86_64 is", DEBIAN),
    ("kernel", {"/proc/sys/kernel/osrelease": "6.0.19"}, WARNING, "not proved", DEBIAN),
    ("kernel", {"/proc/sys/kernel/osrelease": "7.0.0"}, WARNING, "not proved", DEBIAN),
    ("kernel", {"/proc/sys/kernel/osrelease": "strange"}, WARNING, "strange", DEBIAN),
    ("kernel", {"/proc/sys/kernel/arch": "aarch64"}, WARNING, "on aarch64 is not proved", ""),
    ("kernel", {"/sys/kernel/realtime": "1\n"}, BAD, "real-time", DEBIAN),
    ("installed", {}, OK, INSTALLED, ""),
    ("installed", {f"{MODULES}/modules.dep": ""}, WARNING, "modprobe does not know", "depmod"),
    ("installed", NOT_LOADED | {f"{MODULES}/modules.dep": "a/xduet.ko:"}, BAD, "modp", "depmod"),
    ("installed", NOT_INSTALLED | BUILT, WARNING, "gone after the next boot", INSTALL),
    ("installed", NOT_LOADED | NOT_INSTALLED | BUILT, WARNING, "built in", INSTALL),
    (
        "installed", NOT_LOADED | {INSTALLED: None, "/driver/Kbuild": ""}, BAD,
        f"no duet.ko for this kernel below {{root}}{MODULES}",
        f"make -C {{root}}/driver && {INSTALL}",
    ),
    (
        "installed",
        NOT_LOADED | NOT_INSTALLED | {f"{MODULES}/build": None} | BUILT
        | {"/driver/duet.ko": MODULE.replace(b"=6.12", b"=6.11")},
        BAD, "no duet.ko",
        f"apt install linux-headers-{RELEASE} && make -C {{root}}/driver && {INSTALL}",
    ),
    (
        "installed", NOT_LOADED | NOT_INSTALLED | {f"{MODULES}/build": None} | FOR_DKMS,
        BAD, "no duet.ko", f"apt install linux-headers-{RELEASE} && dkms autoinstall",
    ),
    ("installed", NOT_INSTALLED | FOR_DKMS, WARNING, "gone after", "dkms autoinstall"),
    (
        "installed", NOT_LOADED | NOT_INSTALLED, BAD, "no duet.ko",
        "make -C driver && make -C driver modules_install && depmod",
    ),
    ("loaded", {}, OK, "version 0.1.0, sources AB12", ""),
    (
        "loaded", {"/sys/module/duet/srcversion": "CD34"}, WARNING, "from other sources (CD34)",
        "rmmod duet && modprobe duet",
    ),
    ("loaded", NOT_LOADED, BAD, "not loaded", "modprobe duet"),
    ("loaded", NOT_LOADED | BUILT, BAD, "not loaded", "modprobe duet"),
    (
        "loaded", NOT_LOADED | NOT_INSTALLED | BUILT, BAD, "not loaded",
        "insmod {root}/driver/duet.ko",
    ),
    ("loaded", NOT_LOADED | {"/proc/sys/kernel/modules_disabled": "1"}, BAD, "forbids", "reboot"),
    ("loaded", NOT_LOADED | {ENFORCE: None}, BAD, "/sys is not mounted", "mount -t sysfs sys /sys"),
    ("signature", {}, OK, "unsigned modules can be loaded; ", ""),
    ("signature", {}, OK, "/duet.ko is not signed; the module taints the kernel (OE)", ""),
    ("signature", NOT_LOADED, OK, "tainted by modules (O, out of tree; E, unsigned)", ""),
    (
        "signature", NOT_LOADED | {LOCKDOWN: LOCKED, f"{MOK}.key": ""}, BAD,
        "lockdown is integrity: only signed", SIGN.format(file=f"{{root}}{INSTALLED}"),
    ),
    (
        "signature", {ENFORCE: "Y", f"{MOK}.key": ""}, WARNING,
        "module.sig_enforce is set: only signed", SIGN.format(file=f"{{root}}{INSTALLED}"),
    ),
    (
        "signature",
        NOT_LOADED | NOT_INSTALLED | BUILT | {ENFORCE: "Y", f"{MOK}.key": ""}, BAD,
        "driver/duet.ko is not signed", SIGN.format(file="{root}/driver/duet.ko"),
    ),
    ("signature", NOT_LOADED | {LOCKDOWN: LOCKED, INSTALLED: SIGNED}, UNKNOWN, "ko is signed", ""),
    ("signature", {LOCKDOWN: LOCKED, INSTALLED: SIGNED}, OK, "duet.ko is signed", ""),
    ("signature", NOT_LOADED | NOT_INSTALLED | {LOCKDOWN: LOCKED}, UNKNOWN, "only signed", ""),
    ("signature", NOT_INSTALLED | {LOCKDOWN: LOCKED}, OK, "only signed", ""),
    (
        "signature", NOT_LOADED | {LOCKDOWN: None, SECURITYFS: None}, OK,
        "unsigned modules can be loaded", "",
    ),
    (
        "signature", {LOCKDOWN: None, SECURITYFS: None, "/sys/kernel/security/x": ""}, OK,
        "let the module in", "",
    ),
    ("signature", NOT_LOADED | {LOCKDOWN: None}, OK, "unsigned modules can be loaded", ""),
    (
        "signature", NOT_LOADED | {LOCKDOWN: None, SECURITYFS: None, "/sys/kernel/security/x": ""},
        UNKNOWN, "cannot be seen", "mount -t securityfs securityfs /sys/kernel/security",
    ),
    (
        "signature",
        NOT_LOADED | {
            LOCKDOWN: None, SECURITYFS: None, "/sys/kernel/security/x": "",
            SECURE_BOOT: b"\6\0\0\0\1", INSTALLED: SIGNED,
        },
        UNKNOWN, "Secure Boot is on: only signed modules", "",
    ),
    ("signature", NOT_LOADED | {SECURE_BOOT: b"\6\0\0\0\1"}, OK, "unsigned modules can", ""),
    (
        "signature", NOT_LOADED | {LOCKDOWN: LOCKED, SECURE_BOOT: b"\6\0\0\0\1", f"{MOK}.key": ""},
        BAD, "lockdown is integrity, Secure Boot is on", SIGN.format(file=f"{{root}}{INSTALLED}"),
    ),
    ("device", {}, WARNING, "is 1:3, root:root, mode 0666: everybody", "chmod o= /dev/duet"),
    ("device", {f"{SYSFS}/dev": None}, BAD, f"no {SYSFS}", "dmesg"),
    (
        "device", {"/dev/duet": None}, BAD, "/dev/duet: No such file",
        "mknod -m 0600 /dev/duet c 1 3",
    ),
    (
        "device", {"/dev/duet": "text"}, BAD, "no character device",
        "rm -r /dev/duet && mknod -m 0600 /dev/duet c 1 3",
    ),
    (
        "device", {f"{SYSFS}/dev": "10:260"}, BAD, "is 1:3, and Duet's device is 10:260",
        "rm /dev/duet && mknod -m 0600 /dev/duet c 10 260",
    ),
    ("device", NOT_LOADED, UNKNOWN, "not loaded", ""),
    ("access", {}, OK, " may open /dev/duet", ""),
    ("access", {"/dev/duet": None}, UNKNOWN, "no device", ""),
    ("access", {f"{SYSFS}/dev": "10:260"}, UNKNOWN, "no device", ""),
    ("access", NOT_LOADED, UNKNOWN, "not loaded", ""),
    ("on", {f"{SYSFS}/enabled": "0"}, WARNING, "off, for up to 8 tasks", "duet start"),
    (
        "on", {f"{SYSFS}/tasks": "8"}, WARNING, "all 8 tasks in use",
        "duet stop && duet start -n 16",
    ),
    (
        "on", {f"{SYSFS}/tasks": "200", f"{SYSFS}/max_tasks": "200"}, WARNING, "all 200",
        "duet stop && duet start -n 255",
    ),
    (
        "on", {f"{SYSFS}/tasks": "255", f"{SYSFS}/max_tasks": "255"}, WARNING, "no more possible",
        "duet list",
    ),
    ("on", {f"{SYSFS}/tasks": "many"}, UNKNOWN, "cannot be read", ""),
    ("on", NOT_LOADED, UNKNOWN, "not loaded", ""),
    ("hooks", {f"{SYSFS}/hooks/removed": "missing"}, BAD, "missing: removed", DEBIAN),
    ("hooks", {f"{SYSFS}/hooks/dirtied": "silent"}, BAD, "silent: dirtied", PROVE),
    (
        "hooks", {f"{SYSFS}/hooks/flushed": "silent", FTRACE: "0"}, BAD,
        "silent: flushed", f"echo 1 >{FTRACE} && {PROVE}",
    ),
    ("hooks", {FTRACE: "0"}, BAD, "no task can be registered", f"echo 1 >{FTRACE}"),
    ("hooks", {f"{SYSFS}/hooks/flushed": None}, UNKNOWN, "unreadable: flushed", ""),
    ("hooks", {f"{SYSFS}/hooks/flushed": "sleepy"}, UNKNOWN, "sleepy: flushed", ""),
    ("hooks", NOT_LOADED, UNKNOWN, "not loaded", ""),
    ("drops", {}, OK, "none", ""),
    (
        "drops", {f"{SYSFS}/drops/limit": "7"}, WARNING, "7 (limit)",
        f"echo 6000 >{SYSFS}/limit_bytes",
    ),
    (
        "drops", {f"{SYSFS}/drops/task_limit": "1", f"{SYSFS}/drops/nomem": "2"}, WARNING,
        "1 (task_limit), 2 (nomem)",
        f"echo 800 >{SYSFS}/task_limit_bytes && echo 2000 >/proc/sys/vm/min_free_kbytes",
    ),
    ("drops", {f"{SYSFS}/drops/nomem": None}, UNKNOWN, "only root may know", "sudo duet doctor"),
    ("drops", NOT_LOADED, UNKNOWN, "not loaded", ""),
    ("udev", {}, OK, "/etc/udev/rules.d/60-duet.rules", ""),
    ("config", {}, OK, f"{{root}}{CONFIG}: on, for up to 8 tasks", ""),
    ("config", {CONFIG: "[duet]\non = false\n"}, OK, "off, for up to 8 tasks", ""),
    ("config", {CONFIG: None}, OK, f"there is no {{root}}{CONFIG}, so by default: on", ""),
    ("config", {CONFIG: None, f"{CONFIG}.d/1.toml": ""}, OK, f"{{root}}{CONFIG}.d/1.toml: on", ""),
    (
        "config", {CONFIG: "[duet]\nmax_tasks = 0\n"}, BAD,
        f"{{root}}{CONFIG}: [duet] max_tasks = 0 is out of range; give ",
        f"${{{{EDITOR:-vi}}}} {{root}}{CONFIG} && duet setup",
    ),
    (
        "config", {f"{CONFIG}.d/1.toml": "[duet"}, BAD, f"{{root}}{CONFIG}.d/1.toml: this is no",
        f"${{{{EDITOR:-vi}}}} {{root}}{CONFIG}.d/1.toml && duet setup",
    ),
    (
        "config", {CONFIG: None, f"{CONFIG}/file": ""}, BAD, f"{{root}}{CONFIG}: Is a directory",
        f"ls -ld {{root}}{CONFIG}",
    ),
    (
        "config", {f"{CONFIG}.d": ""}, BAD, f"{{root}}{CONFIG}.d: Not a directory",
        f"ls -ld {{root}}{CONFIG}.d",
    ),
    ("setup", {}, OK, "duet-setup.service is active", ""),
    ("setup", {SYSTEMCTL: systemctl("loaded", "active")}, OK, "is active", ""),
    ("setup", {SYSTEMCTL: systemctl("loaded", "activating")}, OK, "is activating", ""),
    (
        "setup", {SYSTEMCTL: systemctl("loaded", "active", "ReloadResult=exit-code")}, WARNING,
        "when it was reloaded; journalctl -b -u", "systemctl reload duet-setup.service",
    ),
    (
        "setup", {SYSTEMCTL: systemctl("loaded", "failed")}, BAD,
        "has failed; journalctl -b -u duet-setup.service says why",
        "systemctl restart duet-setup.service",
    ),
    (
        "setup", {SYSTEMCTL: systemctl("loaded", "inactive")}, WARNING,
        "has not run since the module was loaded", "systemctl start duet-setup.service",
    ),
    (
        "setup", NOT_LOADED | {SYSTEMCTL: systemctl("loaded", "inactive")}, OK, "is inactive", "",
    ),
    (
        "setup", {SYSTEMCTL: systemctl("not-found", "inactive")}, WARNING,
        "there is no duet-setup.service", "duet setup",
    ),
    ("setup", {SYSTEMCTL: "#!/bin/sh\nexit 1\n"}, UNKNOWN, "systemd does not tell", ""),
    ("setup", {SYSTEMCTL: "#!/bin/sh\n"}, UNKNOWN, "systemd does not tell", ""),
    ("setup", {SYSTEMCTL: None}, UNKNOWN, "systemd does not tell", ""),
    (
        "setup", {"/run/systemd/system/anything": None}, WARNING, "no systemd runs here",
        "duet setup",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "changes", "verdict", "found", "remedy"),
    CASES,
    ids=[f"{case[0]}-{case[2]}-{number}" for number, case in enumerate(CASES)],
)
def test_check(
    check: str, changes: Changes, verdict: Verdict, found: str, remedy: str, tmp_path: Path
) -> None:
    finding = findings(machine(tmp_path, changes))[check]
    assert finding.verdict is verdict, finding
    assert found.format(root=tmp_path) in finding.found
    assert finding.remedy == remedy.format(root=tmp_path)


@pytest.mark.parametrize("path", [f"{MODULES}/extra/duet.ko", f"{MODULES}/updates/dkms/duet.ko.xz"])
def test_where_the_module_is_looked_for(tmp_path: Path, path: str) -> None:
    """Where installations put it, and where modprobe's index says it is."""
    module = lzma.compress(MODULE) if path.endswith("xz") else MODULE
    changes: Changes = {INSTALLED: None, f"{MODULES}/modules.dep": "", path: module}
    root = machine(tmp_path, changes)
    assert findings(root)["installed"].remedy == "depmod"
    index = root / MODULES[1:] / "modules.dep"
    index.write_text(f"{path.removeprefix(MODULES + '/')}:\n")
    assert findings(root)["installed"] == Finding("installed", OK, f"{tmp_path}{path}")


@pytest.mark.parametrize(
    ("suffix", "pack", "unpack"),
    [(".xz", lzma.compress, "unxz {} && "), (".gz", gzip.compress, "gunzip {} && ")],
)
def test_a_compressed_module(tmp_path: Path, suffix: str, pack: object, unpack: str) -> None:
    """Its signature is inside, and it has to be unpacked to be signed."""
    assert callable(pack)
    index = {f"{MODULES}/modules.dep": f"updates/duet.ko{suffix}:\n", INSTALLED: None}
    changes = NOT_LOADED | index | {LOCKDOWN: LOCKED, f"{MOK}.key": ""}
    root = machine(tmp_path, {**changes, f"{INSTALLED}{suffix}": pack(MODULE)})
    bad = findings(root)["signature"]
    file = f"{tmp_path}{INSTALLED}"
    assert (bad.verdict, bad.remedy) == (
        BAD, unpack.format(file + suffix) + SIGN.format(file=file),
    )  # fmt: skip
    packed = root / f"{INSTALLED}{suffix}"[1:]
    for content, found in (
        (pack(SIGNED), "is signed"),
        (pack(SIGNED)[:-20], "cannot be read"),
        (b"no such thing", "cannot be read"),
    ):
        packed.write_bytes(content)
        assert f"{packed} {found}" in findings(root)["signature"].found


def test_a_compression_that_cannot_be_read(tmp_path: Path) -> None:
    """It is there, but whether it is signed is not known."""
    changes: Changes = {
        INSTALLED: None,
        f"{INSTALLED}.zst": b"(\xb5/\xfd",
        f"{MODULES}/modules.dep": "updates/duet.ko.zst:",
        LOCKDOWN: LOCKED,
    }
    found = findings(machine(tmp_path, NOT_LOADED | changes))
    assert found["installed"].verdict is OK
    assert found["signature"].verdict is UNKNOWN
    assert "duet.ko.zst cannot be read" in found["signature"].found


def test_a_key_is_made_when_there_is_none(tmp_path: Path) -> None:
    found = findings(machine(tmp_path, NOT_LOADED | {LOCKDOWN: LOCKED}))["signature"]
    make, sign = found.remedy.split(" && ")[:2]
    assert make.startswith("openssl req ")
    assert make.endswith("-keyout /root/MOK.priv -out /root/MOK.der")
    assert "sha256 /root/MOK.priv /root/MOK.der" in sign


def test_another_path_is_never_removed(tmp_path: Path) -> None:
    """What --device names may be anything."""
    root = machine(tmp_path, {f"{SYSFS}/dev": "10:260", "/dev/file": "text"})
    for device in ("/dev/duet", "/dev/file", "/dev/none", "/dev/duet/below"):
        wrong = findings(root, device)["device"]
        assert wrong.verdict is BAD
        assert (wrong.remedy == "duet doctor") == (device != "/dev/duet"), wrong


@pytest.mark.parametrize("directory", ["etc", "run", "usr/local/lib", "usr/lib", "lib"])
def test_udev_rules(tmp_path: Path, directory: str) -> None:
    """In each place where udev looks; what is no rule about Duet does not count."""
    root = machine(tmp_path, {"/etc/udev/rules.d/60-duet.rules": None})
    rules = root / directory / "udev/rules.d"
    rules.mkdir(parents=True)
    for name, text in (
        ("50-other.rules", 'KERNEL=="duette"\n# KERNEL=="duet" is not meant\n'),
        ("61-duet-task.rules", 'ENV{ID_FS_LABEL}=="duet", ENV{SYSTEMD_WANTS}+="duet-task@x"\n'),
        ("60-duet.rules.bak", 'KERNEL=="duet"\n'),
    ):
        (rules / name).write_text(text)
        wrong = findings(root)["udev"]
        assert (wrong.verdict, wrong.found.split()[0]) == (WARNING, "no")
        assert "60-duet.rules" in wrong.remedy
        assert wrong.remedy.endswith("udevadm trigger /sys/class/misc/duet")
    (rules / "70-mine.rules").write_text('# mine\nKERNEL=="duet", GROUP="x"\n')
    fine = findings(root)["udev"]
    assert fine == Finding("udev", OK, f"/{directory}/udev/rules.d/70-mine.rules")


def test_udev_rules_that_two_names_lead_to(tmp_path: Path) -> None:
    root = machine(tmp_path, {"/etc/udev/rules.d/60-duet.rules": None})
    for path in root.glob("lib/*"):
        path.rename(root / path.name)
    (root / "lib").rmdir()
    (root / "usr/lib/udev/rules.d").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "lib/udev/rules.d/1.rules").write_text('KERNEL=="duet"\n')
    assert findings(root)["udev"].found == "/usr/lib/udev/rules.d/1.rules"


@pytest.mark.parametrize("strange", ["directory", "garbage", "empty"])
def test_strange_files_are_no_error(tmp_path: Path, strange: str) -> None:
    """Whatever stands where a file is expected, each check says something."""
    for name in HEALTHY:
        path = tmp_path / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        if strange == "directory":
            path.mkdir()
        else:
            path.write_bytes(b"\xff\0\xfe\n" if strange == "garbage" else b"")
    assert findings(tmp_path)["loaded"].verdict is OK


def test_unreadable_files_are_no_error(tmp_path: Path) -> None:
    """A machine of which nothing may be read, not even whether it is there."""
    root = machine(tmp_path, {})
    pid = os.fork()
    if not pid:  # root may read everything, so as somebody else
        code = 1
        try:
            root.chmod(0)
            if not os.geteuid():
                os.setgroups([])
                os.setuid(65534)
            found = findings(root)
            code = 0 if found["installed"].verdict is BAD else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    root.chmod(0o700)


# The command itself, on this machine

without_module = pytest.mark.skipif(
    os.path.exists("/sys/module/duet"), reason="the module is loaded"
)


def duet(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyduet", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment},
    )  # fmt: skip


@without_module
def test_the_command_without_the_module() -> None:
    done = duet("doctor")
    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    mends = [line for line in lines if line.startswith(" " * 9 + "mend: ")]
    checks = [line.split(maxsplit=2) for line in lines if line not in mends]
    assert [name for _, name, _ in checks] == CHECKS
    assert ["bad", "loaded", "not loaded"] in checks
    assert "\033" not in done.stdout
    below = lines[[line.split()[1] for line in lines].index("loaded") + 1]
    assert (
        below.split() in (["mend:", "modprobe", "duet"], ["mend:", "reboot"]) or "insmod" in below
    )


@without_module
def test_the_command_prints_json() -> None:
    done = duet("doctor", "--json")
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (1, "", 1)
    said = json.loads(done.stdout)
    schema.check("doctor", said)
    assert set(said) == {"healthy", "checks"}
    assert said["healthy"] is False
    assert [set(check) for check in said["checks"]] == [
        {"name", "verdict", "found", "remedy"}
    ] * len(CHECKS)
    assert said["checks"] == [
        {"name": f.name, "verdict": f.verdict, "found": f.found, "remedy": f.remedy}
        for f in diagnose()
    ]


@pytest.mark.parametrize("no_colour", [False, True])
def test_colours_are_for_terminals(no_colour: bool) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1" if no_colour else ""}
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        subprocess.run(
            [sys.executable, "-m", "pyduet", "doctor"],
            stdout=theirs, timeout=60, check=False, env=environment,
        )  # fmt: skip
        os.close(theirs)
        assert (b"\033[" in terminal.read(4096)) != no_colour


def test_the_drivers_source_is_in_the_checkout() -> None:
    assert (DRIVER / "uapi/duet.h").exists()
