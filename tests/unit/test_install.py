# SPDX-License-Identifier: MIT
"""make install and make uninstall, and the wheel and sdist: the real things, in a directory."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import pyduet

TOP = Path(__file__).parents[2]
INSTALL = TOP / "packaging/install.py"
#: One that has none of our packages, as an administrator's.
PYTHON = str(getattr(sys, "_base_executable", sys.executable))


def attempt(
    what: str, destdir: Path, prefix: str = "/usr/local", **options: int
) -> subprocess.CompletedProcess[str]:
    """Install, or uninstall."""
    return subprocess.run(
        [PYTHON, INSTALL, what, "--destdir", destdir, "--prefix", prefix],
        capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


def install(what: str, destdir: Path, prefix: str = "/usr/local", **options: int) -> str:
    """Install, or uninstall; returns what was said."""
    done = attempt(what, destdir, prefix, **options)
    assert done.returncode == 0, done.stderr
    return done.stderr


def files(directory: Path) -> dict[Path, bytes]:
    """All files, and what is in them."""
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def duet(destdir: Path, prefix: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command, with its directories where they are now."""
    script = destdir / f"{prefix[1:]}/bin/duet"
    text = script.read_text()
    moved = text.replace(f"{prefix}/lib/duet/", f"{destdir}{prefix}/lib/duet/")
    assert moved.count(f"{destdir}{prefix}/lib/duet/") == 2
    script.write_text(moved)
    try:
        return subprocess.run(
            [script, *arguments], cwd="/", env={"PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    finally:
        script.write_text(text)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with everything below /usr/local."""
    destdir = tmp_path_factory.mktemp("installed")
    install("install", destdir, umask=0o077)
    return destdir


def test_the_command_runs(installed: Path) -> None:
    assert duet(installed, "/usr/local", "--version").stdout == f"duet {pyduet.__version__}\n"
    assert (installed / "usr/local/bin/duet").read_text().startswith(f"#!{PYTHON} -P\n")
    assert duet(installed, "/usr/local", "setup", "--check").returncode == 0
    assert "--replay" in duet(installed, "/usr/local", "tui", "--help").stdout
    assert duet(installed, "/usr/local", "completion", "bash").stdout
    # Needs a terminal, and finds all that it needs before it says so.
    assert "needs a terminal" in duet(installed, "/usr/local", "tui").stderr


def test_the_screen_is_whole(installed: Path) -> None:
    home = installed / "usr/local/lib/duet"
    program = "import sys; sys.path[:0] = sys.argv[1:]; import duet_tui.app, pyudev"
    subprocess.run(
        [PYTHON, "-I", "-c", program, home / "library", home / "command"], cwd="/", check=True
    )


def test_programs_find_the_library(installed: Path) -> None:
    """By the line of the .pth file, which leads to nothing but the library."""
    [pth] = (installed / "usr/local/lib").glob("python*/*-packages/duet.pth")
    assert pth.read_text() == "/usr/local/lib/duet/library\n"
    library = installed / "usr/local/lib/duet/library"
    assert {path.name.split("-")[0] for path in library.iterdir()} == {"pyduet", "ioctl_opt"}
    subprocess.run(
        [PYTHON, "-I", "-c", "import sys; sys.path.insert(0, sys.argv[1]); import pyduet", library],
        cwd="/",
        check=True,
    )


def test_everything_has_its_place(installed: Path) -> None:
    local = installed / "usr/local"
    for path in (
        "share/man/man4/duet.4", "share/man/man8/duet.8", "share/doc/duet/install.md",
        "share/doc/duet/LICENSES/MIT.txt", "share/doc/duet/LICENSES/GPL-2.0-only.txt",
        "share/bash-completion/completions/duet", "share/zsh/site-functions/_duet",
        "share/fish/vendor_completions.d/duet.fish", "lib/udev/rules.d/60-duet.rules",
        "lib/sysusers.d/duet.conf", "lib/modules-load.d/duet.conf", "include/duet.h",
    ):  # fmt: skip
        assert (local / path).stat().st_size, path
    for unit in ("duet-setup.service", "duet-task@.service"):
        text = (local / "lib/systemd/system" / unit).read_text()
        assert "=/usr/local/bin/duet " in text
        assert "/usr/bin/duet" not in text
    source = installed / f"usr/src/duet-{pyduet.__version__}"
    assert f'PACKAGE_VERSION="{pyduet.__version__}"' in (source / "dkms.conf").read_text()
    ours = {path.name for path in (TOP / "driver").glob("*.[ch]")}
    assert {path.name for path in source.glob("*.[ch]")} == ours


def test_all_may_read_it(installed: Path) -> None:
    """It was installed with a umask that lets nobody."""
    for path in (installed / "usr").rglob("*"):
        assert path.stat().st_mode & 0o044 == 0o044, path
        assert not path.is_dir() or path.stat().st_mode & 0o011 == 0o011, path


def test_it_is_gone_again(tmp_path: Path) -> None:
    """Also what the command left when it ran, of whichever Python, and an older version."""
    tmp_path.joinpath("etc").mkdir()
    before = set(tmp_path.rglob("*"))
    install("install", tmp_path, "/usr")
    assert len(files(tmp_path)) > 500
    assert duet(tmp_path, "/usr", "--version").returncode == 0
    library = tmp_path / "usr/lib/duet/library"
    program = "import sys; sys.path.insert(0, sys.argv[1]); import pyduet.cli"
    subprocess.run([PYTHON, "-O", "-I", "-c", program, library], check=True)
    # As if an older version had installed more.
    old = tmp_path / "usr/src/duet-0.0.1/uapi/old.h"
    old.parent.mkdir(parents=True)
    old.touch()
    manifest = tmp_path / "usr/lib/duet/installed"
    more = "".join(f"/{p.relative_to(tmp_path)}/\n" for p in (old.parent, old.parent.parent))
    manifest.write_text(manifest.read_text() + more + f"/{old.relative_to(tmp_path)}\n")

    install("install", tmp_path, "/usr")
    assert not (tmp_path / "usr/src/duet-0.0.1").exists()
    install("uninstall", tmp_path, "/usr")
    assert set(tmp_path.rglob("*")) == before
    again = attempt("uninstall", tmp_path, "/usr")
    assert again.returncode == 1
    assert "nothing was installed there" in again.stderr


def test_what_is_somebody_elses_stays(tmp_path: Path) -> None:
    """The header of the same name ends it before anything is changed."""
    header = tmp_path / "usr/local/include/duet.h"
    header.parent.mkdir(parents=True)
    header.write_text("mine")
    done = attempt("install", tmp_path)
    assert done.returncode == 1
    assert str(header) in done.stderr
    assert "not installed by this" in done.stderr
    assert files(tmp_path) == {header: b"mine"}

    header.unlink()
    config = tmp_path / "etc/duet/duet.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[duet]\non = false\n")
    said = install("install", tmp_path, "/opt/duet")
    assert "was changed, and stays" in said
    assert "systemd and udev do not look" in said
    assert "was changed, and stays" in install("uninstall", tmp_path, "/opt/duet")
    assert files(tmp_path) == {config: b"[duet]\non = false\n"}


def test_one_version() -> None:
    driver = (TOP / "driver/main.c").read_text()
    assert f'MODULE_VERSION("{pyduet.__version__}")' in driver
    changelog = (TOP / "debian/changelog").read_text()
    assert changelog.startswith(f"duet ({pyduet.__version__}) ")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the sdist: the wheel made of the sdist, as who has only that does it."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", directory, TOP], check=True, capture_output=True
    )
    return directory


def test_the_wheel(distributions: Path) -> None:
    [wheel] = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = email.message_from_bytes(
            archive.read(next(name for name in names if name.endswith("/METADATA")))
        )
        scripts = archive.read(
            next(name for name in names if name.endswith("/entry_points.txt"))
        ).decode()
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"pyduet", "duet_tui"}
    assert {"pyduet/py.typed", "pyduet/schema/duet.json", "duet_tui/duet.tcss"} <= set(names)
    modules = {
        str(path.relative_to(root))
        for root, package in ((TOP, "pyduet"), (TOP / "tui", "duet_tui"))
        for path in (root / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules
    assert metadata["Version"] == pyduet.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert "duet = pyduet.cli:main" in scripts
    assert (metadata["License"] or metadata["License-Expression"]) == "MIT"
    assert [name for name in names if name.endswith("/MIT.txt")]
    for field in ("Summary", "Author", "Keywords", "Classifier", "License-File"):
        assert metadata[field], field
    assert metadata["Description-Content-Type"] == "text/markdown"
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    assert set(metadata.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    plain = {one for one in metadata.get_all("Requires-Dist", []) if "extra" not in one}
    assert {re.split(r"[<>=]", one)[0] for one in plain} == {
        re.split(r"[<>=]", one)[0] for one in project["dependencies"]
    }


def test_the_wheel_alone(distributions: Path, tmp_path: Path) -> None:
    """In an environment of its own, without the extras."""
    [wheel] = distributions.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path], check=True)
    pip = [tmp_path / "bin/pip", "--disable-pip-version-check", "install", "--quiet", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    done = subprocess.run([tmp_path / "bin/duet", "--version"], capture_output=True, text=True)
    assert done.stdout == f"duet {pyduet.__version__}\n"


def test_the_sdist(distributions: Path) -> None:
    """It has all that is under version control."""
    [sdist] = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=TOP, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    missing = {name for name in tracked if name and "/." not in f"/{name}"} - names
    assert not missing


def test_make_deb_installs_what_the_build_wants() -> None:
    """Debian's builds want build-essential besides, which no Build-Depends names."""
    listed = (TOP / "debian/apt-packages.txt").read_text()
    names = set(re.sub("#.*", "", listed).split())
    control = email.message_from_string((TOP / "debian/control").read_text().partition("\n")[2])
    wanted = re.findall(r"([a-z][a-z0-9.+-]+)(?: \([^)]*\))?,", control["Build-Depends"])
    assert "dh-dkms" in wanted
    assert {name.removesuffix("-compat") for name in wanted} | {"build-essential"} <= names


@pytest.mark.skipif(os.geteuid() != 0, reason="who owns the clone is changed")
def test_root_makes_packages_of_a_users_clone(tmp_path: Path) -> None:
    shutil.copy(TOP / "Makefile", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "Makefile"], cwd=tmp_path, check=True)
    for path in (tmp_path, *tmp_path.rglob("*")):
        os.chown(path, 1000, 1000)
    # Neither an ordinary user's sudo nor a configuration of this machine's is to allow it.
    own = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    made = subprocess.run(
        ["make", "build/deb/source"], cwd=tmp_path, env=own, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert os.listdir(tmp_path / "build/deb/source") == ["Makefile"]
