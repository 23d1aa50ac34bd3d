# SPDX-License-Identifier: MIT
"""Duet installed on a real Debian: each test goes on where the one before it ended."""

import json
import os
import re
from pathlib import Path

import pytest
from duetinstall.guest import Guest
from duetinstall.release import Release

NODE = "character special file root duet 660"
SYSFS = "/sys/class/misc/duet"
PAGES = [3, 4, 5, 10]
ADMINISTRATION = Path(__file__).resolve().parents[2] / "docs/administration.md"
#: Reads just these pages of the file that is its argument.
READ = (
    "import os, sys; file = os.open(sys.argv[1], os.O_RDONLY); "
    "os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM); "
    f"[os.pread(file, 4096, page * 4096) for page in {PAGES}]"
)
#: Registers a task, has another process read, and prints what was told.
WATCH = f"""
import json, os, subprocess, sys
from pyduet import Device, Mask
path = sys.argv[1]
directory = os.path.dirname(path)
with Device() as device, device.register(directory, Mask.ADDED, no_scan=True) as task:
    subprocess.run([sys.executable, "-c", {READ!r}, path], check=True)
    told = [
        (task.path_of(item.file), item.file.ino, page)
        for item in task.events(timeout=3)
        for page in range(item.index, item.end)
    ]
print(json.dumps(sorted(told)))
"""

pytestmark = pytest.mark.usefixtures("told")


LIST = "find / -xdev"
UPDATE = "apt-get -q update"
INSTALL = "apt-get -q -y install duet-dkms python3-pyduet duet-tui"
KERNEL = "apt-get -q -y install linux-image-{0} linux-headers-{0}"


def next_kernel_of(guest: Guest, release: Release, *, running: bool = False) -> str:
    """The kernel to upgrade to."""
    names = (guest.do if running else guest.inside)("ls /srv/archive | sed 's/_.*//'").split()
    image = next(name for name in names if re.fullmatch(release.next, name))
    return image.removeprefix("linux-image-")


@pytest.fixture(scope="module")
def before(guest: Guest, release: Release, natively: bool, pytestconfig: pytest.Config) -> set[str]:
    """All that was there before the packages; from here on the machine runs."""
    found = set(guest.inside(LIST).splitlines())
    if natively:
        guest.inside(f"{UPDATE} && {INSTALL}")
    if natively and not pytestconfig.getoption("--no-upgrade"):
        guest.inside(KERNEL.format(next_kernel_of(guest, release)))
    guest.boot(release.first)
    return found


def write(guest: Guest, path: str, text: str) -> None:
    """Write a file."""
    guest.do(f"mkdir -p $(dirname {path}) && cat >{path} <<'EOF'\n{text}\nEOF")


def installed_for(guest: Guest, kernel: str) -> bool:
    """Whether DKMS has built and installed the module for a kernel."""
    wanted = rf"duet/[\d.]+, {re.escape(kernel)}, x86_64: installed"
    return bool(re.search(wanted, guest.do("dkms status")))


def setting(guest: Guest, name: str) -> str:
    """A setting, as the driver has it."""
    return guest.do(f"cat {SYSFS}/{name}").strip()


def doctor(guest: Guest) -> dict[str, dict[str, str]]:
    """What the doctor finds, by the name of the check."""
    found = json.loads(guest.run("duet doctor --json").output)
    return {check["name"]: check for check in found["checks"]}


def test_a_fresh_system(guest: Guest, before: set[str], natively: bool) -> None:
    assert not [path for path in before if "duet" in path and not path.startswith("/srv/")]
    assert guest.run("systemctl is-system-running --wait").output.strip() == "running"
    assert natively or guest.run("getent group duet").status


