# SPDX-License-Identifier: MIT
"""What keeps Duet from working on this machine, check by check, and what mends it."""

import enum
import grp
import os
import pwd
import re
import shlex
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyduet
from pyduet._driver import abi
from pyduet.admin import config
from pyduet.admin.machine import SOURCE, SYSFS, Machine, ModuleFile
from pyduet.device import DEFAULT_DEVICE


class Verdict(enum.StrEnum):
    """What a check comes to."""

    OK = "ok"
    #: It works, but not for ever, or not for all.
    WARNING = "warning"
    #: It keeps Duet from working.
    BAD = "bad"
    #: It cannot be told: another check has to be mended first, or root has to ask.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        name: of the check, one word.
        verdict: what it comes to.
        found: what was found, for people.
        remedy: the shell command that mends it, most of them as root; empty
            when nothing is to be mended, or not by a command.

    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


class _Answer(NamedTuple):
    verdict: Verdict
    found: str
    remedy: str = ""


#: The first and the last kernel that the tests run on, and their architecture.
_OLDEST, _NEWEST, _ARCHITECTURE = (6, 1), (6, 12), "x86_64"
_OTHER_KERNEL = "apt install linux-image-amd64"

#: Bits of /proc/sys/kernel/tainted, and the letters they go by.
_TAINTS = {12: "O, out of tree", 13: "E, unsigned"}

_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
#: Where Debian's dkms, and Debian's guide to Secure Boot, keep the machine owner's key.
_OWNER_KEYS = [
    ("/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub"),
    ("/var/lib/shim-signed/mok/MOK.priv", "/var/lib/shim-signed/mok/MOK.der"),
]

_FTRACE = "/proc/sys/kernel/ftrace_enabled"
_HOOKS = ("added", "removed", "dirtied", "flushed", "evicted")
#: Registers a task that needs every hook, which has them proved.
_PROVE = "duet watch . --count 1 --timeout 0"

#: Which setting bounds what was dropped for a reason.
_LIMITS = {
    "limit": f"{SYSFS}/limit_bytes",
    "task_limit": f"{SYSFS}/task_limit_bytes",
    "nomem": "/proc/sys/vm/min_free_kbytes",
}

#: Where udev looks for rules.
_RULES = tuple(
    f"/{where}/udev/rules.d" for where in ("etc", "run", "usr/local/lib", "usr/lib", "lib")
)
_GROUP = "duet"
_RULE_FILE = "/etc/udev/rules.d/60-duet.rules"
_RULE = f'KERNEL=="duet", SUBSYSTEM=="misc", GROUP="{_GROUP}", MODE="0660"'
#: What starts tasks of Duet's when disks arrive is no rule for the device.
_ABOUT_DEVICE = re.compile(r'^[^#\n]*\bKERNEL=="duet"', re.MULTILINE)
_APPLY_RULES = f"udevadm control --reload && udevadm trigger {SYSFS}"

_SETUP = "duet-setup.service"

_NO_MODULE = _Answer(Verdict.UNKNOWN, "the module is not loaded")


def diagnose(
    device: str = DEFAULT_DEVICE, *, root: str | os.PathLike[str] = "/", source: Path = SOURCE
) -> list[Finding]:
    """Return what every check finds, in the order in which to mend it.

    Nothing is changed, no task is registered, and an unreadable file is no
    error. Who may open the device is asked for whoever runs the process.

    Args:
        device: path of the device node.
        root: the directory that the machine's files are looked for in.
        source: the driver's source, with ``duet.ko`` if it was built there.

    """
    machine = Machine(device, root, source)
    return [Finding(name, *check(machine)) for name, check in _CHECKS.items()]


def is_healthy(findings: list[Finding]) -> bool:
    """Return whether nothing keeps Duet from working, as far as can be told."""
    return all(finding.verdict is not Verdict.BAD for finding in findings)


# The kernel and the module


def _kernel(machine: Machine) -> _Answer:
    architecture = machine.text("/proc/sys/kernel/arch") or os.uname().machine
    what = f"Linux {machine.release} on {architecture}"
    if machine.text("/sys/kernel/realtime") == "1":
        return _Answer(Verdict.BAD, f"{what} is real-time, which Duet is not for", _OTHER_KERNEL)
    numbers = re.match(r"(\d+)\.(\d+)", machine.release)
    version = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if architecture == _ARCHITECTURE and _OLDEST <= version <= _NEWEST:
        return _Answer(Verdict.OK, what)
    return _Answer(
        Verdict.WARNING,
        f"{what} is not proved: the tests run on Debian's 6.1 and 6.12 on {_ARCHITECTURE}",
        _OTHER_KERNEL if architecture == _ARCHITECTURE else "",
    )


