"""Kernel and initramfs of the guest, made from the unpacked packages.

``prepared`` is the one door: it fetches and builds what is missing; in the cache folder are then
``vmlinux`` (ELF, booted directly), ``initramfs`` (newc, not compressed: both spare an emulated CPU
most of the boot) and ``root`` (the unpacked packages, shared read-only for what is big).
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import shutil
import struct
import tempfile
from pathlib import Path

from tests.interop.kernel.packages import WANTED, SetupError, cache_folder, fetch, output_of

PROGRAMS = (
    "usr/bin/bash",
    "usr/bin/dd",
    "usr/bin/timeout",
    "usr/bin/socat",
    "usr/bin/seq",
    "usr/sbin/blkdiscard",
    "usr/sbin/mke2fs",
    "usr/sbin/e2fsck",
    "usr/sbin/drbdmeta",
    "usr/lib/drbd/drbdadm-84",
    "usr/lib/drbd/drbdsetup-84",
)
"""Copied with the libraries they load."""
FROM_SHARE = ("usr/bin/fio",)
"""Run in place: their libraries are too big for an initramfs."""
MODULES = (
    *("virtio_pci", "virtio_net", "virtio_blk", "crc32c_generic", "crc32c_intel", "drbd"),
    *("ext4", "9p", "9pnet_virtio", "sha1_generic", "md5", "sha256_generic", "hmac"),
)
SHELL_PORT, PROC_PORT, DRBD_PORT = 5000, 5001, 7788
LIBRARIES = "usr/lib/x86_64-linux-gnu"

INIT = f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
mount -t tmpfs none /run; mkdir -p /run/drbd /run/lock /dev/pts; ln -s /proc/self/fd /dev/fd
mount -t devpts none /dev/pts; echo 8 > /proc/sys/kernel/printk
modprobe -a virtio_pci virtio_net virtio_blk crc32c_intel
modprobe drbd minor_count=4 usermode_helper=/usr/sbin/told
hostname kernel; ifconfig lo 127.0.0.1 up
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
ifconfig eth1 10.0.3.15 netmask 255.255.255.0 up
echo guest-is-ready > /dev/ttyS0
options=bind=10.0.3.15,fork,reuseaddr,backlog=32
socat -U TCP-LISTEN:{PROC_PORT},$options OPEN:/proc/drbd,rdonly &
exec socat -t 900 TCP-LISTEN:{SHELL_PORT},$options EXEC:/usr/sbin/serve
"""
SERVE = """#!/bin/sh
# One command for each connection: its time limit on a line, then the script up to the end of input.
script=/run/script.$$; read -r seconds; cat > $script
timeout -k 3 "$seconds" bash $script 2>&1 < /dev/null
printf '\\n:exit:%d:\\n' $?
rm $script
"""
TOLD = """#!/bin/sh
# What the kernel calls for its handlers: noted, and answered with the status in /run/told.NAME.
echo "$*" >> /run/told
[ -e "/run/told.$1" ] && exit "$(cat "/run/told.$1")"
exit 0
"""


def prepared() -> Path:
    """The cache folder with all that a guest boots from."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = cache / "root"
        if _changed(cache / "packages.id", repr(WANTED)) or not root.exists():
            fetch(root)
            _remember(cache / "packages.id", repr(WANTED))
            (cache / "initramfs.id").unlink(missing_ok=True)
        recipe = Path(__file__).read_text()
        if _changed(cache / "initramfs.id", recipe):
            _build(cache, root)
            _remember(cache / "initramfs.id", recipe)
    return cache


def _changed(mark: Path, text: str) -> bool:
    return not mark.exists() or mark.read_text() != hashlib.sha256(text.encode()).hexdigest()


def _remember(mark: Path, text: str) -> None:
    mark.write_text(hashlib.sha256(text.encode()).hexdigest())


def _build(cache: Path, root: Path) -> None:
    versions = sorted(path.name for path in (root / "usr/lib/modules").iterdir())
    if not versions:
        raise SetupError(f"no kernel modules below {root}")
    with tempfile.TemporaryDirectory() as scratch:
        pieces = {
            "initramfs": _initramfs(root, versions[-1], Path(scratch)),
            "vmlinux": elf_of((root / f"boot/vmlinuz-{versions[-1]}").read_bytes()),
        }
    for name, data in pieces.items():  # renamed into place: a guest may be booting from the old one
        (cache / f"{name}.new").write_bytes(data)
        (cache / f"{name}.new").rename(cache / name)


def elf_of(image: bytes) -> bytes:
    """The ELF kernel that a bzImage carries compressed (x86 boot protocol 2.08, xz)."""
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = 512 * (setup_sectors + 1) + offset
    try:
        return lzma.LZMADecompressor().decompress(image[start : start + length])
    except lzma.LZMAError as error:
        raise SetupError(f"the kernel image is not compressed with xz: {error}") from error


class Archive:
    """A newc cpio archive; folders come by themselves."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._there: set[str] = set()

    def __contains__(self, path: str) -> bool:
        return path in self._there

    def entry(
        self, path: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        """One file, link, folder or device; a path that is there already is kept."""
        if path in self._there:
            return
        folder = path.rpartition("/")[0]
        if folder:
            self.entry(folder, 0o040755)
        self._there.add(path)
        name = path.encode() + b"\0"
        numbers = (len(self._there), mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name), 0)
        self._data += b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self._pad()
        self._data += data
        self._pad()

    def program(self, path: str, data: bytes) -> None:
        """An executable file."""
        self.entry(path, 0o100755, data)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.entry(path, 0o120777, target.encode())

    def finished(self) -> bytes:
        """The whole archive."""
        self.entry("TRAILER!!!", 0)
        return bytes(self._data)

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)