def test_apt_installs_it(guest: Guest, natively: bool) -> None:
    # A configuration may be there first: it is the administrator's.
    write(guest, "/etc/duet/duet.toml.d/50-test.toml", '[duet]\nlimit = "64M"')
    if not natively:
        guest.do(UPDATE)
        guest.do(INSTALL, 2400)
    kernel = guest.do("uname -r").strip()
    assert installed_for(guest, kernel)
    assert guest.do("getent group duet").startswith("duet:")
    assert not guest.do("dpkg --audit")
    for path in (
        "man/man8/duet.8.gz", "man/man4/duet.4.gz", "bash-completion/completions/duet",
        "zsh/vendor-completions/_duet", "fish/vendor_completions.d/duet.fish",
    ):  # fmt: skip
        assert guest.run(f"test -s /usr/share/{path}").status == 0, path
    assert guest.do("duet --version").startswith("duet ")
    assert "--replay" in guest.do("duet tui --help")


def test_the_device_and_its_setup(guest: Guest, natively: bool) -> None:
    if natively:
        # The boot has loaded it.
        guest.do("systemctl is-active duet-setup.service && modprobe -r duet")
    write(guest, "/etc/duet/duet.toml", "[duet]\nmax_tasks = 12\nlimit = 1048576")
    guest.do("modprobe duet")
    guest.eventually("systemctl is-active duet-setup.service")
    assert guest.do("stat -c '%F %U %G %a' /dev/duet").strip() == NODE
    assert setting(guest, "max_tasks") == "12"
    # The drop-in wins.
    assert setting(guest, "limit_bytes") == str(64 << 20)
    assert setting(guest, "enabled") == "1"
    found = doctor(guest)
    assert {name: check for name, check in found.items() if check["verdict"] != "ok"} == {}


def test_who_is_in_the_group(guest: Guest) -> None:
    for user, groups in (("inside", "-G duet"), ("outside", "")):
        guest.do(f"useradd -m {groups} {user}")
        guest.do(
            f"runuser -u {user} -- sh -c 'mkdir ~/tree; head -c 262144 /dev/urandom >~/tree/file; "
            "sync ~/tree/file'"
        )
    guest.do("echo 1 >/proc/sys/vm/drop_caches")
    path = "/home/inside/tree/file"
    number = int(guest.do(f"stat -c %i {path}"))
    write(guest, "/srv/watch.py", WATCH)
    answer = json.loads(guest.do(f"runuser -u inside -- python3 /srv/watch.py {path}"))
    assert answer == [[path, number, page] for page in PAGES]

    refused = guest.run("runuser -u outside -- duet status")
    assert refused.status == 4
    assert "duet" in refused.output
    opened = "runuser -u outside -- python3 -c 'open(\"/dev/duet\")'"
    assert "PermissionError" in guest.run(opened).output


def test_loaded_again_it_is_set_up_again(guest: Guest) -> None:
    write(guest, "/etc/duet/duet.toml", "[duet]\nmax_tasks = 20\non = false")
    guest.do("modprobe -r duet")
    guest.eventually("! systemctl is-active --quiet duet-setup.service")
    guest.do("modprobe duet")
    guest.eventually("systemctl is-active duet-setup.service")
    assert guest.do("stat -c '%F %U %G %a' /dev/duet").strip() == NODE
    assert (setting(guest, "max_tasks"), setting(guest, "enabled")) == ("20", "0")

    write(guest, "/etc/duet/duet.toml", "[duet]\nmax_tasks = 21")
    guest.do("systemctl reload duet-setup.service")
    assert (setting(guest, "max_tasks"), setting(guest, "enabled")) == ("21", "1")


def test_a_wrong_configuration(guest: Guest) -> None:
    write(guest, "/etc/duet/duet.toml", "[duet]\nmax_tasks = 300")
    guest.do("modprobe -r duet && modprobe duet")
    guest.eventually("systemctl is-failed duet-setup.service")
    assert guest.do("stat -c '%F %U %G %a' /dev/duet").strip() == NODE
    for words in (
        guest.do("journalctl -b --no-pager -u duet-setup.service"),
        json.dumps(doctor(guest)["config"]),
    ):
        assert "/etc/duet/duet.toml" in words
        assert "max_tasks" in words
    guest.do("rm -r /etc/duet/duet.toml.d")
    write(guest, "/etc/duet/duet.toml", "[duet]")
    guest.do("systemctl restart duet-setup.service")
    assert (setting(guest, "max_tasks"), setting(guest, "enabled")) == ("8", "1")