def _installed(machine: Machine) -> _Answer:
    if machine.indexed:
        return _Answer(Verdict.OK, str(machine.indexed.path))
    verdict = Verdict.WARNING if machine.is_loaded or machine.built else Verdict.BAD
    if machine.installed:
        return _Answer(verdict, f"modprobe does not know {machine.installed.path}", "depmod")
    if machine.is_loaded:
        found = "loaded, but not installed for this kernel: gone after the next boot"
    elif machine.built:
        found = f"built in {machine.source}, but not installed for this kernel"
    else:
        found = f"there is no duet.ko for this kernel below {machine.at(machine.modules)}"
    return _Answer(verdict, found, _install(machine))


def _install(machine: Machine) -> str:
    steps = []
    headers = machine.exists(f"{machine.modules}/build")
    if not headers and not machine.built:
        steps.append(f"apt install linux-headers-{machine.release}")
    if machine.exists(f"/usr/src/duet-{pyduet.__version__}/dkms.conf"):
        return " && ".join([*steps, "dkms autoinstall"])
    if not machine.built:
        steps.append(f"make -C {_driver(machine)}")
    return " && ".join([*steps, f"make -C {_driver(machine)} modules_install", "depmod"])


def _driver(machine: Machine) -> str:
    """Return the driver's source for a command: the checkout's, or what README.md calls it."""
    here = os.path.exists(machine.source / "Kbuild")
    return shlex.quote(str(machine.source)) if here else "driver"


def _loaded(machine: Machine) -> _Answer:
    if not machine.is_loaded:
        if not machine.exists("/sys/module"):
            return _Answer(
                Verdict.BAD,
                "/sys is not mounted, so nothing can be told",
                "mount -t sysfs sys /sys",
            )
        if machine.text("/proc/sys/kernel/modules_disabled") == "1":
            return _Answer(
                Verdict.BAD, "not loaded, and kernel.modules_disabled forbids it", "reboot"
            )
        if machine.built and not machine.indexed:
            remedy = f"insmod {_driver(machine)}/duet.ko"
        else:
            remedy = "modprobe duet"
        return _Answer(Verdict.BAD, "not loaded", remedy)
    running = machine.text("/sys/module/duet/srcversion")
    module = machine.indexed
    if running and module and module.srcversion and module.srcversion != running:
        return _Answer(
            Verdict.WARNING,
            f"loaded from other sources ({running}) than {module.path} ({module.srcversion})",
            "rmmod duet && modprobe duet",
        )
    version = machine.text("/sys/module/duet/version")
    return _Answer(Verdict.OK, f"version {version}, sources {running}")


def _signature(machine: Machine) -> _Answer:
    module = machine.installed or machine.built
    said = [_signedness(module), _tainted(machine)]
    enforced, unseen = _enforced(machine)
    if enforced:
        found = "; ".join(filter(None, [f"{enforced}: only signed modules can be loaded", *said]))
        if module and module.signed is False:
            verdict = Verdict.WARNING if machine.is_loaded else Verdict.BAD
            return _Answer(verdict, found, _sign(machine, module))
        # Whether the kernel knows the key is told by loading it, and by nothing else.
        return _Answer(Verdict.OK if machine.is_loaded else Verdict.UNKNOWN, found)
    if unseen and not machine.is_loaded:
        return _Answer(
            Verdict.UNKNOWN,
            "; ".join(filter(None, ["whether the kernel is locked down cannot be seen", *said])),
            "mount -t securityfs securityfs /sys/kernel/security",
        )
    why = "the kernel let the module in" if unseen else "unsigned modules can be loaded"
    return _Answer(Verdict.OK, "; ".join(filter(None, [why, *said])))