def _loader(root: Path) -> list[str]:
    """How a program of the unpacked packages is started with their own libraries."""
    libraries = root / LIBRARIES
    return [
        *(str(libraries / "ld-linux-x86-64.so.2"), "--inhibit-cache"),
        *("--library-path", f"{libraries}:{libraries}/ceph"),
    ]


def _libraries(root: Path, program: Path) -> set[Path]:
    told = output_of(*_loader(root), "--list", program)
    found = {Path(line.split()[2]) for line in told.splitlines() if " => /" in line}
    foreign = [str(path) for path in found if not path.is_relative_to(root)]
    if foreign or "not found" in told:
        raise SetupError(f"libraries of {program.name} are missing: {foreign or told}")
    return found


def _initramfs(root: Path, version: str, scratch: Path) -> bytes:
    archive = Archive()
    for folder in ("proc", "sys", "dev", "run", "tmp", "root", "mnt", "var/lib/drbd", "share"):
        archive.entry(folder, 0o040755)
    for name in ("bin", "sbin", "lib", "lib64"):
        archive.link(name, f"usr/{name}")
    archive.link("var/run", "../run")
    archive.link("var/lock", "../run/lock")
    archive.entry("dev/console", 0o020600, device=(5, 1))
    archive.entry("etc/passwd", 0o100644, b"root:x:0:0:root:/root:/bin/bash\n")
    archive.entry("etc/mke2fs.conf", 0o100644, (root / "etc/mke2fs.conf").read_bytes())
    for path, text in (("init", INIT), ("usr/sbin/serve", SERVE), ("usr/sbin/told", TOLD)):
        archive.program(path, text.encode())
    libraries: set[Path] = set()
    for path in PROGRAMS:
        libraries |= _libraries(root, root / path)
        archive.program(path, (root / path).read_bytes())
    for library in sorted(libraries):
        archive.program(f"{LIBRARIES}/{library.name}", library.read_bytes())
    loader = (root / LIBRARIES / "ld-linux-x86-64.so.2").read_bytes()
    archive.program("usr/lib64/ld-linux-x86-64.so.2", loader)
    for tool in ("drbdadm", "drbdsetup"):
        for name in (tool, f"{tool}-84"):
            archive.link(f"usr/sbin/{name}", f"../lib/drbd/{tool}-84")
    archive.link("usr/sbin/mkfs.ext4", "mke2fs")
    for path in FROM_SHARE:
        archive.program(path, _shared(root, path).encode())
    _busybox(archive, root)
    _modules(archive, root, version, scratch)
    return archive.finished()


def _shared(root: Path, path: str) -> str:
    command = " ".join([*_loader(root), str(root / path)]).replace(str(root), "/share")
    mount = "trans=virtio,version=9p2000.L,msize=262144,cache=loose"
    return (
        "#!/bin/sh\n[ -e /share/usr ] || { modprobe -a 9p 9pnet_virtio; "
        f'mount -t 9p -o ro,{mount} share /share; }}\nexec {command} "$@"\n'
    )


def _busybox(archive: Archive, root: Path) -> None:
    busybox = root / "usr/bin/busybox"
    archive.program("usr/bin/busybox", busybox.read_bytes())
    for applet in output_of(busybox, "--list").split():
        if f"usr/sbin/{applet}" not in archive:
            archive.link(f"usr/bin/{applet}", "busybox")
    archive.link("usr/sbin/modprobe", "../bin/busybox")


def _modules(archive: Archive, root: Path, version: str, scratch: Path) -> None:
    """The wanted modules, what they need, and an index of just those."""
    depmod = [*_loader(root), "--argv0", "depmod", str(root / "usr/bin/kmod"), "-b"]
    output_of(*depmod, root, version)
    everything, chosen = (base / "lib/modules" / version for base in (root, scratch))
    needs: dict[str, list[str]] = {}
    for line in (everything / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    paths = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    builtin = (everything / "modules.builtin").read_text().replace("-", "_")
    for module in MODULES:
        if module not in paths:
            if f"/{module}.ko" not in builtin:
                raise SetupError(f"kernel {version} has no module {module}")
            continue
        for path in (paths[module], *needs[paths[module]]):
            (chosen / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(everything / path, chosen / path)
    for index in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(everything / index, chosen / index)
    output_of(*depmod, scratch, version)
    for path in sorted(p for p in chosen.rglob("*") if p.is_file()):
        archive.entry(f"usr/{path.relative_to(scratch)}", 0o100644, path.read_bytes())
