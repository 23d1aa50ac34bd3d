# SPDX-License-Identifier: MIT
"""A Debian system on a disk image: made by mmdebstrap, and kept in the lab's cache.

It has what a machine needs to build modules, and nothing of Duet. All that is installed later is
in a repository within the image, so that the machine needs no network.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from duetlab.disk import mkfs_command
from duetlab.errors import LabError
from duetlab.host import cache_dir, locked, output_of, program, say
from duetlab.packages import Apt

from duetinstall.release import Release

REPOSITORY = "/srv/archive"
#: Where the disk with Duet's own packages is mounted.
PACKAGES = "/srv/packages"

_SIZE_MIB = 5120

_SYSTEM = (
    "systemd-sysv", "udev", "kmod", "dkms", "linux-image-amd64", "linux-headers-amd64",
    "qemu-guest-agent", "e2fsprogs", "initramfs-tools", "zstd",
)  # fmt: skip
# What Duet's packages depend on, and what its tests use.
_LATER = ("python3-argcomplete", "python3-prometheus-client", "python3-pyudev", "python3-rich")

#: What the system is told about itself. The initramfs has what finds the disk, so that it is made,
#: and loaded, in seconds.
_FILES = {
    "etc/initramfs-tools/conf.d/small": "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n",
    "usr/share/initramfs-tools/modules.d/disk": "virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n",
    "etc/fstab": f"/dev/vda / ext4 defaults 0 0\n/dev/vdb {PACKAGES} ext4 ro 0 0\n",
    "etc/hostname": "duet\n",
    "etc/hosts": "127.0.0.1 localhost duet\n",
    "etc/apt/sources.list": (
        f"deb [trusted=yes] file:{REPOSITORY} ./\ndeb [trusted=yes] file:{PACKAGES} ./\n"
    ),
    # What no test looks at takes long in an emulated machine.
    "etc/apt/apt.conf.d/99quick": 'Acquire::Languages "none";\nDPkg::Use-Pty "0";\n',
    "etc/dpkg/dpkg.cfg.d/quick": "force-unsafe-io\n",
}
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "systemd-timesyncd.service", "man-db.timer",
    "serial-getty@ttyS0.service", "getty@tty1.service",
)  # fmt: skip


def image_of(release: Release) -> Path:
    """The image of a release: the one in the cache, or one that is made now."""
    directory = cache_dir() / "images"
    directory.mkdir(exist_ok=True)
    recipe = repr((release.suites, release.next, _SYSTEM, _LATER, _FILES, _MASKED, _SIZE_MIB))
    name = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    image = directory / f"{release.name}-{name}.img"
    with locked(f"image-{release.name}"):
        if not image.exists():
            for stale in directory.glob(f"{release.name}-*"):
                shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
            _make(release, image)
    return image


def _make(release: Release, image: Path) -> None:
    apt = Apt(release.suites)
    apt.update()
    kernel = apt.newest(release.next).name
    headers = kernel.replace("linux-image-", "linux-headers-", 1)
    say(f"making a system of {release.name} with mmdebstrap, and {kernel} to upgrade to")
    archive = image.with_suffix(".tar")
    root = image.with_suffix(".root")
    files = "; ".join(
        f'mkdir -p "$1/{os.path.dirname(name)}"; printf %s {shlex.quote(text)} >"$1/{name}"'
        for name, text in _FILES.items()
        if name != "etc/apt/sources.list"
    )
    sources = shlex.quote(_FILES["etc/apt/sources.list"])
    download = 'chroot "$1" apt-get -qq --yes --download-only install'
    later = " ".join(_LATER)
    command = [
        program("mmdebstrap", "mmdebstrap"),
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(_SYSTEM)}",
        *("--aptopt", 'Acquire::Languages "none"', "--aptopt", 'APT::Install-Recommends "false"'),
        *("--dpkgopt", "force-unsafe-io"),
        f"--extract-hook={files}",
        f"--customize-hook={download} {later}",
        # What it depends on may have to come from where it comes from.
        f"--customize-hook={download} --target-release {release.suites[-1]} {kernel} {headers}",
        f'--customize-hook=mkdir -p "$1{REPOSITORY}" "$1{PACKAGES}"; '
        f'mv "$1"/var/cache/apt/archives/*.deb "$1{REPOSITORY}"; '
        f'chroot "$1" sh -c "cd {REPOSITORY} && dpkg-scanpackages . >Packages 2>/dev/null"',
        f'--customize-hook=rm -f "$1"/etc/apt/sources.list.d/* "$1"/var/lib/apt/lists/*_*; '
        f'printf %s {sources} >"$1/etc/apt/sources.list"',
        "--customize-hook=for unit in " + " ".join(_MASKED) + "; do "
        'ln -sf /dev/null "$1/etc/systemd/system/$unit"; done',
        "--skip=cleanup/apt/lists",
        release.name,
        str(archive),
        *apt.sources.splitlines(),
    ]
    try:
        output_of(command, f"making the system of {release.name}")
        root.mkdir()
        output_of(
            ["tar", "-C", str(root), "--numeric-owner", "--xattrs", "-xf", str(archive)],
            "unpacking it",
        )
        partial = image.with_suffix(".partial")
        with open(partial, "wb") as file:
            file.truncate(_SIZE_MIB << 20)
        output_of([*mkfs_command("ext4", root), str(partial)], "making its disk")
        os.replace(partial, image)
    finally:
        archive.unlink(missing_ok=True)
        subprocess.run(["rm", "-rf", str(root)], check=False)


def kernels(image: Path) -> list[str]:
    """The releases of the kernels that are installed on an image."""
    listing = output_of(
        [program("debugfs", "e2fsprogs"), "-R", "ls -p /boot", str(image)], "looking into the image"
    )
    names = [line.split("/")[5] for line in listing.splitlines() if line.count("/") >= 6]
    return [name.removeprefix("vmlinuz-") for name in names if name.startswith("vmlinuz-")]


def take_out(image: Path, path: str, target: Path) -> None:
    """Copy a file out of an image that no machine uses."""
    output_of(
        [program("debugfs", "e2fsprogs"), "-R", f"dump {path} {target}", str(image)],
        f"taking {path} out of the image",
    )
    if not target.exists() or not target.stat().st_size:
        raise LabError(f"there is no {path} in {image}")


def run_inside(image: Path, packages: Path, command: str) -> str:
    """Run a command of the shell in the system of an image that no machine uses, as root.

    It is this machine's kernel that runs it, at this machine's speed. What it
    mounts for that nobody else sees, and is gone with it.
    """
    root = image.with_suffix(".mounted")
    root.mkdir(exist_ok=True)
    mounts = "; ".join(
        f"mount {options} {what} {root}{where}"
        for options, what, where in (
            ("-o loop", image, ""),
            ("-o loop,ro", packages, PACKAGES),
            ("-t proc", "proc", "/proc"),
            ("-t sysfs -o ro", "sys", "/sys"),
            ("--rbind", "/dev", "/dev"),
        )
    )
    inside = f"export DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin; exec 2>&1; {command}"
    return output_of(
        [
            *("unshare", "--mount", "--propagation", "private", "sh", "-e", "-c"),
            f"{mounts}; chroot {root} sh -e -c {shlex.quote(inside)}",
        ],
        f"running {command} in the system",
    )