def _enforced(machine: Machine) -> tuple[str, bool]:
    """Return why only signed modules can be loaded, and whether some of it cannot be seen."""
    lockdown = machine.text("/sys/kernel/security/lockdown")
    secure_boot = (machine.data(_SECURE_BOOT) or b"\0")[-1] == 1
    why = []
    if lockdown is not None and "[none]" not in lockdown:
        level = re.search(r"\[(\w+)\]", lockdown)
        why.append(f"lockdown is {level[1] if level else lockdown}")
    if machine.text("/sys/module/module/parameters/sig_enforce") == "Y":
        why.append("module.sig_enforce is set")
    # The directory is there to mount on, and `lsm` when it is mounted.
    unseen = (
        lockdown is None
        and machine.exists("/sys/kernel/security")
        and not machine.exists("/sys/kernel/security/lsm")
    )
    if secure_boot and (why or unseen):
        # Where both are seen the lockdown decides: not every kernel locks itself for Secure Boot.
        why.append("Secure Boot is on")
    return ", ".join(why), unseen


def _signedness(module: ModuleFile | None) -> str:
    if not module:
        return ""
    words = {True: "is signed", False: "is not signed", None: "cannot be read"}
    return f"{module.path} {words[module.signed]}"


def _tainted(machine: Machine) -> str:
    taint = machine.text("/sys/module/duet/taint")
    if taint:
        return f"the module taints the kernel ({taint})"
    bits = machine.number("/proc/sys/kernel/tainted") or 0
    letters = [text for bit, text in _TAINTS.items() if bits & 1 << bit]
    return f"the kernel is tainted by modules ({'; '.join(letters)})" if letters else ""


def _sign(machine: Machine, module: ModuleFile) -> str:
    """Return how to sign a module by the machine owner's key, which is made if there is none."""
    file = shlex.quote(str(module.path))
    steps = []
    for suffix, unpack in {".xz": "unxz", ".gz": "gunzip"}.items():
        if file.endswith(suffix):
            steps.append(f"{unpack} {file}")
            file = file.removesuffix(suffix)
    pair = next((pair for pair in _OWNER_KEYS if machine.exists(pair[0])), None)
    key, certificate = pair or ("/root/MOK.priv", "/root/MOK.der")
    if not pair:
        steps.append(
            "openssl req -new -x509 -newkey rsa:2048 -nodes -days 36500 -subj /CN=Duet/ "
            f"-outform DER -keyout {key} -out {certificate}"
        )
    steps.append(
        f"{machine.modules}/build/scripts/sign-file sha256 {key} {certificate} {file}"
        f" && depmod && mokutil --import {certificate} && reboot"
    )
    return " && ".join(steps)


# The device, and who may open it


def _device(machine: Machine) -> _Answer:
    device, node = machine.device, machine.node
    if not machine.is_loaded:
        return _NO_MODULE
    number = machine.text(f"{SYSFS}/dev")
    if number is None:
        return _Answer(Verdict.BAD, f"the module has no {SYSFS}", "dmesg")
    if isinstance(node, PermissionError):
        return _Answer(Verdict.UNKNOWN, f"{device}: {node.strerror}", "sudo duet doctor")
    make = f"mknod -m 0600 {device} c {number.replace(':', ' ')}"
    if isinstance(node, OSError):
        wrong, mend = f"{device}: {node.strerror}", make
    elif not stat.S_ISCHR(node.st_mode):
        wrong, mend = f"{device} is no character device", f"rm -r {device} && {make}"
    elif number != (here := f"{os.major(node.st_rdev)}:{os.minor(node.st_rdev)}"):
        wrong = f"{device} is {here}, and Duet's device is {number}"
        mend = f"rm {device} && {make}"
    else:
        return _owner(device, number, node)
    # What another path names is somebody else's: not to be removed.
    return _Answer(Verdict.BAD, wrong, mend if device == DEFAULT_DEVICE else "duet doctor")


def _owner(device: str, number: str, node: os.stat_result) -> _Answer:
    owner = f"{_user(node.st_uid)}:{_group(node.st_gid)}"
    found = f"{device} is {number}, {owner}, mode {stat.S_IMODE(node.st_mode):04o}"
    if node.st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return _Answer(
            Verdict.WARNING,
            f"{found}: everybody may open it, and take every task",
            f"chmod o= {shlex.quote(device)}",
        )
    return _Answer(Verdict.OK, found)


def _access(machine: Machine) -> _Answer:
    if not machine.is_loaded:
        return _NO_MODULE
    node, me = machine.node, _user(os.geteuid())
    if isinstance(node, OSError) or _device(machine).verdict is Verdict.BAD:
        return _Answer(Verdict.UNKNOWN, "there is no device to open")
    try:
        # Nothing but Duet's own device gets here: to open another might do something.
        os.close(os.open(machine.at(machine.device), os.O_RDONLY | os.O_CLOEXEC))
    except PermissionError:
        return _refused(machine, node, me)
    except OSError as error:
        return _Answer(Verdict.BAD, f"{me} cannot open {machine.device}: {error.strerror}", "dmesg")
    return _Answer(Verdict.OK, f"{me} may open {machine.device}")