def test_a_disk_comes_and_goes(guest: Guest, tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    kept = content / "kept"
    kept.write_bytes(bytes(64 * 4096))
    # The task's user is told of it: anybody may write it.
    kept.chmod(0o666)
    disk = guest.make_disk("backup", content, 16)
    guest.do(
        "echo 'LABEL=backup /mnt/backup ext4 noauto,nofail 0 2' >>/etc/fstab; mkdir /mnt/backup; "
        "cp /usr/share/doc/python3-pyduet/examples/61-duet-task.rules.example "
        "/etc/udev/rules.d/61-duet-task.rules; systemctl daemon-reload; udevadm control --reload"
    )
    unit = "duet-task@mnt-backup.service"
    number = kept_pages = None
    for turn in range(2):
        guest.plug(disk)
        guest.eventually(f"systemctl is-active {unit} && mountpoint -q /mnt/backup")
        guest.eventually("duet list | grep -q /mnt/backup")
        guest.do(f"python3 -c '{READ}' /mnt/backup/kept")
        number = int(guest.do("stat -c %i /mnt/backup/kept"))
        run = guest.do(f"systemctl show -P InvocationID {unit}").strip()
        journal = f"journalctl -b --no-pager -o cat _SYSTEMD_INVOCATION_ID={run}"
        guest.eventually(f"{journal} | grep -q '\"index\": {PAGES[-1]},'")
        lines = [json.loads(line) for line in guest.do(journal).splitlines() if line[:1] == "{"]
        kept_pages = sorted(
            page
            for line in lines
            if line["path"] == "/mnt/backup/kept" and line["ino"] == number
            for page in range(line["index"], line["index"] + line["pages"])
        )
        assert kept_pages == PAGES, turn
        guest.unplug()
        guest.eventually(f"! systemctl is-active --quiet {unit}")
        assert guest.do(f"systemctl show -P Result {unit}").strip() == "success"
        guest.eventually("! mountpoint -q /mnt/backup")


def test_a_backup_begins_with_its_disk(guest: Guest, tmp_path: Path) -> None:
    """By the drop-in that the documentation has, for the user of an earlier test."""
    unit = "duet-task@mnt-backup.service"
    text = ADMINISTRATION.read_text()
    blocks = re.findall(r"\n\n((?:       \S.*\n)+)", text[text.index(f"edit {unit}") :])
    drop_in = "".join(re.sub("^ +", "", block, flags=re.MULTILINE) for block in blocks[:2])
    assert "DynamicUser=no\n" in drop_in, "the documentation has it no more"
    assert "/usr/bin/duet run backup" in drop_in, "the documentation has it no more"
    write(guest, f"/etc/systemd/system/{unit}.d/mine.conf", drop_in.replace("anna", "inside"))
    guest.do("systemctl daemon-reload")

    content = tmp_path / "content"
    (content / "inside").mkdir(parents=True)
    os.chown(content / "inside", int(guest.do("id -u inside")), -1)
    guest.plug(guest.make_disk("backup", content, 16))
    archive = "/mnt/backup/inside/home.tar"
    guest.eventually(f"test -e {archive} && systemctl show -P ActiveState {unit} | grep ^inactive")
    assert guest.do(f"systemctl show -P Result {unit}").strip() == "success"
    assert guest.do(f"stat -c %U {archive}").strip() == "inside"
    guest.do(f"tar -xOf {archive} ./tree/file | cmp - /home/inside/tree/file")
    journal = guest.do(f"journalctl -b --no-pager -o cat -u {unit}")
    assert re.search(r"\d files?, .* did not have to be read from the disk", journal), journal
    guest.unplug()
    guest.eventually("! mountpoint -q /mnt/backup")
    guest.do(
        f"rm -r /etc/udev/rules.d/61-duet-task.rules /etc/systemd/system/{unit}.d /mnt/backup; "
        "sed -i /backup/d /etc/fstab; systemctl daemon-reload; rm -r /var/lib/duet-inside"
    )


@pytest.mark.upgrade
def test_apt_upgrades_the_kernel(guest: Guest, release: Release, natively: bool) -> None:
    next_kernel = next_kernel_of(guest, release, running=True)
    if not natively:
        guest.do(KERNEL.format(next_kernel), 3000)
    assert not guest.do("dpkg --audit")
    assert installed_for(guest, next_kernel) == release.works
    guest.shut_down()
    guest.boot(next_kernel)
    assert guest.do("uname -r").strip() == next_kernel


@pytest.mark.works
def test_it_works_on_the_next_kernel(guest: Guest) -> None:
    """Loaded at boot, with nobody's help."""
    guest.eventually("systemctl is-active duet-setup.service")
    works(guest)


@pytest.mark.left_alone
def test_the_next_kernel_is_left_alone(guest: Guest, release: Release) -> None:
    assert guest.run("test -e /dev/duet").status
    found = doctor(guest)
    assert found["kernel"]["verdict"] != "ok"
    assert found["installed"]["verdict"] != "ok"
    guest.shut_down()
    guest.boot(release.first)
    guest.eventually("systemctl is-active duet-setup.service")
    works(guest)


def works(guest: Guest) -> None:
    """Ensure that the device is as it should be, and tells of pages."""
    assert guest.do("stat -c '%F %U %G %a' /dev/duet").strip() == NODE
    guest.do("echo 1 >/proc/sys/vm/drop_caches")
    path = "/home/inside/tree/file"
    answer = json.loads(guest.do(f"runuser -u inside -- python3 /srv/watch.py {path}"))
    assert [[name, page] for name, _, page in answer] == [[path, page] for page in PAGES]


#: What may be left, and why.
LEFT = [
    r"/home/(inside|outside)(/.*)?", r"/var/(spool/)?mail/\w+", r"/srv/watch\.py",  # the tests'
    r"/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?", r"/etc/\.pwd\.lock",  # the group stays
    r"/(var/log|var/cache|var/tmp|tmp)/.*", r"/var/lib/(apt|dpkg|systemd)/.*",
    r"/etc/systemd/system/.*wants.*",
    r"/(etc|var)/\.updated", r"/etc/networks",  # systemd's, at its first boot
    # Of a kernel that was installed meanwhile.
    r"/boot/(initrd\.img|vmlinuz|config)-.*", r"(/usr)?/lib/modules/[^/]+/modules\.[\w.]+",
    r"/var/lib/initramfs-tools/.*",
    r"/usr/.*/__pycache__(/.*)?",  # of programs that were there before
]  # fmt: skip


def test_purging_leaves_nothing(guest: Guest, before: set[str]) -> None:
    guest.do("apt-get -q -y purge duet-dkms python3-pyduet duet-tui", 900)
    guest.do("apt-get -q -y --purge autoremove", 900)
    # The module was not in use, and is not loaded any more.
    assert guest.run("test -e /dev/duet || test -e /sys/module/duet").status
    owned = set(guest.do("cat /var/lib/dpkg/info/*.list").splitlines())
    merged = {re.sub("^/usr/lib", "/lib", path) for path in owned}
    left = [
        path
        for path in set(guest.do(LIST).splitlines()) - before
        if path not in owned
        and re.sub("^/usr/lib", "/lib", path) not in merged
        and not any(re.fullmatch(pattern, path) for pattern in LEFT)
    ]
    assert sorted(left) == []
    assert not guest.run("find / -xdev -name '*duet*' | grep -v '^/srv/' | grep .").output
    # docs/install.md says so.
    assert guest.do("getent group duet").startswith("duet:")
