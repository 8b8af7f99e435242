"""Debian packages for the guest: named here, fetched once, unpacked into a cache, not installed.

The cache is $REPLBLK_INTEROP_CACHE, or ~/.cache/replblk-interop. Needs apt and dpkg-deb, not root.
SetupError says what is missing or failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

WANTED = (
    "linux-image-amd64",
    "bash",
    "busybox-static",
    "coreutils",
    "drbd-utils",
    "e2fsprogs",
    "fio",
    "kmod",
    "socat",
    "util-linux",
)
HOST_PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "tar": "tar",
    "fio": "fio",
    "qemu-io": "qemu-utils",
    "drbdmeta": "drbd-utils",
    "tshark": "tshark",
}
"""Programs that must be on the host, and Debian's packages of them."""
USR_MERGED = ("bin", "sbin", "lib", "lib64")


class SetupError(RuntimeError):
    """The guest can't be prepared; the sentence says why."""


def cache_folder() -> Path:
    """Where everything downloaded and built is kept."""
    chosen = os.environ.get("REPLBLK_INTEROP_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "replblk-interop"


def missing_programs() -> dict[str, str]:
    """Of HOST_PROGRAMS, those that are not there."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return {
        program: package
        for program, package in HOST_PROGRAMS.items()
        if shutil.which(program, path=path) is None
    }


def output_of(*words: str | Path, cwd: Path | None = None) -> str:
    """What a program prints; SetupError if it fails."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise SetupError(
            f"'{' '.join(map(str, words))[:120]}' ended with {done.returncode}: {said}"
        )
    return done.stdout


def fetch(root: Path) -> None:
    """Put the files of WANTED, and of the libraries they need, below *root*."""
    building = root.with_name(root.name + ".new")
    shutil.rmtree(building, ignore_errors=True)
    archives = building / "archives"
    archives.mkdir(parents=True)
    output_of(
        *("apt-get", *sandbox(), "download"),
        *sorted(_closure()),
        cwd=archives,
    )
    for name in USR_MERGED:
        (building / "usr" / name).mkdir(parents=True)
        (building / name).symlink_to(f"usr/{name}")
    for archive in sorted(archives.glob("*.deb")):
        unpack(archive, building)
    shutil.rmtree(archives)
    for unneeded in ("share", "include", "games"):
        shutil.rmtree(building / "usr" / unneeded, ignore_errors=True)
    shutil.rmtree(root, ignore_errors=True)
    building.rename(root)


def sandbox() -> tuple[str, str]:
    """Options of apt-get, which otherwise warns of folders that its own user can't write to."""
    return "-o", f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}"


def _closure() -> set[str]:
    """WANTED with the kernel they stand for, and libraries; not what else Debian ties to them."""
    told = output_of("apt-cache", "depends", "--important", "--recurse", *WANTED)
    names = {line.split(":")[0] for line in told.splitlines() if line[:1].isalnum()}
    libraries = {n for n in names if n.startswith("lib") and "perl" not in n and "python" not in n}
    kernels = [
        word
        for word in output_of("apt-cache", "depends", "linux-image-amd64").split()
        if word.startswith("linux-image-") and word != "linux-image-amd64"
    ]
    if not kernels:
        raise SetupError("apt knows no kernel for linux-image-amd64; run 'apt-get update'")
    return {*WANTED, *libraries, "zlib1g", kernels[0]} - {"linux-image-amd64"}


def unpack(archive: Path, into: Path) -> None:
    """The files of a package. Raises SetupError."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE) as deb:
        packed = subprocess.run(
            ["tar", "--extract", "--keep-directory-symlink", "--no-same-owner", "-C", into],
            stdin=deb.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
    if packed.returncode or deb.returncode:
        raise SetupError(f"{archive.name} can't be unpacked: {packed.stderr.strip()[-500:]}")