def _refused(machine: Machine, node: os.stat_result, me: str) -> _Answer:
    refused = f"{me} may not open {machine.device}"
    for_group = bool(node.st_gid and node.st_mode & stat.S_IRGRP)
    if not os.geteuid() or (for_group and node.st_gid in {os.getegid(), *os.getgroups()}):
        return _Answer(
            Verdict.BAD,
            f"{refused}, though its mode lets them: a mount with nodev, a container's rules?",
            f"findmnt -T {shlex.quote(machine.device)}",
        )
    if not for_group:
        remedy = _APPLY_RULES if _rule_files(machine) else _add_rule(machine)
        return _Answer(Verdict.BAD, f"{refused}: only root may", remedy)
    group = _group(node.st_gid)
    try:
        entry = pwd.getpwuid(os.geteuid())
    except KeyError:
        return _Answer(Verdict.BAD, f"{refused}, which is for the group {group}")
    if node.st_gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        return _Answer(
            Verdict.BAD,
            f"{refused}: in the group {group}, but only from the next login on",
            f"newgrp {group}",
        )
    name, steps = group, []
    if group == str(node.st_gid):
        name = _GROUP
        steps = [f"groupadd -g {group} {name}"]
    return _Answer(
        Verdict.BAD,
        f"{refused}, which is for the group {group}: join it, and log in again",
        " && ".join([*steps, f"usermod -aG {name} {entry.pw_name}"]),
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


# What it does


def _on(machine: Machine) -> _Answer:
    if not machine.is_loaded:
        return _NO_MODULE
    on = machine.text(f"{SYSFS}/enabled")
    tasks, most = (machine.number(f"{SYSFS}/{name}") for name in ("tasks", "max_tasks"))
    if on is None or tasks is None or most is None:
        return _Answer(Verdict.UNKNOWN, f"{SYSFS} cannot be read")
    if on != "1":
        return _Answer(Verdict.WARNING, f"off, for up to {most} tasks", "duet start")
    if tasks < most:
        return _Answer(Verdict.OK, f"on, {tasks} of {most} tasks in use")
    if most == abi.MAX_TASKS:
        return _Answer(
            Verdict.WARNING, f"on, all {most} tasks in use, and no more possible", "duet list"
        )
    more = min(2 * most, abi.MAX_TASKS)
    return _Answer(
        Verdict.WARNING,
        f"on, all {most} tasks in use; end one, or all with a start for more",
        f"duet stop && duet start -n {more}",
    )


def _hooks(machine: Machine) -> _Answer:
    if not machine.is_loaded:
        return _NO_MODULE
    states = {hook: machine.text(f"{SYSFS}/hooks/{hook}") for hook in _HOOKS}
    by_state = {
        state: ", ".join(hook for hook in _HOOKS if states[hook] == state)
        for state in dict.fromkeys(states.values())
    }
    found = "; ".join(f"{state or 'unreadable'}: {hooks}" for state, hooks in by_state.items())
    if "missing" in by_state:
        return _Answer(Verdict.BAD, f"{found}: this kernel does not tell", _OTHER_KERNEL)
    trace = [f"echo 1 >{_FTRACE}"] if machine.text(_FTRACE) == "0" else []
    why = "; function tracing is switched off" if trace else ""
    if "silent" in by_state:
        found = f"{found}, when a task last needed it{why}"
        return _Answer(Verdict.BAD, found, " && ".join([*trace, _PROVE]))
    if trace:
        return _Answer(Verdict.BAD, f"{found}{why}: no task can be registered", trace[0])
    if by_state.keys() <= {"alive", "detached"}:
        return _Answer(Verdict.OK, found)
    return _Answer(Verdict.UNKNOWN, found)


def _drops(machine: Machine) -> _Answer:
    if not machine.is_loaded:
        return _NO_MODULE
    counts = {reason: machine.number(f"{SYSFS}/drops/{reason}") for reason in _LIMITS}
    if None in counts.values():
        return _Answer(Verdict.UNKNOWN, "only root may know", "sudo duet doctor")
    dropped = {reason: count for reason, count in counts.items() if count}
    if not dropped:
        return _Answer(Verdict.OK, "none since the module was loaded")
    found = ", ".join(f"{count} ({reason})" for reason, count in dropped.items())
    remedies = [
        f"echo {2 * now} >{setting}"
        for reason, setting in _LIMITS.items()
        if reason in dropped and (now := machine.number(setting))
    ]
    return _Answer(Verdict.WARNING, f"since the module was loaded: {found}", " && ".join(remedies))


def _udev(machine: Machine) -> _Answer:
    files = _rule_files(machine)
    if files:
        return _Answer(Verdict.OK, ", ".join(files))
    return _Answer(
        Verdict.WARNING, "no rule gives the device to a group: only root may open it",
        _add_rule(machine),
    )  # fmt: skip


def _rule_files(machine: Machine) -> list[str]:
    """Return the udev rules files that speak of Duet's device, each once."""
    files: dict[str, str] = {}
    for directory in _RULES:
        for name in machine.names(directory):
            path = f"{directory}/{name}"
            rules = machine.text(path) or ""
            if name.endswith(".rules") and _ABOUT_DEVICE.search(rules):
                # /lib is /usr/lib nearly everywhere.
                files.setdefault(os.path.realpath(machine.at(path)), path)
    return list(files.values())


def _add_rule(machine: Machine) -> str:
    steps = [f"groupadd -rf {_GROUP}", f"echo '{_RULE}' >{_RULE_FILE}"]
    return " && ".join([*steps, _APPLY_RULES] if machine.is_loaded else steps)


# How it is configured


def _config(machine: Machine) -> _Answer:
    file = str(machine.at(config.DEFAULT_FILE))
    try:
        found = config.read(file, needed=False)
    except config.ConfigError as error:
        return _Answer(Verdict.BAD, str(error), _correct(error.file))
    except PermissionError as error:
        return _Answer(Verdict.UNKNOWN, f"{error.filename}: {error.strerror}", "sudo duet doctor")
    except OSError as error:
        where = os.fsdecode(error.filename or file)
        return _Answer(Verdict.BAD, f"{where}: {error.strerror}", f"ls -ld {shlex.quote(where)}")
    wanted = f"{'on' if found.on else 'off'}, for up to {found.max_tasks} tasks"
    if not found.files:
        return _Answer(Verdict.OK, f"there is no {file}, so by default: {wanted}")
    return _Answer(Verdict.OK, f"{', '.join(found.files)}: {wanted}")


def _correct(file: str) -> str:
    return f"${{EDITOR:-vi}} {shlex.quote(file)} && duet setup"


def _setup(machine: Machine) -> _Answer:
    if not machine.exists("/run/systemd/system"):
        return _Answer(
            Verdict.WARNING, "no systemd runs here to apply the configuration", "duet setup"
        )
    unit = machine.unit(_SETUP)
    state = unit.get("ActiveState") if unit else None
    if not unit or not state:
        return _Answer(Verdict.UNKNOWN, f"systemd does not tell of {_SETUP}")
    if unit.get("LoadState") == "not-found":
        return _Answer(
            Verdict.WARNING,
            f"there is no {_SETUP} to apply the configuration when the module is loaded",
            "duet setup",
        )
    log = f"journalctl -b -u {_SETUP}"
    if state == "failed":
        return _Answer(
            Verdict.BAD, f"{_SETUP} has failed; {log} says why", f"systemctl restart {_SETUP}"
        )
    if unit.get("ReloadResult", "success") != "success":
        return _Answer(
            Verdict.WARNING,
            f"{_SETUP} could not apply all of the configuration when it was reloaded; {log} "
            "says why",
            f"systemctl reload {_SETUP}",
        )
    if state == "inactive" and machine.is_loaded:
        return _Answer(
            Verdict.WARNING,
            f"{_SETUP} has not run since the module was loaded",
            f"systemctl start {_SETUP}",
        )
    return _Answer(Verdict.OK, f"{_SETUP} is {state}")


#: The checks by name, in the order in which to mend what they find.
_CHECKS: dict[str, Callable[[Machine], _Answer]] = {
    "kernel": _kernel,
    "installed": _installed,
    "loaded": _loaded,
    "signature": _signature,
    "device": _device,
    "access": _access,
    "on": _on,
    "hooks": _hooks,
    "drops": _drops,
    "udev": _udev,
    "config": _config,
    "setup": _setup,
}
